"""The gateway as the relay needs it: submit, look, cancel, and what each failure of these means.

A failed submission is one of three things, and the difference is money: certainly not executed and hopeless
(`Refused`), certainly not executed but worth another try (`NotSent`), or possibly executed (`OutcomeUnknown`).
"""

from __future__ import annotations

import difflib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import httpx2
import openai

from ...answer import TERMINAL, Answer, ResponseStream, read_json, read_response
from ...config import GatewaySettings
from ...deadline import deadline
from ...errors import DeadlineExceededError, ErrorKind, GatewayError, LostAnswerError
from ...events import data_of, events_of, has_events
from ...explain import explain
from ...headers import poll_after
from ...sdk import AsyncLiteLLM
from .log import log
from .outcome import judge, storable
from .records import Outcome
from .research import with_other_search_tool, without_reasoning, without_stream

_CONNECT_TIMEOUT = 10.0
_LONGEST_ID = 8192
_LONGEST_NAME = 80

# How a request is changed that was refused for one of these reasons; the change of the tool's name is its own reverse.
_ADAPT: Mapping[ErrorKind, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    ErrorKind.UNSUPPORTED_TOOL: with_other_search_tool,
    ErrorKind.UNSUPPORTED_REASONING: without_reasoning,
    ErrorKind.UNSUPPORTED_STREAM: without_stream,
}
_DONE = {
    ErrorKind.UNSUPPORTED_TOOL: "given the search tool by its other name",
    ErrorKind.UNSUPPORTED_REASONING: "asked without `reasoning`",
}


class Refused(Exception):
    """The gateway will not do it; `code` is one of the contract's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NotSent(Exception):
    """It was certainly not executed; `delay` is the pause in seconds that the gateway asks for."""

    def __init__(self, delay: float | None = None) -> None:
        super().__init__("not sent")
        self.delay = delay


class OutcomeUnknown(Exception):
    """It may have been executed, and there is no way to tell."""


class PollFailed(Exception):
    """A look at a response that says nothing about it.

    Attributes:
        missing: the gateway says that it does not know the response.
        hopeless: it can never be looked at.
    """

    def __init__(self, *, missing: bool = False, hopeless: bool = False) -> None:
        super().__init__("poll failed")
        self.missing = missing
        self.hopeless = hopeless


@dataclass(frozen=True)
class Reply:
    """What the gateway said of a response.

    Attributes:
        response_id: as in this reply; only that of the first reply can be retrieved.
        outcome: how it ended, None while it runs.
        poll_after: seconds that the gateway wishes until the next look.
        text: streamed text that this reply adds.
        known: whether the reply says anything of the response at all.
    """

    response_id: str | None = None
    outcome: Outcome | None = None
    poll_after: float | None = None
    text: str = ""
    known: bool = True


class Upstream:
    """One gateway.

    Args:
        settings: where it is and how to sign in.
        longest: characters of text that are kept of one answer.
    """

    def __init__(self, settings: GatewaySettings, *, longest: int) -> None:
        # Trying again is the ledger's business: a pause inside the SDK would look like a submission in flight.
        self._sdk = AsyncLiteLLM(base_url=settings.base_url, api_key=settings.api_key, max_retries=0)
        self._longest = longest
        self._adaptations: frozenset[ErrorKind] = frozenset()  # what this model has refused

    async def close(self) -> None:
        await self._sdk.close()

    async def submit(
        self, request: Mapping[str, Any], *, stream: bool, call_id: str, timeout: float
    ) -> AsyncIterator[Reply]:
        """Create the response, in the background where the model can.

        Args:
            stream: read it as it comes. The replies end after the one with the outcome, or when the stream breaks;
                without `stream` there is one reply.
            call_id: under which the gateway logs the call.
            timeout: seconds; a model that cannot run in the background answers only at the end.

        Raises:
            Refused, NotSent, OutcomeUnknown: before the first reply.
        """
        raw = await self._create({**request, "stream": True} if stream else request, call_id, timeout)
        try:
            if stream and has_events(raw.headers):
                async for reply in self._read_events(raw):
                    yield reply
            else:  # also of a gateway that ignores `stream`
                yield await self._read_one(raw)
        finally:
            await raw.http_response.aclose()

    async def missing_model(self, model: str, *, timeout: float) -> list[str] | None:
        """The names that the gateway lists and that are nearest to `model`; None if it lists `model`, or no list.

        A name behind a provider's prefix counts, and so does a pattern: a gateway may list `openai/*`.
        """
        try:
            with deadline(timeout):
                raw = await self._sdk.models.with_raw_response.list(timeout=timeout)
            listed: list[Any] = list(read_json(raw.http_response.content).get("data") or ())
        except Exception:
            return None
        names = [entry["id"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        bare = model.rpartition("/")[2]
        if not names or any(bare == name.rpartition("/")[2] or fnmatchcase(model, name) for name in names):
            return None
        shown = {name for name in names if len(name) <= _LONGEST_NAME and name.isascii() and name.isprintable()}
        return difflib.get_close_matches(model, sorted(shown), n=3, cutoff=0.4)

    async def retrieve(self, response_id: str, *, timeout: float) -> Reply:
        """Look at a response. Raises PollFailed."""
        try:
            with deadline(timeout):
                raw = await self._sdk.responses.with_raw_response.retrieve(response_id, timeout=timeout)
            return self._reply(raw)
        except Exception as error:
            raise _poll_failed(error) from None

    async def cancel(self, response_id: str, *, timeout: float) -> Reply:
        """Ask for a response to be stopped. Raises PollFailed."""
        try:
            with deadline(timeout):
                raw = await self._sdk.responses.with_raw_response.cancel(response_id, timeout=timeout)
            return self._reply(raw)
        except Exception as error:
            raise _poll_failed(error) from None

    async def _create(self, request: Mapping[str, Any], call_id: str, timeout: float) -> Any:
        """Send it; where the model refuses one field of it, once more as the model wants it.

        What was refused with 400 was not executed, so this pays once. What was learned is kept for the next request.
        """
        until = time.monotonic() + timeout
        adaptations, untried = self._adaptations, set(_ADAPT)
        for kind in adaptations:
            request = _ADAPT[kind](request) or request
        while True:
            try:
                raw = await self._send(request, call_id, until - time.monotonic())
            except Exception as error:
                kind = explain(error).kind
                adapted = (
                    _ADAPT[kind](request) if kind in untried and isinstance(error, openai.APIStatusError) else None
                )
                if adapted is None:
                    raise _submit_failed(error) from None
                untried.remove(kind)
                request, adaptations = adapted, adaptations ^ {kind}
                continue
            self._learn(adaptations - {ErrorKind.UNSUPPORTED_STREAM})
            return raw

    def _learn(self, adaptations: frozenset[ErrorKind]) -> None:
        for kind in adaptations ^ self._adaptations:
            log.warning("the model refuses a field of the request (%s): from now on it is %s", kind, _DONE[kind])
        self._adaptations = adaptations

    async def _send(self, request: Mapping[str, Any], call_id: str, timeout: float) -> Any:
        limits = openai.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT))
        model, prompt, stream = request["model"], request["input"], request.get("stream", False)
        # The operator may ask for fields that this release of the SDK does not know.
        fields = {name: value for name, value in request.items() if name not in ("model", "input", "stream")}
        with deadline(timeout):
            return await self._sdk.responses.with_raw_response.create(
                model=model,
                input=prompt,
                stream=stream,
                background=True,
                extra_body=fields,
                extra_headers={"x-litellm-call-id": call_id},
                timeout=limits,
            )

    async def _read_events(self, raw: Any) -> AsyncIterator[Reply]:
        reader, begun = ResponseStream(), False
        events = aiter(events_of(raw.http_response))
        while True:
            try:
                event = data_of(await anext(events))
            except Exception:
                if not begun:
                    raise OutcomeUnknown from None
                return  # over or broken: the response itself tells what became of it
            text = reader.feed(event)
            answer, body = reader.answer(), event.get("response") if isinstance(event, dict) else None
            begun = begun or bool(answer.id or text)
            if not begun:
                continue
            outcome = judge(answer, body, raw.headers, longest=self._longest) if answer.status in TERMINAL else None
            yield Reply(_usable(answer.id), outcome, None, storable(text))
            if outcome is not None:
                return

    async def _read_one(self, raw: Any) -> Reply:
        try:
            body = read_json(await raw.http_response.aread())
        except Exception:
            raise OutcomeUnknown from None
        reply = self._read(read_response(body), body, raw.headers)
        if reply.response_id is None and reply.outcome is None:
            raise OutcomeUnknown  # it runs, but nobody can ever find it
        return reply

    def _reply(self, raw: Any) -> Reply:
        body = read_json(raw.http_response.content)
        reply = self._read(read_response(body), body, raw.headers)
        if not reply.known:
            raise PollFailed
        return reply

    def _read(self, answer: Answer, body: object, headers: Mapping[str, str]) -> Reply:
        outcome = judge(answer, body, headers, longest=self._longest)
        known = outcome is not None or answer.status in ("queued", "in_progress", "cancelling")
        return Reply(_usable(answer.id), outcome, poll_after(headers), known=known)


def _usable(response_id: str | None) -> str | None:
    """An id that can be stored and sent in a path again."""
    usable = response_id and len(response_id) <= _LONGEST_ID and all("!" <= c <= "~" for c in response_id)
    return response_id if usable else None


def _submit_failed(error: Exception) -> Exception:
    explained = explain(error)
    if explained.outcome_unknown:
        return OutcomeUnknown()
    if explained.status is None:
        unsent = isinstance(error, openai.APIConnectionError) and _is_unsent(error)
        return NotSent() if unsent else OutcomeUnknown()
    if explained.status == 429 and explained.kind is not ErrorKind.BUDGET:
        return NotSent(explained.retry_after)
    if 300 <= explained.status < 500:
        return Refused(_refusal_code(explained))
    return OutcomeUnknown()


def _is_unsent(error: openai.APIConnectionError) -> bool:
    if isinstance(error, LostAnswerError | DeadlineExceededError):
        return not error.outcome_unknown
    unsent = httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout | httpx2.ProxyError
    return isinstance(error.__cause__, unsent)


def _refusal_code(explained: GatewayError) -> str:
    if explained.kind is ErrorKind.BUDGET or explained.status == 402:
        return "gateway_budget_exceeded"
    if explained.kind is ErrorKind.UNKNOWN_MODEL:
        return "model_unavailable"
    if explained.status in (401, 403) or explained.kind is ErrorKind.BAD_KEY:
        return "gateway_key_rejected"
    return "gateway_rejected_request"


def _poll_failed(error: Exception) -> PollFailed:
    if isinstance(error, PollFailed):
        return error
    explained = explain(error)
    return PollFailed(
        missing=explained.status in (404, 410) or explained.kind is ErrorKind.UNKNOWN_RESPONSE,
        hopeless=explained.kind is ErrorKind.NOT_SUPPORTED,
    )
