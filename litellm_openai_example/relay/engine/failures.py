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
    """The request was held back: it was cancelled, or the ledger does not confirm that the run is this process's."""


class OutcomeUnknown(Exception):
    """The request may have been executed, and nothing can tell."""


class PollFailed(PortableError):
    """A poll that says nothing about its response.

    Attributes:
        missing: the gateway itself says that it does not know the response.
        hopeless: the gateway itself says that it can never be polled.
        outage: no answer arrived, or an error of something other than the gateway (a proxy's page, an ingress without a
            route), or one that blames the server rather than this response.
        poll_after: always None; the counterpart of a reply's.
    """

    def __init__(self, *, missing: bool = False, hopeless: bool = False, outage: bool = False) -> None:
        super().__init__("poll failed")
        self.poll_after: float | None = None
        self.missing = missing
        self.hopeless = hopeless
        self.outage = outage


def submit_failed(error: Exception) -> Exception:
    """Return which of the three a failed submission is: `Refused`, `NotSent` or `OutcomeUnknown`."""
    explained = explain(error)
    count_upstream_error("submit", explained.kind)
    if explained.outcome_unknown:
        return OutcomeUnknown()
    # Without an answer, only an error from before the first byte is proof that nothing was executed.
    if explained.status is None:
        unsent = isinstance(error, openai.APIConnectionError) and _is_unsent(error)
        return NotSent() if unsent else OutcomeUnknown()
    # A rate limit passes; a spent budget, which LiteLLM may report with 429 too, does not.
    if explained.status == 429 and explained.kind is not ErrorKind.BUDGET:
        return NotSent(explained.retry_after)
    if 300 <= explained.status < 500:
        page = isinstance(error, openai.APIStatusError) and web_page(error.response.headers, error.response.content)
        return page or Refused(_refusal_code(explained))
    # 5xx: the gateway may have failed after the provider accepted the request.
    return OutcomeUnknown()


def _is_unsent(error: openai.APIConnectionError) -> bool:
    if isinstance(error, LostAnswerError | DeadlineExceededError):
        return not error.outcome_unknown
    unsent = httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError
    return isinstance(error.__cause__, unsent)


def _refusal_code(explained: GatewayError) -> str:
    if explained.kind is ErrorKind.BUDGET or explained.status == 402:
        return "gateway_budget_exceeded"
    if explained.kind is ErrorKind.UNSUPPORTED_WINDOW:
        return "window_refused"
    if explained.kind is ErrorKind.UNKNOWN_MODEL:
        return "model_unavailable"
    if explained.status in (401, 403) or explained.kind is ErrorKind.BAD_KEY:
        return "gateway_key_rejected"
    return "gateway_rejected_request"


def poll_failed(error: Exception) -> PollFailed:
    """Return the meaning of an exception of the SDK for the response that was polled."""
    explained = explain(error)
    count_upstream_error("poll", explained.kind)
    status = explained.status
    # Only the gateway itself may declare a response lost: a proxy's 404 would throw a paid result away.
    if status is None or not isinstance(error, openai.APIStatusError) or not is_gateway_error(error.response.content):
        return PollFailed(outage=True)
    return PollFailed(
        missing=status in (404, 410) or explained.kind is ErrorKind.UNKNOWN_RESPONSE,
        hopeless=explained.kind is ErrorKind.NOT_SUPPORTED,
        # 401 too: a key that was withdrawn can be restored, and the run goes on meanwhile.
        outage=status >= 500 or status in (401, 408, 429),
    )


def web_page(headers: Mapping[str, str], content: bytes) -> Refused | None:
    """Return the refusal if the answer is a web page, which no gateway sends; otherwise None."""
    if not is_web_page(headers, content):
        return None
    return Refused("gateway_rejected_request", {"content_type": "text/html"})
