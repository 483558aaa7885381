"""Who pays for a run, as the headers of its start say. A dependency of the routes that start one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Request

from ...config import ConfigurationError
from ...payer import END_USER_HEADER, LONGEST_NAME, MOST_TAGS, SESSION_HEADER, TAGS_HEADER, Payer
from .body import bad_header


def _for_the_gateway(name: str, description: str, pattern: str) -> Any:
    """A header that `Payer` checks; `pattern` documents what it takes."""
    return Header(alias=name, description=f"For the gateway{description}.", json_schema_extra={"pattern": pattern})


_TAG = f"[!-+\\--~]{{1,{LONGEST_NAME}}}"
_TAGS = _for_the_gateway(TAGS_HEADER, "; separated by commas", f"^{_TAG}(,{_TAG}){{0,{MOST_TAGS - 1}}}$")
_END_USER = _for_the_gateway(END_USER_HEADER, "", f"^[!-~]{{1,{LONGEST_NAME}}}$")
_SESSION = _for_the_gateway(SESSION_HEADER, "", f"^[!-~]{{1,{LONGEST_NAME}}}$")


async def who_pays(
    request: Request,
    tags: Annotated[str | None, _TAGS] = None,
    end_user: Annotated[str | None, _END_USER] = None,
    session: Annotated[str | None, _SESSION] = None,
) -> Payer:
    """For whom the gateway is to bill the run. Raises Problem for what cannot be passed on."""
    given = {TAGS_HEADER: tags, END_USER_HEADER: end_user, SESSION_HEADER: session}
    for name, value in given.items():
        if len(request.headers.getlist(name)) > 1:
            raise bad_header(name, "is there more than once")
        try:
            Payer.of({name: value})
        except ConfigurationError as error:
            raise bad_header(name, str(error)) from None
    return Payer.of(given)
