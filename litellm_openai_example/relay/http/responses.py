"""Answers in bounded pieces: a client that stops reading holds up one piece, not a copy of a result of megabytes."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_PIECE = 64 * 1024


def in_pieces(content: bytes) -> Iterator[memoryview]:
    """`content` without copies of it."""
    whole = memoryview(content)
    for start in range(0, len(whole), _PIECE):
        yield whole[start : start + _PIECE]


class BoundedResponse(Response):
    """What is encoded already, sent in pieces."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _PIECE:
            return await super().__call__(scope, receive, send)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in in_pieces(bytes(self.body)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        return await send({"type": "http.response.body", "body": b"", "more_body": False})


class JsonResponse(BoundedResponse):
    """JSON that is encoded already."""

    media_type = "application/json"
