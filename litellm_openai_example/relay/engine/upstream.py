"""The gateway as the relay needs it: submit, look, cancel."""

from __future__ import annotations

import difflib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import openai

from ...calls.answer import as_beginning
from ...calls.assembly import read_body
from ...calls.lenient import read_json
from ...calls.response_stream import ResponseStream
from ...calls.sse import Events, data_of, has_events
from ...config import GatewaySettings, is_visible_ascii
from ...diagnosis import explain
from ...errors import ErrorKind
from ...json_object import JsonObject
from ...payer import NOBODY, Payer
from ...sdk import NO_PLATFORM, AsyncLiteLLM
from ...transport.bodies import MAX_ANSWER, is_cut, too_large
from ...transport.deadline import deadline
from ...transport.headers import poll_after
from ...transport.http_clients import AsyncLiteLLMHttpxClient, before_sent
from ...transport.raw_response import RawResponse
from ..counters import count_submit
from ..ledger.records import Outcome
from ..log import log
from .failures import HeldBack, OutcomeUnknown, PollFailed, poll_failed, submit_failed
from .outcome import outcome_of, storable
from .prompt import with_other_search_tool, without

_CONNECT_TIMEOUT = 10.0
_LONGEST_ID = 8192
_LONGEST_NAME = 80

# How a request is changed that was refused for one of these reasons; the change of the tool's name is its own reverse.
_ADAPT: Mapping[ErrorKind, Callable[[JsonObject], JsonObject | None]] = {
    ErrorKind.UNSUPPORTED_TOOL: with_other_search_tool,
    ErrorKind.UNSUPPORTED_REASONING: partial(without, "reasoning"),
    ErrorKind.UNSUPPORTED_STREAM: partial(without, "stream"),
}
_DONE = {
    ErrorKind.UNSUPPORTED_TOOL: "given the search tool by its other name",
    ErrorKind.UNSUPPORTED_REASONING: "asked without `reasoning`",
}


@dataclass(frozen=True)
class Reply:
    """What the gateway said of a response.

    Attributes:
        response_id: as in this reply; only that of the first reply can be retrieved.
        outcome: how it ended, None while it runs.
        poll_after: seconds that the gateway wishes until the next look.
        text: streamed text that this reply adds.
        known: whether the reply says anything of the response at all.
        streaming: whether it is an event of a stream, which more may follow.
    """

    response_id: str | None = None
    outcome: Outcome | None = None
    poll_after: float | None = None
    text: str = ""
    known: bool = True
    streaming: bool = False


class Upstream:
    """One gateway.

    Args:
        settings: where it is and how to sign in.
        longest: characters of text that are kept of one answer.
        http_client: sends the requests; by default one of the SDK adapter.
    """

    def __init__(
        self, settings: GatewaySettings, *, longest: int, http_client: AsyncLiteLLMHttpxClient | None = None
    ) -> None:
        # Trying again is the ledger's business: a pause inside the SDK would look like a submission in flight.
        self._sdk = AsyncLiteLLM(
            base_url=settings.base_url,
            api_key=settings.api_key,
            max_retries=0,
            max_answer=MAX_ANSWER,
            default_headers=NO_PLATFORM,
            http_client=http_client,
        )
        self._longest = longest
        self._adaptations: frozenset[ErrorKind] = frozenset()  # what this model has refused

    async def close(self) -> None:
        await self._sdk.close()

    async def submit(
        self,
        request: JsonObject,
        *,
        stream: bool,
        call_id: str,
        payer: Payer = NOBODY,
        timeout: float,
        prepare: Callable[[], Awaitable[None]],
    ) -> AsyncIterator[Reply]:
        """Create the response, in the background where the model can.

        Args:
            stream: read it as it comes. The replies end after the one with the outcome, or when the stream breaks;
                without `stream` there is one reply.
            call_id: under which the gateway logs the call.
            payer: for whom it is billed, as are the looks at it later.
            timeout: seconds; a model that cannot run in the background answers only at the end.
            prepare: awaited in the last moment before it leaves this machine; may raise HeldBack.

        Raises:
            Refused, NotSent, HeldBack, OutcomeUnknown: before the first reply.
        """
        with before_sent(prepare):
            headers = {"x-litellm-call-id": call_id, **payer.headers}
            raw = await self._create({**request, "stream": True} if stream else request, headers, timeout)
        try:
            # A gateway may stream unasked, and it may ignore `stream`.
            if has_events(raw.headers) if stream else "event-stream" in raw.headers.get("content-type", ""):
                async for reply in self._read_events(raw):
                    yield reply
            else:
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
            listed: list[object] = list(read_json(raw.http_response.content).get("data") or ())
        except Exception:
            return None
        names = [entry["id"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        bare = model.rpartition("/")[2]
        if not names or any(bare == name.rpartition("/")[2] or fnmatchcase(model, name) for name in names):
            return None
        shown = {name for name in names if len(name) <= _LONGEST_NAME and name.isascii() and name.isprintable()}
        return difflib.get_close_matches(model, sorted(shown), n=3, cutoff=0.4)

    async def retrieve(self, response_id: str, *, payer: Payer = NOBODY, timeout: float) -> Reply:
        """Look at a response. Raises PollFailed."""
        return await self._look(self._sdk.responses.with_raw_response.retrieve, response_id, payer, timeout)

    async def cancel(self, response_id: str, *, payer: Payer = NOBODY, timeout: float) -> Reply:
        """Ask for a response to be stopped. Raises PollFailed."""
        return await self._look(self._sdk.responses.with_raw_response.cancel, response_id, payer, timeout)

    async def _look(
        self, call: Callable[..., Awaitable[RawResponse]], response_id: str, payer: Payer, timeout: float
    ) -> Reply:
        try:
            with deadline(timeout):
                raw = await call(response_id, extra_headers=payer.headers, timeout=timeout)
            reply = self._read(raw)
        except Exception as error:
            raise poll_failed(error) from None
        if not reply.known:
            raise PollFailed
        return reply

    async def _create(self, request: JsonObject, headers: Mapping[str, str], timeout: float) -> RawResponse:
        """Send it; where the model refuses one field of it, once more as the model wants it.

        What was refused with 400 was not executed, so this pays once. What was learned is kept for the next request.
        """
        until = time.monotonic() + timeout
        adaptations, untried = self._adaptations, set(_ADAPT)
        for kind in adaptations:
            request = _ADAPT[kind](request) or request
        while True:
            try:
                raw = await self._send(request, headers, until - time.monotonic())
            except HeldBack:
                raise
            except Exception as error:
                kind = explain(error).kind
                adapted = (
                    _ADAPT[kind](request) if kind in untried and isinstance(error, openai.APIStatusError) else None
                )
                if adapted is None:
                    raise submit_failed(error) from None
                untried.remove(kind)
                request, adaptations = adapted, adaptations ^ {kind}
                continue
            self._learn(adaptations - {ErrorKind.UNSUPPORTED_STREAM})
            return raw

    def _learn(self, adaptations: frozenset[ErrorKind]) -> None:
        for kind in adaptations ^ self._adaptations:
            log.warning("the model refuses a field of the request (%s): from now on it is %s", kind, _DONE[kind])
        self._adaptations = adaptations

    async def _send(self, request: JsonObject, headers: Mapping[str, str], timeout: float) -> RawResponse:
        count_submit()
        limits = openai.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT))
        # The operator may ask for fields that this release of the SDK does not know; and those that it knows it would
        # hold against its types, for which `calls.requests.create` says what that costs.
        fields = {name: value for name, value in request.items() if name != "stream"}
        with deadline(timeout):
            return await self._sdk.responses.with_raw_response.create(
                stream=request.get("stream", False),
                background=True,
                extra_body=fields,
                extra_headers=headers,
                timeout=limits,
            )

    async def _read_events(self, raw: RawResponse) -> AsyncIterator[Reply]:
        reader, response_id, begun = ResponseStream(), None, False
        events = aiter(Events(raw.http_response))
        while True:
            try:
                event = data_of(await anext(events))
            except Exception:
                if not begun:
                    raise OutcomeUnknown from None
                return  # over or broken: the response itself tells what became of it
            text = reader.feed(event)
            outcome = None
            if reader.ended:  # only now the text is put together: it may be long
                # The headers came before the answer: what they say of its cost is not true yet.
                outcome = outcome_of(reader.answer(), reader.body(), {}, longest=self._longest)
            if not response_id:
                response_id = _usable(reader.id)
            begun = begun or bool(response_id or text)
            if begun:
                yield Reply(response_id, outcome, None, storable(text), streaming=True)
            if begun and outcome is not None:
                return

    async def _read_one(self, raw: RawResponse) -> Reply:
        try:
            await raw.http_response.aread()
            reply = self._read(raw)
        except Exception:
            raise OutcomeUnknown from None
        if reply.response_id is None and reply.outcome is None:
            raise OutcomeUnknown  # it runs, but nobody can ever find it
        return reply

    def _read(self, raw: RawResponse) -> Reply:
        cut = is_cut(raw.http_response)
        answer, body = read_body(raw.http_response.content, ResponseStream, beginning=cut)
        if cut:
            answer = as_beginning(answer, too_large(MAX_ANSWER).cause)
        outcome = outcome_of(answer, body, raw.headers, longest=self._longest)
        known = outcome is not None or answer.status in ("queued", "in_progress", "cancelling")
        return Reply(_usable(answer.id), outcome, poll_after(raw.headers), known=known)


def _usable(response_id: str | None) -> str | None:
    """An id that can be stored and sent in a path again."""
    usable = response_id and len(response_id) <= _LONGEST_ID and is_visible_ascii(response_id)
    return response_id if usable else None
