"""What stands before the routes: who may speak to this relay at all, and what leaves it when something breaks."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...config import names_loopback
from ..log import kind_and_place, log
from .body import Problem

_LINGER_BYTES = 64 * 1024 * 1024
_LINGER_SECONDS = 2.0
_BEFORE_THE_BODY = ("body_too_large", "request_timeout", "invalid_http")
PROBES = ("/healthz", "/readyz")


def error_response(problem: Problem) -> Response:
    """The answer to a request that is not carried out."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.code == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    kind = _Lingering if problem.code in _BEFORE_THE_BODY else Response
    return kind(problem.body.model_dump_json(), problem.status, headers, media_type="application/json")


class Guard:
    """Checks the Host header, adds the headers that every answer has, and keeps what breaks inside.

    Args:
        app: the routes.
        loopback: the relay listens on this machine's loopback address only. Then a web page that makes its own
            name point there (DNS rebinding) gives itself away by the name it asks for.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self._app = app
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            problem = self._refusal(scope, Headers(scope=scope))
            app = self._app if problem is None else error_response(problem)
            await app(scope, receive, send_with_headers)
        except Exception as error:
            # Not its text: that may repeat what a client or the gateway sent.
            log.error("a request failed with %s", kind_and_place(error))
            if not begun:
                await error_response(Problem("internal_error"))(scope, receive, send_with_headers)
        return None

    def _refusal(self, scope: Scope, headers: Headers) -> Problem | None:
        hosts = headers.getlist("host")
        # Two lengths, or two hosts, are how a request is smuggled past a proxy that believes the other one.
        if len(hosts) > 1 or ("content-length" in headers and "transfer-encoding" in headers):
            return Problem("invalid_http")
        # A probe may not know the name, and learns nothing.
        if self._loopback and scope["path"] not in PROBES and not names_loopback("".join(hosts)):
            return Problem("host_not_allowed")
        return None


class _Lingering(Response):
    """An answer that comes before the body has been read.

    To close at once would reset the connection, and the client, still sending, would never see the answer. So what
    it sends is read and thrown away for a while.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = _LINGER_BYTES
        # Who waits to be told to go on sends nothing.
        more = Headers(scope=scope).get("expect", "").lower() != "100-continue"
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while more and left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    more = bool(message.get("more_body", False))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
