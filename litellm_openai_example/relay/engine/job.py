"""One invocation from the intent to its end: submit it once, follow it, write down what became of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ...research.contract import DeepResearchArguments
from ..counters import count_ended, count_submitted
from ..ledger.database import LedgerUnavailable
from ..ledger.ledger import INDETERMINATE, Ledger
from ..ledger.records import Outcome, Piece, Record
from ..log import kind_and_place, log, log_run
from ..settings import Settings, Timings
from .failures import NotSent, OutcomeUnknown, PollFailed, Refused
from .gate import Gate
from .inbox import Inbox
from .lease import Lease
from .prompt import research_request
from .upstream import Reply, Upstream

T = TypeVar("T")

_CANCELLED = Outcome("cancelled", "cancelled_by_client")
_TOO_LATE = Outcome("failed", "research_timeout")
_LOST = Outcome("failed", "result_unavailable")
_GROWTH = 0.4  # each pause is so much longer than the one before
_LONGEST_POLL_AFTER = 60.0
_LEDGER_RETRY = 0.5
_PIECE = 4096


def pause_at(age: float, timings: Timings) -> float:
    """Seconds until the next look at a run of that age, if the gateway has no wish: growing from the start."""
    return min(timings.first_poll + age * _GROWTH, timings.longest_poll)


class NotOurs(Exception):
    """The invocation has ended otherwise, or belongs to another process by now."""


class Job:
    """Runs one invocation that this process owns.

    Args:
        record: claimed (submitting or awaiting) or taken over (running).
        ledger, upstream, gate, lease, settings: the worker's.

    `submit_done` is set once no submission is in flight.
    """

    def __init__(
        self, record: Record, ledger: Ledger, upstream: Upstream, gate: Gate, lease: Lease, settings: Settings
    ) -> None:
        self.id = record.id
        self.submit_done = asyncio.Event()
        self._record = record
        self._ledger = ledger
        self._upstream = upstream
        self._gate = gate
        self._lease = lease
        self._settings = settings
        self._timings = settings.timings
        self._upstream_id = record.upstream_id
        self._payer = record.payer
        self._begun = time.monotonic() - (record.age or 0.0)
        self._cancel = asyncio.Event()
        self._pieces: list[Piece] = []
        self._fallback = _LOST
        self._in_gate = record.upstream_id is None
        if self._in_gate:
            gate.enter()
        if record.upstream_id is not None:
            self.submit_done.set()
        if record.cancel_requested:
            self._cancel.set()

    def cancel(self) -> None:
        """Somebody wants it cancelled."""
        self._cancel.set()

    async def run(self) -> None:
        """Run it to its end, or until it turns out to be no longer this process's."""
        try:
            await self._run()
        finally:
            self._leave_gate()
            self.submit_done.set()

    async def _run(self) -> None:
        while True:
            try:
                await (self._follow() if self.submit_done.is_set() else self._submit())
                return
            except NotOurs:
                return
            except Exception as error:
                log.error("%s: unexpected %s", self.id, kind_and_place(error))
                if not self.submit_done.is_set():  # it may have been sent: never again
                    await self._settle(INDETERMINATE)
                    return
                await asyncio.sleep(self._timings.longest_poll)

    @property
    def _age(self) -> float:
        return time.monotonic() - self._begun

    @property
    def _left(self) -> float:
        return self._settings.research_timeout - self._age

    # Submitting

    async def _submit(self) -> None:
        if self._cancel.is_set():
            return await self._settle(_CANCELLED)
        if not self._lease.may_send:  # another process may believe us dead by now
            await self._keep(lambda: self._ledger.put_back(self.id, 0.0, attempt=self._record.attempts))
            return None
        if self._left <= 0:
            return await self._settle(Outcome("failed", "gateway_unavailable"))
        arguments = DeepResearchArguments.model_validate_json(self._record.arguments)
        settings = self._settings
        request = research_request(arguments, settings.model, settings.request)
        replies = self._upstream.submit(
            request,
            stream=arguments.stream,
            call_id=self.id,
            payer=self._payer,
            timeout=self._left,
            on_sent=self._on_sent,
        )
        async with Inbox(replies) as inbox:
            try:
                reply = await self._first_reply(inbox)
            except Refused as error:
                response = {"model": settings.model} if error.code == "model_unavailable" else None
                return await self._settle(Outcome("failed", error.code, None, response))
            except NotSent as error:
                return await self._try_later(error.delay)
            except OutcomeUnknown:
                return await self._settle(INDETERMINATE)
            if reply is None:
                return await self._settle(_CANCELLED)
            self._gate.sent(finished=reply.outcome is not None and not reply.streaming)
            return await self._answered(reply, inbox)

    async def _first_reply(self, inbox: Inbox) -> Reply | None:
        """The answer to the submission; None if it was cancelled while the gateway kept it open."""
        reply = await inbox.next(self._timings.gate)
        if isinstance(reply, Reply):
            return reply
        await self._keep(lambda: self._ledger.leave_gate(self.id))
        self._leave_gate()
        while not isinstance(reply, Reply):
            if self._cancel.is_set():
                return None
            reply = await inbox.next(self._timings.tick, self._cancel)
        return reply

    async def _try_later(self, delay: float | None) -> None:
        longest = self._timings.retry
        pause = min(longest, 0.5 * 2.0 ** min(self._record.attempts - 1, 10)) * random.uniform(0.75, 1)  # noqa: S311
        pause = max(pause, min(delay or 0.0, 4 * longest))
        if pause >= self._left:
            return await self._settle(Outcome("failed", "gateway_unavailable"))
        self._gate.not_sent(pause)
        await self._keep(lambda: self._ledger.put_back(self.id, pause, attempt=self._record.attempts))
        return None

    async def _answered(self, reply: Reply, inbox: Inbox) -> None:
        """The gateway has it: keep its id before anything else happens."""
        if reply.outcome is not None and not reply.streaming:
            return await self._settle(reply.outcome, reply.response_id)
        if reply.outcome is not None and reply.outcome.state == "failed":
            return await self._doubted(reply.response_id)
        if reply.response_id is not None:
            await self._submitted(reply.response_id)
        self._leave_gate()
        if reply.streaming:
            outcome = await self._relay_text(reply, inbox)
            if outcome is not None:
                return await self._settle(outcome)
            if self._upstream_id is None:
                return await self._settle(self._fallback)
        return await self._follow(reply.poll_after)

    async def _doubted(self, response_id: str | None) -> None:
        """A stream that begins with a failure: LiteLLM invents that, id included, when its own connection breaks.

        The provider may have accepted it all the same, so it is a failure only if the response itself says so.
        """
        looked = await self._look(self._upstream.retrieve, response_id) if response_id else None
        if isinstance(looked, Reply) and looked.outcome is not None:
            return await self._settle(looked.outcome, response_id)
        if response_id is None or looked is None or (isinstance(looked, PollFailed) and not looked.outage):
            return await self._settle(INDETERMINATE)
        self._fallback = INDETERMINATE
        await self._submitted(response_id)
        self._leave_gate()
        return await self._follow()

    async def _submitted(self, upstream_id: str) -> None:
        if not await self._keep(lambda: self._ledger.submitted(self.id, upstream_id)):
            # Reported as indeterminate meanwhile: nobody will ever read what it costs to go on.
            log.warning("%s: lost to another process while it was submitted; asking the gateway to stop it", self.id)
            await self._look(self._upstream.cancel, upstream_id)
            raise NotOurs
        count_submitted()
        log_run("submitted", self.id)
        self._upstream_id = upstream_id
        self.submit_done.set()

    def _on_sent(self) -> None:
        """The model blocks: its answer comes at the end, and the place is for what has not left this machine yet."""
        if self._record.state == "awaiting":
            self._leave_gate()

    def _leave_gate(self) -> None:
        if self._in_gate:
            self._in_gate = False
            self._gate.leave()

    # Streaming

    async def _relay_text(self, reply: Reply | None, inbox: Inbox) -> Outcome | None:
        """Write the text down as it comes; the outcome, or None if the stream broke or is not to be believed."""
        text, since, heard = "", 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            if reply is not None:
                heard, since = now, since if text else now
                text += reply.text
                if reply.response_id is not None and self._upstream_id is None:
                    await self._submitted(reply.response_id)
            stop = inbox.ended or self._cancel.is_set() or self._left <= 0
            ended = reply is not None and reply.outcome is not None
            if text and (stop or ended or len(text) >= _PIECE or now - since >= self._timings.flush):
                await self._append(text)
                text = ""
            if reply is not None and reply.outcome is not None:
                return await self._confirmed(reply.outcome)
            if stop:
                return None
            if now - heard >= self._timings.stall:
                looked = await self._look(self._upstream.retrieve, self._upstream_id) if self._upstream_id else None
                if isinstance(looked, Reply) and looked.outcome is not None:
                    return looked.outcome
                heard = time.monotonic()
            reply = await inbox.next(self._timings.flush if text else self._timings.stall, self._cancel)

    async def _append(self, text: str) -> None:
        start = self._pieces[-1].end if self._pieces else 0
        text = text[: max(0, self._settings.max_output - start)]
        if not text or self._record.mode != "stream":  # nobody asked for pieces: the outcome holds the text
            return
        piece = Piece(len(self._pieces) + 1, start, text)
        if not await self._keep(lambda: self._ledger.append(self.id, piece)):
            raise NotOurs
        self._pieces.append(piece)

    async def _confirmed(self, outcome: Outcome) -> Outcome | None:
        """What became of it, by the response itself where a gateway may have invented a failure.

        Anything else is believed as it is: each look at a response that has ended is billed by LiteLLM once more.
        """
        if self._upstream_id is None or outcome.state != "failed":
            return outcome
        reply = await self._look(self._upstream.retrieve, self._upstream_id)
        if isinstance(reply, Reply) and reply.outcome is not None:
            return reply.outcome
        if isinstance(reply, PollFailed) and reply.hopeless:
            return outcome
        self._fallback = outcome
        return None

    # Following

    async def _follow(self, poll_after: float | None = None) -> None:
        """Look at the response, ever less often, until it has ended."""
        if self._record.mode == "stream" and not self._pieces:
            self._pieces = await self._keep(lambda: self._ledger.pieces(self.id))
        missing_since: float | None = None
        if poll_after is None and self._age >= self._timings.first_poll:  # picked up with many others: not all at once
            pause = random.uniform(0, self._timings.first_poll)  # noqa: S311
        else:
            pause = self._pause(poll_after)
        while True:
            await self._rest(min(pause, max(0.0, self._left)))
            if self._cancel.is_set():
                return await self._stop(_CANCELLED)
            if self._left <= 0:
                return await self._stop(_TOO_LATE)
            reply = await self._look(self._upstream.retrieve, self._upstream_id or "")
            if isinstance(reply, Reply):
                missing_since = None
                if reply.outcome is not None:
                    return await self._settle(reply.outcome)
            elif reply.hopeless:
                return await self._settle(self._fallback)
            elif reply.missing:
                missing_since = missing_since or time.monotonic()
                if time.monotonic() - missing_since >= self._timings.missing:
                    return await self._settle(self._fallback)
            pause = self._pause(reply.poll_after if isinstance(reply, Reply) else None)

    def _pause(self, poll_after: float | None) -> float:
        wished = None if poll_after is None else min(poll_after, _LONGEST_POLL_AFTER)
        pause = pause_at(self._age, self._timings) if wished is None else wished
        return max(pause, self._timings.first_poll, self._gate.jobs / self._timings.polls_per_second)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._cancel.wait()
        except TimeoutError:
            pass

    async def _look(self, look: Callable[..., Awaitable[Reply]], upstream_id: str) -> Reply | PollFailed:
        async with self._gate.polling():
            try:
                reply: Reply | PollFailed = await look(
                    upstream_id, payer=self._payer, timeout=self._timings.poll_timeout
                )
            except PollFailed as error:
                reply = error
        self._gate.polled(answered=isinstance(reply, Reply) or not reply.outage)
        return reply

    async def _stop(self, otherwise: Outcome) -> None:
        """Ask the gateway to stop it. If it had ended before, what became of it counts."""
        for look in (self._upstream.cancel, self._upstream.retrieve):
            reply = await self._look(look, self._upstream_id or "")
            if isinstance(reply, Reply) and reply.outcome is not None:
                stopped = reply.outcome.state == "cancelled"
                return await self._settle(otherwise if stopped else reply.outcome)
            if isinstance(reply, Reply):
                break
        return await self._settle(otherwise)

    # Writing down

    async def _settle(self, outcome: Outcome, upstream_id: str | None = None) -> None:
        if outcome.state == "failed":
            model = f", model {self._settings.model}" if outcome.error_code == "model_unavailable" else ""
            log.warning("%s: failed (%s%s)", self.id, outcome.error_code, model)
        if await self._keep(lambda: self._ledger.settle(self.id, self._with_text(outcome), upstream_id)):
            cost = (outcome.response or {}).get("cost_usd")
            seconds = round(max(0.0, time.time() - self._record.created_at), 1)
            count_ended(outcome.state, outcome.error_code, cost)
            log_run(
                "ended", self.id, state=outcome.state, error_code=outcome.error_code, seconds=seconds, cost_usd=cost
            )

    def _with_text(self, outcome: Outcome) -> Outcome:
        """What was streamed is kept even if the rest never came."""
        streamed = "".join(piece.text for piece in self._pieces)
        if outcome.output_text is not None or not streamed:
            return outcome
        return Outcome(outcome.state, outcome.error_code, streamed, outcome.response)

    async def _keep(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write to the ledger, however long it takes no change: what the gateway told us must not be lost."""
        pause, said = _LEDGER_RETRY, False
        while True:
            try:
                return await write()
            except LedgerUnavailable:
                pass
            except Exception as error:
                if not said:
                    log.error("%s: the ledger does not take a change (%s); tried again", self.id, kind_and_place(error))
                said, pause = True, min(2 * pause, self._timings.longest_poll)
            await asyncio.sleep(pause)
