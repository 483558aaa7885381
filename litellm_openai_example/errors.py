"""The exceptions of the package, with messages for people and exit codes.

Drop-in users get the SDK's exceptions unchanged; those that are raised here under the SDK are subclasses of them. The
client and the command raise `GatewayError`, whose text is one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from traceback import clear_frames
from typing import Any, ClassVar, NoReturn

import openai

from .config import ConfigurationError, redact_text
from .http_library import httpx

INTERNAL_ERROR = "hit an internal error"  # the message for a fault of this program
UNKNOWN = "the outcome is unknown: it may have been executed, and it was not sent again"
_LONGEST = 600


class ErrorKind(StrEnum):
    """The kind of a failure, for programs to branch on. Messages may change, kinds do not.

    The value of each kind is its name in lower case.

    Attributes:
        BUDGET: the budget or quota of this gateway key is spent.
        BAD_KEY: the gateway does not accept or know this key.
        PROVIDER_KEY: the provider does not accept the gateway's own key.
        FORBIDDEN: this key lacks the permission.
        UNKNOWN_MODEL: the gateway has no such model for this key.
        UNKNOWN_RESPONSE: the gateway does not know that response id.
        NOT_FOUND: 404 for something that it does not name.
        NOT_SUPPORTED: this gateway never supports that for this model.
        UNSUPPORTED_TOOL: the model refuses the type of a tool.
        MISSING_TOOL: the model does not work without a tool to search with.
        UNSUPPORTED_REASONING: the model refuses `reasoning`.
        UNSUPPORTED_STORE: the provider refuses `store` as it was sent.
        UNSUPPORTED_WINDOW: the request was refused because of its discount window.
        UNSUPPORTED_STREAM: the request was refused because of `stream`.
        TOO_LARGE: the request is longer than the model or the gateway takes.
        POLICY: a content policy refused the request.
        BAD_REQUEST: any other 4xx.
        RATE_LIMIT: too many requests, or the gateway has paused the model.
        UNAVAILABLE: 503: overloaded.
        SERVER: any other 5xx.
        TIMEOUT: no complete answer in time.
        UNREACHABLE: no connection could be made, so nothing was sent.
        LOST: the connection broke after the request was sent.
        WRONG_ADDRESS: that address is not a gateway.
        ANSWER_TOO_LARGE: the answer is larger than the limit.
        UNREADABLE: the answer does not follow the API.
        REFUSED: the model refused to answer.
        CANCELLED: the response was cancelled.
        FAILED: the response failed for no given reason.
        CUT_SHORT: the answer is incomplete.
        STILL_RUNNING: the deadline passed while the work continues.
        UNCONFIRMED: a research run may have been accepted; the answer was lost.
        OTHER: any other failure.
    """

    BUDGET = "budget"
    BAD_KEY = "bad_key"
    PROVIDER_KEY = "provider_key"
    FORBIDDEN = "forbidden"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_RESPONSE = "unknown_response"
    NOT_FOUND = "not_found"
    NOT_SUPPORTED = "not_supported"
    UNSUPPORTED_TOOL = "unsupported_tool"
    MISSING_TOOL = "missing_tool"
    UNSUPPORTED_REASONING = "unsupported_reasoning"
    UNSUPPORTED_STORE = "unsupported_store"
    UNSUPPORTED_WINDOW = "unsupported_window"
    UNSUPPORTED_STREAM = "unsupported_stream"
    TOO_LARGE = "too_large"
    POLICY = "policy"
    BAD_REQUEST = "bad_request"
    RATE_LIMIT = "rate_limit"
    UNAVAILABLE = "unavailable"
    SERVER = "server"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    LOST = "lost"
    WRONG_ADDRESS = "wrong_address"
    ANSWER_TOO_LARGE = "answer_too_large"
    UNREADABLE = "unreadable"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    FAILED = "failed"
    CUT_SHORT = "cut_short"
    STILL_RUNNING = "still_running"
    UNCONFIRMED = "unconfirmed"
    OTHER = "other"


class UnusableSettingError(ConfigurationError, openai.OpenAIError):
    """A `ConfigurationError` of a client that is also an `OpenAIError`, as the SDK's own errors about settings are."""


class PortableError(Exception):
    """An exception that can be copied and pickled with all its attributes, independently of its constructor."""

    def __reduce__(self) -> tuple[object, ...]:
        return _carried_over, (type(self), self.args, self.__dict__)


def _carried_over(kind: type[BaseException], args: tuple[object, ...], attributes: dict[str, object]) -> BaseException:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class LostAnswerError(PortableError, openai.APIConnectionError):
    """The connection broke after the request was sent; it is not sent again.

    Attributes:
        what: a short description of the failure.
        outcome_unknown: False if a repeat would cost nothing.
    """

    def __init__(self, what: str, request: httpx.Request, *, outcome_unknown: bool) -> None:
        super().__init__(message=_with_outcome(what, outcome_unknown), request=request)
        self.what = what
        self.outcome_unknown = outcome_unknown


class ClosedClientError(LostAnswerError):
    """The client was closed before or during the call."""


class DeadlineExceededError(PortableError, openai.APITimeoutError):
    """The deadline of the call passed. Attributes as in `LostAnswerError`; the outcome is known if nothing was sent."""

    def __init__(self, what: str, request: httpx.Request, *, outcome_unknown: bool) -> None:
        # The SDK's constructor takes no message and sets its own.
        super().__init__(request=request)
        self.message = _with_outcome(what, outcome_unknown)
        self.args = (self.message,)
        self.what = what
        self.outcome_unknown = outcome_unknown


def _with_outcome(what: str, outcome_unknown: bool) -> str:
    return f"{what}; {UNKNOWN}" if outcome_unknown else what


class GatewayError(PortableError, openai.OpenAIError):
    """A failed call. `str()` is one line with everything a person needs, and never contains the key.

    Attributes:
        kind: the kind of failure, for a program to branch on.
        cause: the failure in plain words.
        status: the HTTP status; None without an answer.
        code: the error code, the provider's if LiteLLM passed it on.
        message: the gateway's message, on one line and shortened.
        hint: advice for the user.
        support_ids: ids that the operators of the gateway or the provider can look up.
        outcome_unknown: True if the request may have been executed.
        response_id: the id of the response that the error is about, if any.
        retry_after: seconds to wait before the next attempt, if the gateway gives them.
        research: the text of a research run that was paid for before the call failed.
    """

    exit_code: ClassVar[int] = 1
    kind: ErrorKind = ErrorKind.OTHER
    _unknown: ClassVar[str] = UNKNOWN

    def __init__(
        self,
        cause: str,
        *,
        kind: ErrorKind | None = None,
        status: int | None = None,
        code: str | None = None,
        message: str = "",
        hint: str = "",
        support_ids: Mapping[str, str] | None = None,
        outcome_unknown: bool = False,
        response_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(cause)
        self.kind = kind or self.kind
        self.cause = cause
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.support_ids = dict(support_ids or {})
        self.outcome_unknown = outcome_unknown
        self.response_id = response_id
        self.retry_after = retry_after
        self.research = ""

    def __str__(self) -> str:
        facts = [f"HTTP {self.status}"] if self.status else []
        facts += [f"code {self.code}"] if self.code else []
        text = self.cause + (f" ({', '.join(facts)})" if facts else "")
        # Some causes quote the gateway's message already.
        if self.message and self.message not in self.cause:
            text += f": {self.message.rstrip('.')}"
        if self.outcome_unknown:
            text += f"; {self._unknown}"
        if self.hint:
            text += f". Hint: {self.hint}"
        if self.support_ids:
            text += " [" + ", ".join(f"{name} {value}" for name, value in self.support_ids.items()) + "]"
        return text


class CutShortError(GatewayError):
    """An incomplete answer: `text` is the part that arrived, `raw` its JSON, empty for a stream."""

    exit_code = 3
    kind = ErrorKind.CUT_SHORT

    def __init__(self, cause: str, *, text: str, raw: str = "", **details: Any) -> None:
        super().__init__(cause, **details)
        self.text = text
        self.raw = raw


class StillRunningError(GatewayError):
    """The deadline passed while the response continues at the gateway; `response_id` retrieves it later.

    Attributes:
        others: the errors of this kind from the function calls that ran side by side in the same turn.
    """

    exit_code = 4
    kind = ErrorKind.STILL_RUNNING
    others: tuple[StillRunningError, ...] = ()


def raise_from(failure: BaseException, cause: BaseException | None) -> NoReturn:
    """Raise `failure` from `cause`, without reference cycles; alone if both are the same error.

    An error that is its own cause, or that a frame of its traceback refers to, keeps all frames of the call alive
    until the garbage collector runs. From Python 3.13 on the HTTP library leaves such frames when a connection fails.
    """
    try:
        if isinstance(cause, httpx.TransportError):
            error: BaseException | None = cause
            while error is not None:
                clear_frames(error.__traceback__)
                error = error.__cause__ or error.__context__
        if failure is cause:
            raise failure
        raise failure from cause
    finally:
        # This frame is in the traceback too, and its names would close a cycle.
        del failure, cause


def redact(error: GatewayError, *secrets: str | None) -> GatewayError:
    """Remove keys from every text of an error, since a gateway may quote one."""
    for name in ("cause", "message", "hint", "code"):
        value = getattr(error, name)
        setattr(error, name, redact_text(value, *secrets) if value else value)
    error.support_ids = {name: redact_text(value, *secrets) for name, value in error.support_ids.items()}
    # The constructor stored the cause there as well, and `repr` shows it.
    error.args = (error.cause,)
    return error


def one_line(text: str) -> str:
    """Return `text` without line breaks and control characters, shortened to a readable length."""
    # Cut before the work on each character: a gateway's message may have megabytes.
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: _LONGEST * 4]).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " [...]"
