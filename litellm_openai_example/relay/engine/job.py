"""One invocation from the intent to its end: submit it once, follow it, write down its outcome.

Submitting and streaming stand here; `poller` follows what the gateway has accepted. Only what never left this machine
is cancelled here: anything else is stopped at the gateway, if at all.
"""

from __future__ import annotations

import asyncio
import time

from pydantic import ValidationError

from ...research.arguments import DeepResearchArguments
from ..ledger.records import Outcome, Record
from ..ledger.states import CANCELLED, INDETERMINATE, Ledger
from ..log import kind_and_place, log
from ..settings import Settings
from .failures import HeldBack, NotSent, OutcomeUnknown, PollFailed, Refused
from .gate import Gate, until_next_try
from .lease import Lease
from .poller import Poller
from .prompt import research_request
from .replies import Replies, Reply
from .row import NotOurs, Row
from .upstream import Upstream

_UNREACHED = Outcome("failed", "gateway_unavailable")
_PIECE = 4096


class Job:
    """Runs one invocation that this process owns.

    Args:
        record: claimed (submitting or awaiting) or reclaimed (running).
        ledger, upstream, gate, lease, settings: the worker's.

    Attributes:
        submit_done: set once no submission is in flight.
    """

    def __init__(
        self, record: Record, ledger: Ledger, upstream: Upstream, gate: Gate, lease: Lease, settings: Settings
    ) -> None:
        self.id = record.id
        self.submit_done = asyncio.Event()
        self._record = record
        self._row = Row(record, ledger, settings)
        self._upstream = upstream
        self._gate = gate
        self._lease = lease
        self._settings = settings
        self._timings = settings.timings
        self._poller = Poller(record, self._row, upstream, gate, settings)
        self._cancel = self._poller.cancel
        self._sent = False  # whether it may have left this machine
        self._late_id: str | None = None  # the gateway's id that came when the run was no longer this process's
        self._place = gate.enter()
        if record.upstream_id is not None:
            gate.memory.answered(record.id, record.upstream_id)
            self._submission_over()

    def cancel(self) -> None:
        """Cancel it: before it is sent here, afterwards at the gateway."""
        self._cancel.set()

    async def run(self) -> None:
        """Run it to its end, or until another process owns it."""
        try:
            await self._run()
        finally:
            self._submission_over()

    def _submission_over(self) -> None:
        self._place.free()
        self.submit_done.set()

    async def _run(self) -> None:
        while True:
            try:
                return await (self._poller.follow() if self.submit_done.is_set() else self._submit())
            except NotOurs:
                return await self._lost()
            except Exception as error:
                log.error("%s: unexpected %s", self.id, kind_and_place(error))
                if not self.submit_done.is_set():
                    return await (self._row.settle(INDETERMINATE) if self._sent else self._try_later(None))
                await asyncio.sleep(self._timings.longest_poll)

    async def _lost(self) -> None:
        """Let go of it. If its id came too late, it was reported as indeterminate, and is stopped at the gateway."""
        self._place.free()
        if self._late_id is not None:
            await self._poller.stop_unowned(self._late_id)

    @property
    def followed(self) -> float:
        """Seconds since its first attempt, without those in which no process ran."""
        return self._poller.followed

    # Submitting

    async def _submit(self) -> None:
        if self._cancel.is_set():
            return await self._row.settle(CANCELLED)
        if not self._lease.may_send:  # others may have declared this process dead
            return await self._requeue(0.0)
        if self._poller.left <= 0:
            return await self._row.settle(_UNREACHED)
        settings = self._settings
        try:
            arguments = DeepResearchArguments.model_validate_json(self._record.arguments)
        except ValidationError:  # accepted by a newer relay, which will submit it
            return await self._requeue(until_next_try(self._record.attempts, None, self._timings))
        request = research_request(arguments, settings.model, settings.request)
        submission = self._upstream.submit(
            request,
            stream=arguments.stream,
            call_id=self.id,
            payer=self._record.payer,
            timeout=self._poller.left,
            prepare=self._prepare,
        )
        async with Replies(submission) as replies:
            try:
                reply = await self._first_reply(replies)
            except Refused as error:
                # Says nothing about how much the gateway can take, so the gate is not told.
                self._gate.memory.not_executed(self.id)
                response = {"model": settings.model} if error.code == "model_unavailable" else error.response
                return await self._row.settle(Outcome("failed", error.code, None, response))
            except NotSent as error:
                self._place.refused(error.delay)
                return await self._try_later(error.delay)
            except HeldBack:
                return await (self._row.settle(CANCELLED) if self._cancel.is_set() else self._requeue(0.0))
            except OutcomeUnknown:
                self._place.refused()
                return await self._row.settle(INDETERMINATE)
            if reply is None:
                return await self._row.settle(CANCELLED)
            self._place.accepted(finished=reply.outcome is not None and not reply.streaming)
            return await self._answered(reply, replies)

    async def _first_reply(self, replies: Replies) -> Reply | None:
        """Return the answer to the submission; None if it was cancelled before it left this machine.

        Once it has left, a cancel waits for the answer: only the gateway's id can be cancelled there.
        """
        leaving: asyncio.Task[None] | None = None
        stays_until = time.monotonic() + self._timings.gate
        try:
            while self._sent or not self._cancel.is_set():
                left = stays_until - time.monotonic()
                if left <= 0 and leaving is None:  # a task: a silent ledger must not keep the answer unread
                    leaving = asyncio.create_task(self._free_place())
                reply = await replies.next(left if left > 0 else self._timings.tick, self._not_yet_cancelled)
                if reply is not None:
                    return reply
            return None
        finally:
            if leaving is not None:
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)

    @property
    def _not_yet_cancelled(self) -> asyncio.Event | None:
        """The event that ends a wait early: the first cancel. Later waits would end before they began."""
        return None if self._cancel.is_set() else self._cancel

    async def _free_place(self) -> None:
        await self._row.leave_gate()
        self._place.free()

    async def _try_later(self, delay: float | None) -> None:
        """Give it back to the queue, certainly not executed, unless it was cancelled or its time is over."""
        self._gate.memory.not_executed(self.id)
        if self._cancel.is_set():
            return await self._row.settle(CANCELLED)
        seconds = until_next_try(self._record.attempts, delay, self._timings)
        if seconds >= self._poller.left:
            return await self._row.settle(_UNREACHED)
        return await self._requeue(seconds)

    async def _requeue(self, delay: float) -> None:
        self._gate.memory.not_executed(self.id)
        self._gate.memory.waits(self.id, self._poller.begun)
        await self._row.requeue(delay, self.followed + delay)

    async def _answered(self, reply: Reply, replies: Replies) -> None:
        """Follow what the gateway has accepted, after keeping its id."""
        if reply.outcome is not None and not reply.streaming:
            return await self._poller.end(reply.outcome, reply.response_id)
        if reply.outcome is not None and reply.outcome.state == "failed":
            return await self._doubted(reply.response_id)
        if reply.response_id is not None:
            await self._submitted(reply.response_id)
        self._place.free()
        if reply.streaming:
            outcome = await self._relay_text(reply, replies)
            if outcome is not None:
                return await self._poller.end(outcome)
            if self._row.upstream_id is None:
                return await self._row.settle(self._poller.fallback)
        return await self._poller.follow(reply.poll_after)

    async def _doubted(self, response_id: str | None) -> None:
        """Verify a stream that begins with a failure: LiteLLM invents one, id included, when its own connection breaks.

        The provider may have accepted it, so it is a failure only if the response itself says so.
        """
        looked = await self._poller.retrieve(response_id) if response_id else None
        if isinstance(looked, Reply) and looked.outcome is not None:
            return await self._poller.end(looked.outcome, response_id)
        if response_id is None or looked is None or (isinstance(looked, PollFailed) and not looked.outage):
            return await self._row.settle(INDETERMINATE)
        self._poller.fallback = INDETERMINATE
        await self._submitted(response_id)
        self._place.free()
        return await self._poller.follow()

    async def _submitted(self, upstream_id: str) -> None:
        self._poller.accepted = time.monotonic()
        self._gate.memory.answered(self.id, upstream_id)
        try:
            await self._row.submitted(upstream_id)
        except NotOurs:
            # Another process has given it up as indeterminate; it must not go on at the gateway unseen.
            self._late_id = upstream_id
            raise
        finally:
            self.submit_done.set()

    async def _prepare(self) -> None:
        """Commit the intent, in the last moment before the request leaves. Raises HeldBack."""
        # Few at a time: a crash between this commit and the first byte makes a run indeterminate that was never sent.
        async with self._gate.departing:
            if self._cancel.is_set() or not await self._row.commit_intent():
                raise HeldBack
        # Once more: the commit may have taken so long that others have declared this process dead.
        if self._cancel.is_set() or not self._lease.may_send:
            raise HeldBack
        # From here on only the gateway can say whether it was executed.
        self._sent = True
        self._place.leaves_now()
        self._gate.memory.sent(self.id)
        if self._record.state == "awaiting":
            # The model blocks: its answer comes at the end, so only departing submissions hold a place.
            self._place.free()

    # Streaming

    async def _relay_text(self, reply: Reply | None, replies: Replies) -> Outcome | None:
        """Store the text as it arrives; return the outcome, None if the stream broke or cannot be believed."""
        text, since, heard = "", 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            if reply is not None:
                heard, since = now, since if text else now
                text += reply.text
                if reply.response_id is not None and self._row.upstream_id is None:
                    await self._submitted(reply.response_id)
            ask = self._poller.may_ask_to_stop
            stop = replies.ended or ask or self._poller.left <= 0
            outcome = reply.outcome if reply is not None else None
            if text and (stop or outcome is not None or len(text) >= _PIECE or now - since >= self._timings.flush):
                await self._row.append(text)
                text = ""
            if outcome is not None:
                return await self._confirmed(outcome)
            if ask:
                stopped = await self._poller.ask_to_stop()
                if stopped is not None or self._poller.may_ask_to_stop:
                    return stopped
            if stop and not ask:
                return None
            if now - heard >= self._timings.stall:
                known = self._row.upstream_id
                looked = await self._poller.retrieve(known) if known else None
                if isinstance(looked, Reply) and looked.outcome is not None:
                    return looked.outcome
                heard = time.monotonic()
            reply = await replies.next(self._timings.flush if text else self._timings.stall, self._not_yet_cancelled)

    async def _confirmed(self, outcome: Outcome) -> Outcome | None:
        """Return the outcome, by the response itself if the gateway may have invented a failure.

        Anything else is believed: LiteLLM bills each poll of a response that has ended once more.
        """
        if self._row.upstream_id is None or outcome.state != "failed":
            return outcome
        reply = await self._poller.retrieve(self._row.upstream_id)
        if isinstance(reply, Reply) and reply.outcome is not None:
            return reply.outcome
        if isinstance(reply, PollFailed) and reply.hopeless:
            return outcome
        self._poller.fallback = outcome
        return None
