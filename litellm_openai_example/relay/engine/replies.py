"""The gateway's replies to a submission or a poll, and the meaning of its failures for a research run.

A failed submission is one of three things, and the difference is money: certainly not executed and hopeless
(`Refused`), certainly not executed but worth another try (`NotSent`), or possibly executed (`OutcomeUnknown`). A failed
poll is a reply that says nothing about the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import openai

from ...diagnosis import explain
from ...error_table import is_gateway_error, is_web_page
from ...errors import DeadlineExceededError, ErrorKind, GatewayError, LostAnswerError
from ...http_library import httpx
from ...json_object import JsonObject
from ..ledger.records import Outcome
from ..metrics import count_upstream_error


@dataclass(frozen=True)
class Reply:
    """One reply of the gateway about a response.

    Attributes:
        response_id: as in this reply; only that of the first reply can be retrieved.
        outcome: the end of the response, None while it runs.
        poll_after: seconds until the next poll, if the gateway asks for a pause.
        text: streamed text that this reply adds.
        known: False if the reply says nothing about the response.
        streaming: True for an event of a stream; more may follow.
        model: the model that answers, if the reply names one.
        missing: the gateway itself says that it does not know the response.
        hopeless: the gateway itself says that the response can never be polled.
        outage: no answer arrived, or an error of something other than the gateway (a proxy's page, an ingress without a
            route), or one that blames the server rather than this response.
    """

    response_id: str | None = None
    outcome: Outcome | None = None
    poll_after: float | None = None
    text: str = ""
    known: bool = True
    streaming: bool = False
    model: str | None = None
    missing: bool = False
    hopeless: bool = False
    outage: bool = False


class Replies:
    """The replies of one submission, each awaited in a task, so that a wait can end early without breaking the stream.

    Args:
        replies: closed at the end of the block.

    Attributes:
        ended: True once the last reply has been taken.
    """

    def __init__(self, replies: AsyncGenerator[Reply, None]) -> None:
        self.ended = False
        self._replies = replies
        self._pending: asyncio.Task[Reply | None] | None = None

    async def next(self, timeout: float, unless: asyncio.Event | None = None) -> Reply | None:
        """Return the next reply; None after `timeout` seconds, when `unless` becomes set, or after the last reply.

        Raises the exception that ends the replies.
        """
        if self._pending is None:
            self._pending = asyncio.create_task(self._read())
        waits: list[asyncio.Task[Any]] = [self._pending]
        if unless is not None and not unless.is_set():  # one that is set already would end every wait at once
            waits.append(asyncio.create_task(unless.wait()))
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits[1:]:
                wait.cancel()
        if not self._pending.done():  # it stays pending: cancelling it would break the stream
            return None
        done, self._pending = self._pending, None
        reply = done.result()
        self.ended = reply is None
        return reply

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        # A generator that is running cannot be closed: its read has to end first.
        if self._pending is not None:
            self._pending.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._pending
        await self._replies.aclose()

    async def _read(self) -> Reply | None:
        return await anext(self._replies, None)


# Failures


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


def poll_failed(error: Exception) -> Reply:
    """Return the meaning of an exception of the SDK for the response that was polled."""
    explained = explain(error)
    count_upstream_error("poll", explained.kind)
    status = explained.status
    # Only the gateway itself may declare a response lost: a proxy's 404 would throw a paid result away.
    if status is None or not isinstance(error, openai.APIStatusError) or not is_gateway_error(error.response.content):
        return Reply(known=False, outage=True)
    return Reply(
        known=False,
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
