"""Who may do what: the relay's key starts runs, a run's token reads and cancels it. Dependencies of the routes."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from ...research.contract import TOKEN_HEADER
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
    if key is not None and not (given is not None and _same(given.credentials.strip(), key)):
        raise Problem("unauthorized")


async def may_read(invocation_id: str, request: Request, token: Annotated[str | None, Security(_token)] = None) -> str:
    """The invocation's id. Raises Problem unless the client has its token.

    Checked without the ledger: neither the answer nor its time tells whether the invocation exists.
    """
    if not _same(token or "", relay_of(request).ledger.token(invocation_id)):
        raise Problem("forbidden")
    return invocation_id


Readable = Annotated[str, Depends(may_read)]


def _same(given: str, right: str) -> bool:
    """Whether two secrets are the same; takes as long whatever the difference."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())
