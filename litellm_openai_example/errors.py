"""The exceptions: what went wrong, in words for a person, with exit codes.

The SDK's exceptions are left as they are for drop-in users; the two here that are raised under the SDK are subclasses
of them. The client and the command raise `GatewayError`, whose text is one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from traceback import clear_frames
from typing import Any, ClassVar, NoReturn

import openai

from .config import ConfigurationError, redact_text
from .http_library import httpx

INTERNAL_ERROR = "hit an internal error"  # the words for a fault of this program
UNKNOWN = "the outcome is unknown: it may have been executed, and it was not sent again"
_LONGEST = 600


class ErrorKind(StrEnum):
    """What kind of failure it was: the thing to branch on. The words of an error may change, these do not."""

    BUDGET = "budget"  # the money or quota of this gateway key is spent
    BAD_KEY = "bad_key"  # the gateway does not accept or know this key
    PROVIDER_KEY = "provider_key"  # the provider does not accept the gateway's own key
    FORBIDDEN = "forbidden"  # this key may not do that
    UNKNOWN_MODEL = "unknown_model"  # the gateway has no such model for this key
    UNKNOWN_RESPONSE = "unknown_response"  # the gateway does not know that response id
    NOT_FOUND = "not_found"  # it found nothing there, and does not say what
    NOT_SUPPORTED = "not_supported"  # this model can never do that on this gateway
    UNSUPPORTED_TOOL = "unsupported_tool"  # the model refuses a tool by its name
    MISSING_TOOL = "missing_tool"  # the model does not work without a tool to search with
    UNSUPPORTED_REASONING = "unsupported_reasoning"  # the model refuses `reasoning`
    UNSUPPORTED_STORE = "unsupported_store"  # the provider refuses `store` as it was sent
    UNSUPPORTED_STREAM = "unsupported_stream"  # the request was refused because of `stream`
    TOO_LARGE = "too_large"  # the request is longer than the model or the gateway takes
    POLICY = "policy"  # a content policy refused the request
    BAD_REQUEST = "bad_request"  # any other 4xx
    RATE_LIMIT = "rate_limit"  # too many requests, or a model that is paused
    UNAVAILABLE = "unavailable"  # 503: overloaded
    SERVER = "server"  # any other 5xx
    TIMEOUT = "timeout"  # no complete answer in time
    UNREACHABLE = "unreachable"  # no connection could be made, so nothing was sent
    LOST = "lost"  # the connection broke after the request was sent
    WRONG_ADDRESS = "wrong_address"  # what answers there is no gateway
    ANSWER_TOO_LARGE = "answer_too_large"  # the answer is longer than what is read of one
    UNREADABLE = "unreadable"  # the answer is not what the API promises
    REFUSED = "refused"  # the model refused to answer
    CANCELLED = "cancelled"  # the response was cancelled
    FAILED = "failed"  # the response failed for a reason that is not told
    CUT_SHORT = "cut_short"  # the answer is only a part
    STILL_RUNNING = "still_running"  # the deadline passed while the work runs on
    UNCONFIRMED = "unconfirmed"  # a research run may have been accepted: no answer tells
    OTHER = "other"


class UnusableSettingError(ConfigurationError, openai.OpenAIError):
    """A `ConfigurationError` of a client: the SDK raises an `OpenAIError` where a setting of its own is missing."""


@contextmanager
def as_sdk_errors() -> Iterator[None]:
    """Raise a `ConfigurationError` inside the block as one that programs written for the SDK expect as well."""
    try:
        yield
    except ConfigurationError as error:
        if isinstance(error, openai.OpenAIError):
            raise
        raise UnusableSettingError(str(error)) from error


class PortableError(Exception):
    """An exception that can be copied and pickled with all its attributes, whatever its constructor wants."""

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
        what: what happened, in a few words.
        outcome_unknown: False where a repeat would cost nothing.
    """

    def __init__(self, what: str, request: httpx.Request, *, outcome_unknown: bool) -> None:
        super().__init__(message=_with_outcome(what, outcome_unknown), request=request)
        self.what = what
        self.outcome_unknown = outcome_unknown


class ClosedClientError(LostAnswerError):
    """The client was closed before the call, between two of its attempts, or while it waited for an answer."""


class DeadlineExceededError(PortableError, openai.APITimeoutError):
    """The deadline of the call passed; attributes as of `LostAnswerError`, the outcome is known if nothing was sent."""

    def __init__(self, what: str, request: httpx.Request, *, outcome_unknown: bool) -> None:
        super().__init__(request=request)
        self.message = _with_outcome(what, outcome_unknown)
        self.args = (self.message,)
        self.what = what
        self.outcome_unknown = outcome_unknown


def _with_outcome(what: str, outcome_unknown: bool) -> str:
    return f"{what}; {UNKNOWN}" if outcome_unknown else what


class GatewayError(PortableError, openai.OpenAIError):
    """A call failed; `str()` is one line with everything a person needs, and never holds the key.

    Attributes:
        kind: what kind of failure it is, for a program to branch on.
        cause: what happened, in plain words.
        status: the HTTP status, if there was an answer.
        code: the error code, the provider's own where LiteLLM passed it on.
        message: what the gateway said, on one line, shortened.
        hint: what to do about it.
        support_ids: ids that the people who run the gateway or the provider can look up.
        outcome_unknown: the request may have been executed although no answer tells.
        response_id: of the response that the error is about, if there is one.
        retry_after: seconds that the gateway asks to wait before the next attempt, if it does.
        research: text of a research run that was paid for before the call failed.
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
    """The answer is only a part of what was asked for; `text` holds what arrived, `raw` the JSON if there is any."""

    exit_code = 3
    kind = ErrorKind.CUT_SHORT

    def __init__(self, cause: str, *, text: str, raw: str = "", **details: Any) -> None:
        super().__init__(cause, **details)
        self.text = text
        self.raw = raw


class StillRunningError(GatewayError):
    """The deadline passed while the response runs on at the gateway; `response_id` picks it up later.

    Attributes:
        others: the errors of the same kind of the other function calls of that turn, which ran side by side.
    """

    exit_code = 4
    kind = ErrorKind.STILL_RUNNING
    others: tuple[StillRunningError, ...] = ()


def raise_from(failure: BaseException, cause: BaseException | None) -> NoReturn:
    """Raise `failure` with its cause, or alone if they are one error, and leave nothing to the garbage collector.

    An error that is its own cause, or that a frame of its traceback refers to, keeps all frames of the call alive
    until the collector runs. From Python 3.13 on the HTTP library leaves such frames where a connection fails.
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
        del failure, cause


def redact(error: GatewayError, *secrets: str | None) -> GatewayError:
    """Take keys out of everything that an error says: a gateway may well quote one."""
    for name in ("cause", "message", "hint", "code"):
        value = getattr(error, name)
        setattr(error, name, redact_text(value, *secrets) if value else value)
    error.support_ids = {name: redact_text(value, *secrets) for name, value in error.support_ids.items()}
    error.args = (error.cause,)
    return error


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, shortened to a readable length."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: _LONGEST * 4]).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " [...]"
