"""The meaning of each failure of the gateway for a research run.

A failed submission is one of three things, and the difference is money: certainly not executed and hopeless
(`Refused`), certainly not executed but worth another try (`NotSent`), or possibly executed (`OutcomeUnknown`).
"""

from __future__ import annotations

from collections.abc import Mapping

import openai

from ...diagnosis import explain
from ...error_table import is_gateway_error, is_web_page
from ...errors import DeadlineExceededError, ErrorKind, GatewayError, LostAnswerError, PortableError
from ...http_library import httpx
from ...json_object import JsonObject
from ..metrics import count_upstream_error


class Refused(Exception):
    """The gateway refuses the request for good.

    Attributes:
        code: one of the contract's.
        response: the part of the answer that is shown, if it says more than the code.
    """

    def __init__(self, code: str, response: JsonObject | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.response = response


class NotSent(Exception):
    """The request was certainly not executed; `delay` is the pause in seconds that the gateway asks for."""

    def __init__(self, delay: float | None = None) -> None:
        super().__init__("not sent")
        self.delay = delay


class HeldBack(Exception):
    """The request was held back, because the ledger does not confirm that the run is this process's."""


class OutcomeUnknown(Exception):
    """The request may have been executed, and nothing can tell."""


class PollFailed(PortableError):
    """A poll that says nothing about its response.

    Attributes:
        missing: the gateway itself says that it does not know the response.
        hopeless: the gateway itself says that it can never be polled.
        outage: there was no answer, or one of something else than the gateway (a proxy's page, an ingress without a
            route), or one that blames the server: it says nothing of this response in particular.
        poll_after: never a wish of the gateway, unlike that of a reply.
    """

    def __init__(self, *, missing: bool = False, hopeless: bool = False, outage: bool = False) -> None:
        super().__init__("poll failed")
        self.poll_after: float | None = None
        self.missing = missing
        self.hopeless = hopeless
        self.outage = outage


def submit_failed(error: Exception) -> Exception:
    """Return which of the three it was: `Refused`, `NotSent` or `OutcomeUnknown`."""
    explained = explain(error)
    count_upstream_error("submit", explained.kind)
    if explained.outcome_unknown:
        return OutcomeUnknown()
    if explained.status is None:
        unsent = isinstance(error, openai.APIConnectionError) and _is_unsent(error)
        return NotSent() if unsent else OutcomeUnknown()
    if explained.status == 429 and explained.kind is not ErrorKind.BUDGET:
        return NotSent(explained.retry_after)
    if 300 <= explained.status < 500:
        page = isinstance(error, openai.APIStatusError) and web_page(error.response.headers, error.response.content)
        return page or Refused(_refusal_code(explained))
    return OutcomeUnknown()


def _is_unsent(error: openai.APIConnectionError) -> bool:
    if isinstance(error, LostAnswerError | DeadlineExceededError):
        return not error.outcome_unknown
    unsent = httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError
    return isinstance(error.__cause__, unsent)


def _refusal_code(explained: GatewayError) -> str:
    if explained.kind is ErrorKind.BUDGET or explained.status == 402:
        return "gateway_budget_exceeded"
    if explained.kind is ErrorKind.UNKNOWN_MODEL:
        return "model_unavailable"
    if explained.status in (401, 403) or explained.kind is ErrorKind.BAD_KEY:
        return "gateway_key_rejected"
    return "gateway_rejected_request"


def poll_failed(error: Exception) -> PollFailed:
    """Return what an exception of the SDK says about the response that was polled."""
    explained = explain(error)
    count_upstream_error("poll", explained.kind)
    status = explained.status
    if status is None or not isinstance(error, openai.APIStatusError) or not is_gateway_error(error.response.content):
        return PollFailed(outage=True)
    return PollFailed(
        missing=status in (404, 410) or explained.kind is ErrorKind.UNKNOWN_RESPONSE,
        hopeless=explained.kind is ErrorKind.NOT_SUPPORTED,
        outage=status >= 500 or status in (401, 408, 429),
    )


def web_page(headers: Mapping[str, str], content: bytes) -> Refused | None:
    """Return the refusal for a web page in place of an answer; None if the answer is none."""
    if not is_web_page(headers, content):
        return None
    return Refused("gateway_rejected_request", {"content_type": "text/html"})
