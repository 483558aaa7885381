"""A request that asks for another protocol (`Upgrade: h2c`, `websocket`), read as if it had not asked.

Java's HttpClient and `curl --http2` ask with every first request, bodies included. A server may ignore the wish (RFC
9110, 7.8), but httptools ends the request where its head ends and never reads the body.
"""

from __future__ import annotations

from array import array
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HttpTools(HttpToolsProtocol):
    """Uvicorn's connection on httptools, which never upgrades."""

    parser: _Parser

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.use_new_parser()

    def use_new_parser(self) -> None:
        """Read on with a parser that expects the beginning of a request."""
        self.parser = _Parser(self)
        # As uvicorn sets its own: a pipelined request is answered although more follows it.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    @property
    def head_without_upgrade(self) -> bytes:
        """The head of the current request as the parser has reported it, but for the wish."""
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        if not self.parser.asks_for_upgrade:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.asks_for_upgrade:
            super().on_message_complete()


class _Parser(httptools.HttpRequestParser):
    """A parser that hands a request with such a wish to its successor, without the wish."""

    def __init__(self, connection: HttpTools) -> None:
        super().__init__(connection)
        self._connection = connection

    @property
    def asks_for_upgrade(self) -> bool:
        # To httptools CONNECT is an upgrade too, one that no header asks for.
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
        parser, rest = self, memoryview(data)
        while (end := parser.feed_request(rest)) is not None:  # no recursion: a client may pipeline thousands
            head, rest = self._connection.head_without_upgrade, rest[end:]
            self._connection.use_new_parser()
            parser = self._connection.parser
            parser.feed_request(memoryview(head))

    def feed_request(self, data: memoryview) -> int | None:
        """Parse `data`; return where the head of a request ends that asks for an upgrade, None if there is none."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.asks_for_upgrade:
                return int(upgrade.args[0])
            raise
        return None
