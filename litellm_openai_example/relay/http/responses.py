"""Answers of the API: bodies in bounded pieces, and every error in the contract's one form, wherever it was raised."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...research.contract import API_ERRORS, ApiError, ApiErrorCode, ErrorBody, ErrorDetail
from ..ledger.failures import LedgerUnavailable

MOST_DETAILS = 10
_PIECE = 64 * 1024
_LINGER_BYTES = 64 * 1024 * 1024
_LINGER_SECONDS = 2.0
_BEFORE_THE_BODY = ("body_too_large", "request_timeout", "invalid_http")


def in_pieces(content: bytes) -> Iterator[memoryview]:
    """Yield `content` piece by piece without copying: a client that stops reading holds up one piece, not megabytes."""
    whole = memoryview(content)
    for start in range(0, len(whole), _PIECE):
        yield whole[start : start + _PIECE]


class JsonResponse(Response):
    """An encoded body, usually JSON, sent in pieces."""

    media_type = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _PIECE:
            return await super().__call__(scope, receive, send)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # Uvicorn's `send` waits while the client does not read, but only between pieces.
        for piece in in_pieces(bytes(self.body)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        return await send({"type": "http.response.body", "body": b"", "more_body": False})


class Problem(Exception):
    """A request that cannot be served.

    Args:
        code: one of the contract's.
        message: replaces the usual message of the code.
        details: the errors and their places.
        retry_after: seconds after which a retry may succeed.
    """

    def __init__(
        self,
        code: ApiErrorCode,
        message: str | None = None,
        *,
        details: list[ErrorDetail] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(code)
        self.code: ApiErrorCode = code
        self.status, usual = API_ERRORS[code]
        self.message = message or usual
        self.details = details or []
        self.retry_after = retry_after

    @property
    def body(self) -> ErrorBody:
        """The body of the answer."""
        return ErrorBody(error=ApiError(code=self.code, message=self.message, details=self.details))


def bad_header(name: str, problem: str) -> Problem:
    """Return the problem of an invalid header."""
    return Problem("invalid_request", details=[ErrorDetail(where=name, problem=problem)])


def error_response(problem: Problem) -> Response:
    """Return the answer to a request that cannot be served."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.code == "shutting_down":
        headers["Connection"] = "close"  # on a new connection, a load balancer can choose another replica
    if problem.code == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    kind = _Lingering if problem.code in _BEFORE_THE_BODY else Response
    return kind(problem.body.model_dump_json(), problem.status, headers, media_type="application/json")


class _Lingering(Response):
    """An answer sent before the body has been read.

    Closing at once would reset the connection, and a client that is still sending would never see the answer. So its
    body is read and discarded for a while.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = _LINGER_BYTES
        # A client that expects "100 Continue" sends nothing without it.
        more = Headers(scope=scope).get("expect", "").lower() != "100-continue"
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while more and left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    more = bool(message.get("more_body", False))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def answer_errors(app: FastAPI) -> None:
    """Install the exception handlers of `app`."""

    @app.exception_handler(Problem)
    async def _(_: Request, problem: Problem) -> Response:
        return error_response(problem)

    @app.exception_handler(LedgerUnavailable)
    async def _(_: Request, __: LedgerUnavailable) -> Response:
        return error_response(Problem("ledger_unavailable", retry_after=1))

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        # A header, or a parameter of the path or query. The value that was sent is not repeated.
        details = [ErrorDetail(where=_place(one["loc"]), problem=one["msg"]) for one in error.errors()[:MOST_DETAILS]]
        return error_response(Problem("invalid_request", details=details))

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> Response:
        # The framework's: no such route, or not with this method.
        response = error_response(Problem("method_not_allowed" if error.status_code == 405 else "not_found"))
        response.headers.update(error.headers or {})  # `Allow`
        return response

    @app.exception_handler(Exception)
    async def _(_: Request, __: Exception) -> Response:
        return error_response(Problem("internal_error"))  # the framework raises it again, for `Guard` to log


def _place(location: tuple[object, ...]) -> str:
    return str(location[-1]) if location[0] == "header" else ".".join(map(str, location))
