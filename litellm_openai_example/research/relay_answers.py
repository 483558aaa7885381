"""Relay answers: the views, refusals and failures of a relay, this one or another implementation.

Nothing but the ids is required of a view. A missing or ill-typed field gets the most cautious value: an unknown status
is "running", and a time is the moment of reading. Other relays send text and sources in `response` alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from openai import APIConnectionError
from pydantic import ValidationError

from ..calls.answer import as_str, read_cost, read_response, read_sources, sendable
from ..calls.lenient import all_sendable, read_json
from ..config import ConfigurationError, is_visible_ascii, starts_one
from ..diagnosis import tls_problem
from ..error_table import is_web_page
from ..errors import (
    ClosedClientError,
    DeadlineExceededError,
    ErrorKind,
    GatewayError,
    LostAnswerError,
    StillRunningError,
    one_line,
)
from ..http_library import httpx
from ..json_object import JsonObject, within_depth
from ..transport.policy import retry_after
from ..window import may_take_until
from .contract import (
    API_ERRORS,
    INVOCATION_ERRORS,
    INVOCATIONS_PATH,
    TERMINAL,
    AcceptedInvocation,
    Invocation,
    TokenUsage,
)

T = TypeVar("T")
View = TypeVar("View", bound=Invocation)

# Statuses after which a request is repeated.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
# The only codes of a relay with a 5xx status that exclude acceptance. After others a lost commit may have succeeded.
_NOTHING_ACCEPTED = frozenset({"queue_full", "shutting_down"})
# Statuses below 500 that leave open whether a run was accepted, unless a relay's own code says why: see other, request
# timeout, still being processed.
_OPEN_STATUSES = frozenset({303, 408, 409})
_MAX_DETAILS = 3
_NO_RELAY = "is RELAY_BASE_URL the address of a relay?"
_WRONG_PATH = "check the path in RELAY_BASE_URL: the relay's root, as it prints it at its start"
_HINTS = {401: "check RELAY_API_KEY", 403: "check the invocation id and RELAY_INVOCATION_TOKEN"}

# Other words for a terminal status; every unknown word means that the run continues.
_TERMINAL_WORDS = {
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


class RelayError(GatewayError):
    """The relay cannot be reached, or refused a request; `code` is one of the contract's codes."""


class ResearchRunningError(StillRunningError):
    """The deadline passed while the research run continues at the relay; id and token pick it up later."""

    def __init__(self, cause: str, *, invocation_id: str, invocation_token: str) -> None:
        super().__init__(cause)
        self.invocation_id = invocation_id
        self.invocation_token = invocation_token

    @property
    def invocation(self) -> tuple[str, str]:
        """Id and token."""
        return self.invocation_id, self.invocation_token


class ResearchUnconfirmedError(StillRunningError):
    """A research run that may have been accepted: its `POST` was sent to the relay, and no answer confirms it.

    `RelayClient.invoke(error.arguments, idempotency_key=error.idempotency_key)` at the same relay finds the run: a
    repeat under the same key starts no second one while the relay keeps the first.

    Attributes:
        idempotency_key: of the `POST`; left out of `str` and `repr`, because a relay returns the run's token for it.
        arguments: those of the `POST`, complete.
        relay_base_url: the relay that the `POST` was sent to.
    """

    kind = ErrorKind.UNCONFIRMED
    _unknown = "it may have been accepted; a repeat under the same key finds it"

    def __init__(
        self,
        cause: str,
        *,
        idempotency_key: str,
        arguments: Mapping[str, object],
        relay_base_url: str = "",
        **details: Any,
    ) -> None:
        super().__init__(cause, outcome_unknown=True, **details)
        self.idempotency_key = idempotency_key
        self.arguments = dict(arguments)
        self.relay_base_url = relay_base_url


def read_answer(read: Callable[[JsonObject], T], response: httpx.Response) -> T:
    """Return a successful answer as read by `read`. Raise RelayError if it is unreadable, or is a refusal."""
    if response.status_code >= 400:
        raise refusal(response)
    try:
        return read(read_json(response.content))
    except ValueError:
        cause = (
            "a web page answered, not a relay"
            if is_web_page(response.headers, response.content)
            else "the relay's answer cannot be read"
        )
        raise RelayError(cause, status=response.status_code, hint=_NO_RELAY) from None


def refusal(response: httpx.Response) -> RelayError:
    """Return the error for an answer with a status of 400 or more."""
    code, message, hint = None, "", _NO_RELAY
    try:
        body = json.loads(response.content)
        hint = _HINTS.get(response.status_code, "")
        error = body["error"]
        code, message = one_line(str(error["code"])), one_line(str(error["message"]))
        message += _details(error.get("details"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    if response.status_code in PASSING:  # a proxy in front of a restarting relay does not send JSON either
        hint = ""
    address = response.request.url
    if code is None and response.status_code in (404, 405) and address.path.endswith(INVOCATIONS_PATH):
        return RelayError(f"no relay takes a POST at {address}", status=response.status_code, hint=_WRONG_PATH)
    return RelayError("the relay refused", status=response.status_code, code=code, message=message, hint=hint)


def _details(details: object) -> str:
    pairs = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    problems = [one_line(f"{one.get('where')}: {one.get('problem')}") for one in pairs[:_MAX_DETAILS]]
    return f" ({'; '.join(problems)})" if problems else ""


def accepted_nothing(response: httpx.Response, code: str | None) -> bool:
    """Return True if an answer to a `POST`, other than the view of an accepted run, excludes that one was accepted."""
    status = response.status_code
    if status < 300:
        return is_web_page(response.headers, response.content)
    if status in _OPEN_STATUSES:
        return code in API_ERRORS
    return status < 500 or code in _NOTHING_ACCEPTED


def asked_delay(response: httpx.Response) -> float | None:
    """Return the delay before a retry that the answer asks for, in seconds; None if it asks for none."""
    seconds = retry_after(response.headers)
    return None if seconds is None else min(max(seconds, 0.1), 60.0)


def may_have_arrived(error: Exception) -> bool:
    """Return True unless a request that failed with `error` certainly never left; see `transport.policy`."""
    if isinstance(error, LostAnswerError | DeadlineExceededError):
        return error.outcome_unknown
    return not isinstance(error, APIConnectionError | httpx.RequestError | ConfigurationError)


def unreachable(base_url: str, error: Exception) -> RelayError:
    """Return the error for a request that got no answer."""
    place = base_url.partition("://")[2]
    if problem := tls_problem(error, place, "RELAY_BASE_URL"):
        return RelayError(problem[0], hint=problem[1])
    reason = one_line(getattr(error, "what", "") or str(error)) or type(error).__name__
    hint = f"is it running, and is RELAY_BASE_URL right? {starts_one('relay')}"
    return RelayError(f"the relay at {base_url} does not answer: {reason}", hint=hint)


def client_closed(error: ClosedClientError) -> RelayError:
    """Return the error for a call whose client was closed before or during it."""
    return RelayError(error.what, kind=ErrorKind.LOST, outcome_unknown=error.outcome_unknown)


def still_running(
    invocation_id: str, token: str, failure: str = "", view: Invocation | None = None
) -> ResearchRunningError:
    """Return the error for a deadline that passed first.

    Args:
        invocation_id, token: of the run.
        failure: that of the last poll, if it failed.
        view: the last one that was read, if any.
    """
    cause = "the deadline passed while the research run continues" + (f" ({failure})" if failure else "")
    cause += until_words(view, "; it ") if view is not None else ""
    return ResearchRunningError(cause, invocation_id=invocation_id, invocation_token=token)


def until_words(view: Invocation, before: str = ", ") -> str:
    """Return the words for the end of a run's discount window; see `window.may_take_until`."""
    return may_take_until(view.may_take_until.timestamp() if view.may_take_until else None, before)


def read_view(data: JsonObject) -> Invocation:
    """Return the view of an invocation. Raise ValueError if its id is missing or unusable."""
    return _read(Invocation, data)


def read_accepted(data: JsonObject) -> AcceptedInvocation:
    """Return the view of an accepted invocation. Raise ValueError if its id or token is missing or unusable."""
    return _read(AcceptedInvocation, data)


def read_status(value: object) -> str:
    """Return the status of the contract that a relay's word means; "running" if the word is unknown."""
    word = as_str(value).strip().lower()
    word = _TERMINAL_WORDS.get(word, word)
    return word if word in TERMINAL or word == "queued" else "running"


def _read(model: type[View], received: JsonObject) -> View:
    whole, received = received, within_depth(received)
    # A broken id is left as it is, and refused: repaired, it would be the id of another run.
    ids = {name: received[name] for name in ("invocation_id", "invocation_token") if name in received}
    data = all_sendable(received) | ids
    response = data["response"] if isinstance(data.get("response"), dict) else None
    if response is not None and received is not whole:
        response = {**response, "shortened": True}
    # Read before surrogates are replaced: two parts of the text may hold the two halves of a character.
    answer = read_response(received.get("response"))
    text = as_str(data.get("output_text")) or sendable(answer.text) or as_str((response or {}).get("output_text"))
    sources = read_sources(data.get("sources")) or answer.sources
    now = datetime.now(UTC)
    defaults = {"mode": "background", "deliverable_format": "markdown_brief"}
    given = {name: data[name] for name in model.model_fields if data.get(name) is not None}
    read = {
        "status": "completed" if text and data.get("status") is None else read_status(data.get("status")),
        "output_text": text or None,
        "sources": [{"url": page.url, "title": sendable(page.title)} for page in sources],
        "cost_usd": _cost(data.get("cost_usd"), (response or {}).get("cost_usd")),
        "usage": TokenUsage.read(data.get("usage")) or TokenUsage.read((response or {}).get("usage")),
        "response": response,
        "error_code": _code(data),
        "error_message": _message(data),
        "may_take_until": _time(data.get("may_take_until")),
        **{name: _time(data.get(name)) or now for name in ("created_at", "updated_at")},
    }
    if "url" in data:  # unset, it tells a relay without pages from one that does not know its public address
        read["url"] = _page(data["url"])
    # One bad field must not cost the whole view: it is left out in a second attempt.
    try:
        return model.model_validate({**defaults, **given, **read})
    except ValidationError as error:
        unusable = {str(problem["loc"][0]) for problem in error.errors(include_url=False)}
    kept = {name: value for name, value in {**given, **read}.items() if name not in unusable}
    return model.model_validate({**defaults, **kept})


def _page(value: object) -> str | None:
    url = as_str(value)
    return url if url.startswith(("https://", "http://")) and is_visible_ascii(url) else None


def _cost(*values: object) -> float | None:
    return next((cost for value in values if (cost := read_cost(value)) is not None), None)


def _code(data: JsonObject) -> str | None:
    code = as_str(data.get("error_code"))
    return code if code in INVOCATION_ERRORS else None


def _message(data: JsonObject) -> str | None:
    # A code that the contract does not have goes into the message.
    code, message = as_str(data.get("error_code")), one_line(as_str(data.get("error_message")))
    if code and code not in INVOCATION_ERRORS:
        message = f"{one_line(code)}: {message}" if message else one_line(code)
    return message or None


def _time(value: object) -> datetime | None:
    try:
        read = datetime.fromisoformat(as_str(value))
    except ValueError:
        return None
    if not 1970 < read.year < 9000:  # years at the ends of the calendar do not exist in every time zone
        return None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
