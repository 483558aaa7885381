"""Reading what a relay answers, this one's or another's: what it does not send, or sends in another form, is not
demanded.

Only the ids must be there. A field that is missing or of another type has the value that says the least: a state that
is not known is "running", a time the moment of reading. Other relays keep text and sources in `response` alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from ..calls.answer import as_str, read_cost, read_response, read_sources, sendable
from ..calls.lenient import all_sendable
from ..errors import one_line
from ..json_object import JsonObject, within_depth
from .contract import INVOCATION_ERRORS, TERMINAL, AcceptedInvocation, Invocation

View = TypeVar("View", bound=Invocation)

# Other words for the end; every word that is not known means that it goes on.
_ENDS = {
    "canceled": "cancelled",
    "succeeded": "completed",
    "success": "completed",
    "done": "completed",
    "finished": "completed",
    "error": "failed",
    "errored": "failed",
    "failure": "failed",
    "expired": "failed",
    "timeout": "failed",
    "timed_out": "failed",
}


def read_view(data: JsonObject) -> Invocation:
    """The view of an invocation. Raises ValueError where it holds no id that can be used."""
    return _read(Invocation, data)


def read_accepted(data: JsonObject) -> AcceptedInvocation:
    """The answer to a start. Raises ValueError where id or token cannot be used."""
    return _read(AcceptedInvocation, data)


def read_status(value: object) -> str:
    """A word for a state, as one of the contract's; "running" where it is none."""
    word = as_str(value).strip().lower()
    word = _ENDS.get(word, word)
    return word if word in TERMINAL or word == "queued" else "running"


def _read(model: type[View], received: JsonObject) -> View:
    whole, received = received, within_depth(received)
    # An id that is broken is none: mended, it would be another's.
    ids = {name: received[name] for name in ("invocation_id", "invocation_token") if name in received}
    data = all_sendable(received) | ids
    response = data["response"] if isinstance(data.get("response"), dict) else None
    if response is not None and received is not whole:
        response = {**response, "shortened": True}
    answer = read_response(received.get("response"))  # the two halves of a character may lie in two parts of its text
    text = as_str(data.get("output_text")) or sendable(answer.text) or as_str((response or {}).get("output_text"))
    sources = read_sources(data.get("sources")) or answer.sources
    now = datetime.now(UTC)
    least = {"mode": "background", "deliverable_format": "markdown_brief"}
    given = {name: data[name] for name in model.model_fields if data.get(name) is not None}
    read = {
        "status": "completed" if text and data.get("status") is None else read_status(data.get("status")),
        "output_text": text or None,
        "sources": [{"url": page.url, "title": sendable(page.title)} for page in sources],
        "cost_usd": _cost(data.get("cost_usd"), (response or {}).get("cost_usd")),
        "response": response,
        "error_code": _code(data),
        "error_message": _message(data),
        **{name: _time(data.get(name)) or now for name in ("created_at", "updated_at")},
    }
    try:
        return model.model_validate({**least, **given, **read})
    except ValidationError as error:
        unusable = {str(problem["loc"][0]) for problem in error.errors(include_url=False)}
    kept = {name: value for name, value in {**given, **read}.items() if name not in unusable}
    return model.model_validate({**least, **kept})


def _cost(*values: object) -> float | None:
    return next((cost for value in values if (cost := read_cost(value)) is not None), None)


def _code(data: JsonObject) -> str | None:
    code = as_str(data.get("error_code"))
    return code if code in INVOCATION_ERRORS else None


def _message(data: JsonObject) -> str | None:
    code, message = as_str(data.get("error_code")), one_line(as_str(data.get("error_message")))
    if code and code not in INVOCATION_ERRORS:
        message = f"{one_line(code)}: {message}" if message else one_line(code)
    return message or None


def _time(value: object) -> datetime | None:
    try:
        read = datetime.fromisoformat(as_str(value))
    except ValueError:
        return None
    if not 1970 < read.year < 9000:  # the calendar's first and last years cannot be told in every time zone
        return None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
