"""Who may do what: the relay's key starts runs, a run's token reads and cancels it. Dependencies of the routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from ...research.contract import TOKEN_HEADER
from ..ledger.records import Record
from ..ledger.tokens import same
from ..relay import Relay
from .body import Problem

_bearer = HTTPBearer(auto_error=False, description="`RELAY_API_KEY`, if the relay has one.")
_token = APIKeyHeader(name=TOKEN_HEADER, auto_error=False, description="As `POST` returned it.")


def relay_of(request: Request) -> Relay:
    """The relay that this application belongs to."""
    relay: Relay = request.app.state.relay
    return relay


async def may_pay(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None
) -> None:
    """Raises Problem unless the client has the relay's key, where there is one."""
    key = relay_of(request).settings.api_key
    if key is not None and not (given is not None and same(given.credentials.strip(), key)):
        raise Problem("unauthorized")


async def may_read(
    invocation_id: str, request: Request, token: Annotated[str | None, Security(_token)] = None
) -> Record:
    """Return the invocation as it is now.

    A token that this ledger never gave is refused before the database is asked: neither the answer nor its time tells
    whether the invocation exists.

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


Readable = Annotated[Record, Depends(may_read)]
