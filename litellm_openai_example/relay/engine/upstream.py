"""The gateway as the relay uses it: submit, poll, cancel."""

from __future__ import annotations

import difflib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from fnmatch import fnmatchcase

import openai

from ...calls.answer import as_beginning, as_str
from ...calls.lenient import read_json
from ...calls.reply import RawResponse, body_of, read_body
from ...calls.requests import poll_after
from ...calls.response_stream import ResponseStream
from ...calls.sse import Events, has_events
from ...config import GatewaySettings, is_visible_ascii
from ...diagnosis import explain
from ...json_object import JsonObject
from ...payer import NOBODY, Payer
from ...sdk import NO_PLATFORM, AsyncLiteLLM
from ...transport.bodies import MAX_ANSWER, too_large
from ...transport.http_clients import AsyncLiteLLMHttpxClient, before_sent
from ...transport.policy import deadline
from ..metrics import count_submit
from .outcome import outcome_of, storable
from .replies import HeldBack, NotSent, OutcomeUnknown, Reply, poll_failed, submit_failed, web_page
from .request import Adaptations, Adapted

_CONNECT_TIMEOUT = 10.0
_LONGEST_ID = 8192
_LONGEST_NAME = 80
# LiteLLM names the model that answered (measured with 1.108.12): a fallback by its own name, an alias as requested.
_MODEL_HEADER, _DEPLOYMENT_HEADER = "x-litellm-model-group", "x-litellm-model-id"
_RUNNING = frozenset({"queued", "in_progress", "cancelling"})


class Upstream:
    """One gateway.

    Args:
        settings: its address and key.
        longest: most characters of text to keep of one answer.
        explicit: fields of a request that stay even if the model refuses them.
        learned: seconds for which a model's refusal of a field is remembered.
        http_client: sends the requests; by default the SDK adapter's.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        longest: int,
        explicit: Collection[str] = (),
        learned: float = 600.0,
        http_client: AsyncLiteLLMHttpxClient | None = None,
    ) -> None:
        # No retries here: a pause in the SDK would count as a submission in flight, and a crash then would make the run
        # indeterminate. The ledger requeues it instead.
        self._sdk = AsyncLiteLLM(
            base_url=settings.base_url,
            api_key=settings.api_key,
            max_retries=0,
            max_answer=MAX_ANSWER,
            default_headers=NO_PLATFORM,
            http_client=http_client,
        )
        self._longest = longest
        self._adaptations = Adaptations(explicit=explicit, seconds=learned)

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
    ) -> AsyncGenerator[Reply, None]:
        """Create the response, in the background where the model can.

        Args:
            stream: request a stream. The replies end after the one with the outcome, or when the stream breaks;
                without `stream` one reply is the whole answer.
            call_id: identifies the call in the gateway's log.
            payer: billed for it and for its polls.
            timeout: seconds; a model that cannot run in the background answers only at the end.
            prepare: awaited at the last moment before the request leaves this machine; may raise HeldBack.

        Raises:
            Refused, NotSent, HeldBack, OutcomeUnknown: before the first reply.
        """
        left = False

        async def leave() -> None:
            nonlocal left
            await prepare()
            left = True
            count_submit()

        with before_sent(leave):
            headers = {"x-litellm-call-id": call_id, **payer.headers}
            try:
                raw, adapted = await self._create({**request, "stream": True} if stream else request, headers, timeout)
            except OutcomeUnknown:
                # The kind of an error may leave it open; `prepare` does not. If it never returned, no byte has left.
                if left:
                    raise
                raise NotSent from None
        learned = False
        try:
            # A gateway may stream unasked, and it may ignore `stream`.
            if has_events(raw.headers) if stream else "event-stream" in raw.headers.get("content-type", ""):
                replies = self._read_events(raw)
            else:
                replies = self._read_one(raw)
            async for reply in replies:
                if not learned:
                    answered_by = raw.headers.get(_MODEL_HEADER) or reply.model
                    self._adaptations.learn(adapted, answered_by, raw.headers.get(_DEPLOYMENT_HEADER))
                    learned = True
                yield reply
        finally:
            await raw.http_response.aclose()

    async def missing_model(self, model: str, *, timeout: float) -> list[str] | None:
        """Return the listed names nearest to `model`; None if the gateway lists `model`, or gives no list.

        A name behind a provider's prefix counts, and so does a pattern: a gateway may list `openai/*`.
        """
        try:
            with deadline(timeout):
                raw = await self._sdk.models.with_raw_response.list(timeout=timeout)
            listed: list[object] = list(read_json(raw.http_response.content).get("data") or ())
        except Exception:  # the answer serves a warning only
            return None
        names = [entry["id"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        bare = model.rpartition("/")[2]
        if not names or any(bare == name.rpartition("/")[2] or fnmatchcase(model, name) for name in names):
            return None
        shown = {name for name in names if len(name) <= _LONGEST_NAME and name.isascii() and name.isprintable()}
        return difflib.get_close_matches(model, sorted(shown), n=3, cutoff=0.4)

    async def retrieve(self, response_id: str, *, payer: Payer = NOBODY, timeout: float) -> Reply:
        """Poll a response."""
        return await self._poll(self._sdk.responses.with_raw_response.retrieve, response_id, payer, timeout)

    async def cancel(self, response_id: str, *, payer: Payer = NOBODY, timeout: float) -> Reply:
        """Ask the gateway to stop a response."""
        return await self._poll(self._sdk.responses.with_raw_response.cancel, response_id, payer, timeout)

    async def _poll(
        self, call: Callable[..., Awaitable[RawResponse]], response_id: str, payer: Payer, timeout: float
    ) -> Reply:
        try:
            with deadline(timeout):
                raw = await call(response_id, extra_headers=payer.headers, timeout=timeout)
            reply = self._read(raw)
        except Exception as error:
            return poll_failed(error)
        # Neither another program's JSON nor an unknown status ends the run. The former is an outage, as a page is.
        return reply if reply is not None and reply.known else Reply(known=False, outage=reply is None)

    async def _create(
        self, request: JsonObject, headers: Mapping[str, str], timeout: float
    ) -> tuple[RawResponse, Adapted]:
        """Send the request; if the model refuses a field, resend it without that field or with another."""
        until = time.monotonic() + timeout
        adapted = self._adaptations.begin(request)
        while True:
            try:
                return await self._send(adapted.request, headers, until - time.monotonic()), adapted
            except HeldBack:
                raise
            except openai.APIStatusError as error:
                # A field is refused before execution, so the second request cannot pay twice.
                if not adapted.refused(explain(error).kind, error.response.headers.get(_DEPLOYMENT_HEADER)):
                    raise submit_failed(error) from None
            except Exception as error:
                raise submit_failed(error) from None

    async def _send(self, request: JsonObject, headers: Mapping[str, str], timeout: float) -> RawResponse:
        limits = openai.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT))
        # As `extra_body`: the operator may set fields that this release of the SDK does not know, and checking known
        # ones against its types costs time (see `calls.requests.create_with`).
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
                text = reader.take(await anext(events))
                if reader.ended and reader.broken:
                    raise ValueError("a piece of the answer is missing")
            except Exception:
                # Accepted, but nothing arrived that a poll could find it by.
                if not begun:
                    raise OutcomeUnknown from None
                return  # it ended or broke: a poll finds the response's end
            outcome = None
            if reader.ended:  # not for each event: the text may be long
                # No headers: they were sent before the answer, when its cost was not known.
                outcome = outcome_of(reader.answer(), reader.body(), {}, longest=self._longest)
            # Of the first event that has one: LiteLLM cannot retrieve a response by the ids of later events.
            if not response_id:
                response_id = _usable(reader.id)
            begun = begun or bool(response_id or text)
            if begun:
                model = as_str(reader.body().get("model")) or None
                yield Reply(response_id, outcome, None, storable(text), streaming=True, model=model)
            if begun and outcome is not None:
                return

    async def _read_one(self, raw: RawResponse) -> AsyncIterator[Reply]:
        try:
            await raw.http_response.aread()
        except Exception:
            raise OutcomeUnknown from None
        try:
            reply = self._read(raw)
        except Exception:
            raise web_page(raw.headers, raw.http_response.content) or OutcomeUnknown() from None
        if reply is None or (reply.response_id is None and reply.outcome is None):
            raise OutcomeUnknown  # it may run, but without an id it cannot be found
        yield reply

    def _read(self, raw: RawResponse) -> Reply | None:
        """Read the reply of a whole answer; return None for the JSON of another program."""
        # An answer beyond the limit was paid for like any other, so its beginning is kept.
        content, cut = body_of(raw)
        answer, body, _ = read_body(content, ResponseStream, beginning=cut)
        if cut:
            answer = as_beginning(answer, too_large(MAX_ANSWER).cause)
        response_id = _usable(answer.id)
        if not _is_response(body):  # an end in it is that of something else; only the id of a running one can be polled
            if response_id is None or answer.status not in _RUNNING:
                return None
            return Reply(response_id, poll_after=poll_after(raw.headers))
        outcome = outcome_of(answer, body, raw.headers, longest=self._longest)
        known = outcome is not None or answer.status in _RUNNING
        return Reply(response_id, outcome, poll_after(raw.headers), known=known, model=answer.model)


def _is_response(body: JsonObject) -> bool:
    """Return whether JSON is a response (or, from some gateways, a completion) and not that of some other program.

    Other programs have an `id` and a `status` too, such as a proxy's `{"id": "req-1", "status": "failed"}`. A response
    says `"object": "response"`; gateways that leave this out have a list of output or choices, or a text.
    """
    kind = body.get("object")
    if isinstance(kind, str):
        return kind == "response" or kind.startswith("chat.completion")
    lists = (body.get("output"), body.get("choices"))
    return any(isinstance(one, list) for one in lists) or isinstance(body.get("output_text"), str)


def _usable(response_id: str | None) -> str | None:
    """Return the id if it can be stored, and sent in a path."""
    usable = response_id and len(response_id) <= _LONGEST_ID and is_visible_ascii(response_id)
    return response_id if usable else None
