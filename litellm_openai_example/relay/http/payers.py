"""Who pays for a run, as the headers of its start say; read and documented by hand (why: see `routes.py`)."""

from __future__ import annotations

from fastapi import Request

from ...config import ConfigurationError
from ...json_object import JsonObject
from ...payer import END_USER_HEADER, LONGEST_NAME, MOST_TAGS, NOBODY, SESSION_HEADER, TAGS_HEADER, Payer
from .body import bad_header

_TAG = f"[!-+\\--~]{{1,{LONGEST_NAME}}}"
_NAME = f"^[!-~]{{1,{LONGEST_NAME}}}$"
_PATTERNS = {
    TAGS_HEADER: f"^{_TAG}(,{_TAG}){{0,{MOST_TAGS - 1}}}$",
    END_USER_HEADER: _NAME,
    SESSION_HEADER: _NAME,
}
PARAMETERS: list[JsonObject] = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": pattern},
        "description": f"For the gateway{'; separated by commas' if name == TAGS_HEADER else ''}.",
    }
    for name, pattern in _PATTERNS.items()
]
"""As OpenAPI describes them."""


def payer_of(request: Request) -> Payer:
    """For whom the gateway is to bill the run. Raises Problem for what cannot be passed on."""
    given = {name: value for name in _PATTERNS if (value := request.headers.get(name)) is not None}
    for name, value in given.items():
        if len(request.headers.getlist(name)) > 1:
            raise bad_header(name, "is there more than once")
        try:
            Payer.of({name: value})
        except ConfigurationError as error:
            raise bad_header(name, str(error)) from None
    return Payer.of(given) if given else NOBODY
