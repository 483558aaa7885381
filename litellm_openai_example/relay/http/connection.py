"""A connection of an untrusted client, bounded in memory and in time.

Uvicorn limits only the pause between two requests. It would keep a client forever that sends nothing, drips the head of
a request, or requests a large answer without reading it.

Requests for another protocol (`Upgrade: h2c`, `websocket`) are served without the upgrade. Java's HttpClient and
`curl --http2` send one with every first request, bodies included. A server may ignore it (RFC 9110, 7.8), but httptools
ends such a request with its head and never reads the body.
"""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .responses import Problem

HEAD_SECONDS = 10.0  # from the first byte (or the connect) to the end of a request's head
HEAD_BYTES = 64 * 1024
STUCK_SECONDS = 20.0  # within which a reader must take something of the buffered answer


class BoundedConnection(HttpToolsProtocol):
    """Uvicorn's connection within these limits, without upgrades."""

    parser: _Parser
    _head_timer: asyncio.TimerHandle | None = None
    _stuck_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _unread = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.use_new_parser()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_request():
            self._head_bytes = 0
            self._cancel_head_timer()
        # One timer for the whole head: bytes that drip in do not extend it.
        elif not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("")
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the contract has its own message
        if not (self._in_request() and self.cycle.response_started):
            problem = Problem("invalid_http")
            content = problem.body.model_dump_json().encode()
            head = f"HTTP/1.1 {problem.status} Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        self._end()

    def timeout_keep_alive_handler(self) -> None:
        self._end()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        self._stuck_timer = self.loop.call_later(STUCK_SECONDS, self._check_reader)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stuck_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        self._cancel_stuck_timer()
        super().connection_lost(exc)

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _check_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= self._unread:
            self.transport.abort()
        else:  # slow, but reading
            self._unread = left
            self._stuck_timer = self.loop.call_later(STUCK_SECONDS, self._check_reader)

    def _end(self) -> None:
        """Close the connection, and discard the answer if it is not read soon."""
        # `close` waits for the buffer to drain, and a client that does not read would keep it forever.
        self._cancel_head_timer()
        self.transport.close()
        self.loop.call_later(STUCK_SECONDS, self.transport.abort)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cancel_stuck_timer(self) -> None:
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
            self._stuck_timer = None

    # Upgrades

    def use_new_parser(self) -> None:
        """Continue with a parser that expects the beginning of a request."""
        self.parser = _Parser(self)
        # As on uvicorn's own parser: a pipelined request is answered although more follows it.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    @property
    def head_without_upgrade(self) -> bytes:
        """The head of the current request as the parser has reported it, without its `Upgrade`."""
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
    """A parser that hands a request with `Upgrade` to its successor, without that header."""

    def __init__(self, connection: BoundedConnection) -> None:
        super().__init__(connection)
        self._connection = connection

    @property
    def asks_for_upgrade(self) -> bool:
        # Httptools counts CONNECT as an upgrade too, which no header asks for.
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
        parser, rest = self, memoryview(data)
        while (end := parser.feed_request(rest)) is not None:  # a loop: a client may pipeline thousands
            head, rest = self._connection.head_without_upgrade, rest[end:]
            self._connection.use_new_parser()
            parser = self._connection.parser
            parser.feed_request(memoryview(head))

    def feed_request(self, data: memoryview) -> int | None:
        """Parse `data`. At a request for an upgrade, stop and return the end of its head; otherwise return None."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.asks_for_upgrade:
                return int(upgrade.args[0])
            raise
        return None
