"""What a client is told when a request is not carried out: the contract's one form, whoever raised it."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ...research.contract import ErrorDetail
from ..ledger.failures import LedgerUnavailable
from .body import MOST_DETAILS, Problem
from .guard import error_response


def answer_errors(app: FastAPI) -> None:
    """Give `app` its exception handlers."""

    @app.exception_handler(Problem)
    async def _(_: Request, problem: Problem) -> Response:
        return error_response(problem)

    @app.exception_handler(LedgerUnavailable)
    async def _(_: Request, __: LedgerUnavailable) -> Response:
        return error_response(Problem("ledger_unavailable", retry_after=1))

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        """A header, or a parameter of the path or the query: what was sent is not repeated."""
        details = [ErrorDetail(where=_place(one["loc"]), problem=one["msg"]) for one in error.errors()[:MOST_DETAILS]]
        return error_response(Problem("invalid_request", details=details))

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> Response:
        """The framework's own: there is no such route, or not with this method."""
        response = error_response(Problem("method_not_allowed" if error.status_code == 405 else "not_found"))
        response.headers.update(error.headers or {})  # `Allow`
        return response

    @app.exception_handler(Exception)
    async def _(_: Request, __: Exception) -> Response:
        """`Guard` gets it too, and logs it."""
        return error_response(Problem("internal_error"))


def _place(location: tuple[object, ...]) -> str:
    return str(location[-1]) if location[0] == "header" else ".".join(map(str, location))
