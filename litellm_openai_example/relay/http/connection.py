"""One connection of a client, who may be a stranger: it costs a bounded amount, for a bounded time.

Uvicorn bounds only the pause between two requests. Whoever says nothing, drips the head of a request, or asks for a
large answer and does not read it, would be kept for ever. Both of uvicorn's protocols (h11, and httptools where that is
installed) have the names that are used here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .body import Problem

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Http
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as Http

    if Http.__name__ == "HttpToolsProtocol":
        from .upgrade import HttpTools as Http

HEAD_SECONDS = 10.0  # from the first byte (or the connection) to the end of a request's head
HEAD_BYTES = 64 * 1024
STUCK_SECONDS = 20.0  # in which a reader has to take something of what waits for it


class BoundedConnection(Http):
    """Uvicorn's connection with these limits."""

    _head_timer: asyncio.TimerHandle | None = None
    _stuck_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_request():
            self._head_bytes = 0
            self._cancel_head_timer()
        elif not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("")
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the contract has words of its own
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
        """Close the connection; what is not read soon is thrown away."""
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
