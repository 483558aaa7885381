"""Access control: the hosts that the relay answers for, the key that starts runs, their payer, and the run's token."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...config import ConfigurationError, names_loopback
from ...json_object import JsonObject
from ...payer import END_USER_HEADER, LONGEST_NAME, MOST_TAGS, NOBODY, SESSION_HEADER, TAGS_HEADER, Payer
from ...research.contract import TOKEN_HEADER
from ..ledger.records import Record
from ..ledger.tokens import same
from ..log import kind_and_place, log
from ..service import Relay
from .responses import Problem, bad_header, error_response

_PROBES = ("/healthz", "/readyz")

_bearer = HTTPBearer(auto_error=False, description="`RELAY_API_KEY`, if the relay has one.")
_token = APIKeyHeader(name=TOKEN_HEADER, auto_error=False, description="As `POST` returned it.")

_TAG = f"[!-+\\--~]{{1,{LONGEST_NAME}}}"
_NAME = f"^[!-~]{{1,{LONGEST_NAME}}}$"
_PAYER_HEADERS = {
    TAGS_HEADER: f"^{_TAG}(,{_TAG}){{0,{MOST_TAGS - 1}}}$",
    END_USER_HEADER: _NAME,
    SESSION_HEADER: _NAME,
}
PAYER_PARAMETERS: list[JsonObject] = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": pattern},
        "description": f"For the gateway's records{'; comma-separated' if name == TAGS_HEADER else ''}.",
    }
    for name, pattern in _PAYER_HEADERS.items()
]
"""The headers of a payer as OpenAPI describes them."""


def relay_of(request: Request) -> Relay:
    """Return the relay that serves this request."""
    relay: Relay = request.app.state.relay
    return relay


async def require_key(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None
) -> None:
    """Raise Problem unless the client sends one of the relay's keys, if it has any."""
    keys, sent = relay_of(request).settings.api_keys, "" if given is None else given.credentials.strip()
    # `same` compares in constant time, and all keys are compared: the time of an answer reveals none.
    if keys and not any([same(sent, key) for key in keys]):  # noqa: C419 - `any` of a generator stops at the first
        raise Problem("unauthorized")


async def find_invocation(
    invocation_id: str, request: Request, token: Annotated[str | None, Security(_token)] = None
) -> Record:
    """Return the current record of the invocation.

    A token that this ledger never issued is refused without a query: neither the answer nor its timing shows whether
    the invocation exists.

    Raises:
        Problem: the token is not the invocation's, or the invocation has been deleted.
        LedgerUnavailable
    """
    relay, token = relay_of(request), token or ""
    if not relay.ledger.tokens.is_of_ledger(token, invocation_id):
        raise Problem("forbidden")
    record = await relay.get(invocation_id)
    if record is None:
        raise Problem("not_found", "This invocation has been deleted: it ended longer ago than results are kept.")
    if not relay.ledger.tokens.opens(token, record):
        raise Problem("forbidden")
    return record


Readable = Annotated[Record, Depends(find_invocation)]


def payer_of(request: Request) -> Payer:
    """Return the payer that the gateway bills for the run. Raises Problem for an invalid header."""
    given = {name: value for name in _PAYER_HEADERS if (value := request.headers.get(name)) is not None}
    for name, value in given.items():
        # Picking one of two would bill a payer whom the client may not have meant.
        if len(request.headers.getlist(name)) > 1:
            raise bad_header(name, "occurs more than once")
        try:
            Payer.of({name: value})
        except ConfigurationError as error:
            raise bad_header(name, str(error)) from None
    return Payer.of(given) if given else NOBODY


class Guard:
    """Middleware around all routes: checks the Host header, adds headers to every answer, contains exceptions.

    Args:
        app: the routes.
        loopback: True if the relay listens on a loopback address only. A web page that points its own host name there
            (DNS rebinding) is then recognized by that name.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self._app = app
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = False  # the status line is sent, so an error can no longer become an answer

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
            # Only the kind: the text may repeat input of a client or the gateway.
            log.error("a request failed with %s", kind_and_place(error))
            if not begun:
                await error_response(Problem("internal_error"))(scope, receive, send_with_headers)
        return None

    def _refusal(self, scope: Scope, headers: Headers) -> Problem | None:
        hosts = headers.getlist("host")
        # Two lengths or two hosts smuggle a request past a proxy that believes the other one.
        if len(hosts) > 1 or ("content-length" in headers and "transfer-encoding" in headers):
            return Problem("invalid_http")
        # A health probe may use another name, and its answer reveals nothing.
        if self._loopback and scope["path"] not in _PROBES and not names_loopback("".join(hosts)):
            return Problem("host_not_allowed")
        return None
