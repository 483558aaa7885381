"""A gateway or relay on pytest-httpserver: JSON, statuses, headers, streams and delays.

Answers that break HTTP go to the socket through `raw.send`. Each connection serves one request; tests of kept-alive
connections use `raw.RawServer`.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from ssl import SSLContext
from typing import Self

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from . import raw
from .scripted import Answer, Script, ScriptedServer, Seen


class _Server(HTTPServer):
    def thread_target(self) -> None:
        assert self.server is not None
        self.server.serve_forever(poll_interval=0.01)  # its end waits for one poll, by default half a second


class FakeGateway(ScriptedServer):
    """The server, with a thread per request."""

    def __init__(self, script: Script | None = None, port: int = 0, tls: SSLContext | None = None) -> None:
        super().__init__(script)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request would be in captured stderr
        self._tls = tls
        self._stopped = threading.Event()
        self._server = _Server("127.0.0.1", port, tls, threaded=True)
        self._server.expect_request(re.compile("")).respond_with_handler(self._answer)

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return super().url if self._tls is None else f"https://localhost:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._server.stop()
        if exc[:1] == (None,):
            self._server.check()  # a script that failed, fails its test

    def _answer(self, request: Request) -> Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(request.method, request.environ["RAW_URI"], headers, request.get_data())
        self.seen.append(seen)
        answer = self.script(seen)
        if answer.breaks_http:
            return Response(self._break(request.environ["werkzeug.socket"], answer))
        if self._stopped.wait(answer.pause):
            return Response(self._break(request.environ["werkzeug.socket"], Answer(drop=True)))
        response = Response(self._events(answer) if answer.events else answer.body, answer.status)
        del response.headers["content-type"]
        response.headers.update(answer.headers)
        return response

    def _events(self, answer: Answer) -> Iterator[bytes]:
        for pause, event in answer.events:
            if self._stopped.wait(pause):
                raise ConnectionAbortedError
            yield event

    def _break(self, connection: socket.socket, answer: Answer) -> Iterator[bytes]:
        """Answer on the raw connection, bypassing the server."""
        raw.send(connection, answer, self._stopped)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError
        yield b""  # type: ignore[unreachable]  # makes this a generator: the server calls it before it writes a head
