"""The exceptions: what went wrong, in words for a person, with exit codes.

The SDK's exceptions are left as they are for drop-in users; the two here that are raised under the SDK are subclasses
of them. The client and the command raise `GatewayError`, whose text is one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import httpx2
import openai

from .config import is_secret

UNKNOWN = "the outcome is unknown: it may have been executed, and it was not sent again"
_LONGEST = 600


class LostAnswerError(openai.APIConnectionError):
    """The connection broke after the request was sent; it is not sent again.

    Attributes:
        what: what happened, in a few words.
        outcome_unknown: False where a repeat would cost nothing.
    """

    def __init__(self, what: str, request: httpx2.Request, *, outcome_unknown: bool) -> None:
        super().__init__(message=_with_outcome(what, outcome_unknown), request=request)
        self.what = what
        self.outcome_unknown = outcome_unknown


class DeadlineExceededError(openai.APITimeoutError):
    """The deadline of the call passed; attributes as of `LostAnswerError`, the outcome is known if nothing was sent."""

    def __init__(self, what: str, request: httpx2.Request, *, outcome_unknown: bool) -> None:
        super().__init__(request=request)
        self.message = _with_outcome(what, outcome_unknown)
        self.args = (self.message,)
        self.what = what
        self.outcome_unknown = outcome_unknown


def _with_outcome(what: str, outcome_unknown: bool) -> str:
    return f"{what}; {UNKNOWN}" if outcome_unknown else what


class GatewayError(openai.OpenAIError):
    """A call failed; `str()` is one line with everything a person needs, and never holds the key.

    Attributes:
        cause: what happened, in plain words.
        status: the HTTP status, if there was an answer.
        code: the error code, the provider's own where LiteLLM passed it on.
        message: what the gateway said, on one line, shortened.
        hint: what to do about it.
        support_ids: ids that the people who run the gateway or the provider can look up.
        outcome_unknown: the request may have been executed although no answer tells.
        response_id: of the response that the error is about, if there is one.
        research: text of a research that was paid for before the call failed.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        cause: str,
        *,
        status: int | None = None,
        code: str | None = None,
        message: str = "",
        hint: str = "",
        support_ids: Mapping[str, str] | None = None,
        outcome_unknown: bool = False,
        response_id: str | None = None,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.support_ids = dict(support_ids or {})
        self.outcome_unknown = outcome_unknown
        self.response_id = response_id
        self.research = ""

    def __str__(self) -> str:
        facts = [f"HTTP {self.status}"] if self.status else []
        facts += [f"code {self.code}"] if self.code else []
        text = self.cause + (f" ({', '.join(facts)})" if facts else "")
        if self.message and self.message not in self.cause:
            text += f": {self.message.rstrip('.')}"
        if self.outcome_unknown:
            text += f"; {UNKNOWN}"
        if self.hint:
            text += f". Hint: {self.hint}"
        if self.support_ids:
            text += " [" + ", ".join(f"{name} {value}" for name, value in self.support_ids.items()) + "]"
        return text


class CutShortError(GatewayError):
    """The answer is only a part of what was asked for; `text` holds what arrived, `raw` the JSON if there is any."""

    exit_code = 3

    def __init__(self, cause: str, *, text: str, raw: str = "", **details: Any) -> None:
        super().__init__(cause, **details)
        self.text = text
        self.raw = raw


class StillRunningError(GatewayError):
    """The deadline passed while the response runs on at the gateway; `response_id` picks it up later."""

    exit_code = 4


def redact(error: GatewayError, secret: str | None) -> GatewayError:
    """Take the key out of everything that an error says: a gateway may well quote it."""
    if secret and is_secret(secret):
        for name in ("cause", "message", "hint", "code"):
            value = getattr(error, name)
            setattr(error, name, value.replace(secret, "[key]") if value else value)
        error.support_ids = {k: v.replace(secret, "[key]") for k, v in error.support_ids.items()}
        error.args = (error.cause,)
    return error


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, shortened to a readable length."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: _LONGEST * 4]).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " [...]"
