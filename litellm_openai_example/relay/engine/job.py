"""One invocation from its claim to its end: submit it at most once, follow it, record its outcome.

Submitting and streaming are here; `poller` polls a response that the gateway has accepted. A run is cancelled here only
if it never left this machine. Any other is stopped at the gateway, if it can be stopped.

Longer than other files, because every decision that could pay twice, or lose a paid result, is explained beside it.
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
from .gate import Gate, until_next_try
from .lease import Lease
from .poller import Poller
from .replies import HeldBack, NotSent, OutcomeUnknown, Refused, Replies, Reply
from .request import research_request
from .row import NotOurs, Row
from .upstream import Upstream

_UNREACHED = Outcome("failed", "gateway_unavailable")
_PIECE = 4096


class Job:
    """The work on one invocation that this process owns.

    Args:
        record: as claimed (submitting or awaiting) or reclaimed (running).
        ledger, upstream, gate, lease, settings: shared by all jobs of the worker.

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
        self._sent = False  # True once the request may have left this machine
        self._late_id: str | None = None  # the gateway's id, if it came after this process had lost the run
        self._place = gate.enter()
        # Reclaimed: the gateway has accepted it, so nothing is left to submit.
        if record.upstream_id is not None:
            gate.memory.answered(record.id, record.upstream_id)
            self._submission_over()

    def cancel(self) -> None:
        """Cancel it: here before it is sent, at the gateway afterwards."""
        self._cancel.set()

    async def run(self) -> None:
        """Run it to its end, or until another process owns it."""
        try:
            await self._run()
        finally:
            self._submission_over()

    def _submission_over(self) -> None:
        self._gate.free(self._place)
        self.submit_done.set()

    async def _run(self) -> None:
        while True:
            try:
                return await (self._poller.follow() if self.submit_done.is_set() else self._submit())
            except NotOurs:
                return await self._lost()
            except Exception as error:
                log.error("%s: unexpected %s", self.id, kind_and_place(error))
                # Even a bug must not pay twice: a request that may have left is not repeated, one that has not is
                # requeued. After the submission the run may go on at the gateway, so polling resumes.
                if not self.submit_done.is_set():
                    return await (self._row.settle(INDETERMINATE) if self._sent else self._try_later(None))
                await asyncio.sleep(self._timings.longest_poll)

    async def _lost(self) -> None:
        """Give the run up. If its id came too late, it was reported as indeterminate: stop it at the gateway."""
        self._gate.free(self._place)
        if self._late_id is not None:
            await self._poller.stop_unowned(self._late_id)

    @property
    def followed(self) -> float:
        """Seconds since the first attempt, not counting time without a relay process."""
        return self._poller.followed

    @property
    def can_be_left(self) -> bool:
        """Can another process continue from the ledger? Not while only this one knows the gateway's answer."""
        return self.submit_done.is_set() and not self._row.settling

    # Submitting

    async def _submit(self) -> None:
        if self._cancel.is_set():
            return await self._row.settle(CANCELLED)
        if not self._lease.may_send:  # others may have declared this process dead
            return await self._requeue(0.0)
        if self._poller.left_to_submit <= 0:
            return await self._row.settle(_UNREACHED)
        settings = self._settings
        try:
            arguments = DeepResearchArguments.model_validate_json(self._record.arguments)
        except ValidationError:  # accepted by a newer relay, which will submit it
            return await self._requeue(until_next_try(self._record.attempts, None, self._timings))
        request = research_request(arguments, settings.model, settings.request)
        submission = self._upstream.submit(
            request,
            # The provider has no stream for a window, and a connection would not last for hours.
            stream=arguments.stream and not arguments.window,
            call_id=self.id,
            payer=self._record.payer,
            timeout=self._poller.left,
            prepare=self._prepare,
        )
        async with Replies(submission) as replies:
            try:
                reply = await self._first_reply(replies)
            except Refused as error:
                # For good, and without execution. It says nothing about the gateway's capacity, so the window stays.
                self._gate.memory.not_executed(self.id)
                response = {"model": settings.model} if error.code == "model_unavailable" else error.response
                return await self._row.settle(Outcome("failed", error.code, None, response))
            except NotSent as error:
                # Certainly not executed: another attempt cannot pay twice.
                self._gate.refused(self._place, error.delay)
                return await self._try_later(error.delay)
            except HeldBack:
                # Nothing has left. If another process owns the run by now, requeuing changes nothing.
                return await (self._row.settle(CANCELLED) if self._cancel.is_set() else self._requeue(0.0))
            except OutcomeUnknown:
                # It may have been executed and billed. A repeat could pay twice, so the doubt is the outcome.
                self._gate.refused(self._place)
                return await self._row.settle(INDETERMINATE)
            # It has not left, and cannot leave while this is written: `_prepare` holds back a cancelled request.
            if reply is None:
                return await self._row.settle(CANCELLED)
            self._gate.accepted(self._place, finished=reply.outcome is not None and not reply.streaming)
            return await self._answered(reply, replies)

    async def _first_reply(self, replies: Replies) -> Reply | None:
        """Return the first reply to the submission; None if it was cancelled before it left this machine.

        Once it has left, a cancel waits for the reply: the gateway can stop a response only by its id.
        """
        leaving: asyncio.Task[None] | None = None
        stays_until = time.monotonic() + self._timings.gate
        try:
            while self._sent or not self._cancel.is_set():
                left = stays_until - time.monotonic()
                if left <= 0 and leaving is None:  # a task: a silent ledger must not keep the answer unread
                    leaving = asyncio.create_task(self._free_place())
                reply = await replies.next(left if left > 0 else self._timings.tick, self._cancel)
                if reply is not None:
                    return reply
            return None
        finally:
            if leaving is not None:
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)

    async def _free_place(self) -> None:
        await self._row.leave_gate()
        self._gate.free(self._place)

    async def _try_later(self, delay: float | None) -> None:
        """Requeue a run that was certainly not executed, unless it was cancelled or its time is up."""
        self._gate.memory.not_executed(self.id)
        if self._cancel.is_set():
            return await self._row.settle(CANCELLED)
        seconds = until_next_try(self._record.attempts, delay, self._timings)
        # The next attempt would come after the time limit.
        if seconds >= self._poller.left_to_submit:
            return await self._row.settle(_UNREACHED)
        return await self._requeue(seconds)

    async def _requeue(self, delay: float) -> None:
        # Before the row: this process may claim it again at once, and must not take it for a run that it has sent.
        self._gate.memory.not_executed(self.id)
        self._gate.memory.waits(self.id, self._poller.begun)
        await self._row.requeue(delay, self.followed + delay)

    async def _answered(self, reply: Reply, replies: Replies) -> None:
        """Record the id of an accepted run, then read its stream or poll it."""
        # The answer of a model that blocks: it has ended already.
        if reply.outcome is not None and not reply.streaming:
            return await self._poller.end(reply.outcome, reply.response_id)
        if reply.outcome is not None and reply.outcome.state == "failed":
            return await self._doubted(reply.response_id)
        # Before any text: with the id in the ledger, every process can finish the run.
        if reply.response_id is not None:
            await self._submitted(reply.response_id)
        self._gate.free(self._place)
        if reply.streaming:
            outcome = await self._relay_text(reply, replies)
            if outcome is not None:
                return await self._poller.end(outcome)
            # Accepted, but the stream named no id, so nothing can be polled.
            if self._row.upstream_id is None:
                return await self._row.settle(self._poller.fallback)
        return await self._poller.follow(reply.poll_after)

    async def _doubted(self, response_id: str | None) -> None:
        """Verify a stream that begins with a failure: LiteLLM invents one, id included, when its own connection breaks.

        The provider may have accepted the request, so the run has failed only if the response itself says so.
        """
        looked = await self._poller.retrieve(response_id) if response_id else None
        if looked and looked.outcome is not None:
            return await self._poller.end(looked.outcome, response_id)
        # No id, or an invented one: nothing can tell whether the provider executed the request.
        if response_id is None or looked is None or not (looked.known or looked.outage):
            return await self._row.settle(INDETERMINATE)
        # Running, or the gateway is away. If the response never turns up, the doubt remains.
        self._poller.fallback = INDETERMINATE
        await self._submitted(response_id)
        self._gate.free(self._place)
        return await self._poller.follow()

    async def _submitted(self, upstream_id: str) -> None:
        self._poller.accepted = time.monotonic()
        # In memory first: the ledger may take its time, or be set back to before this.
        self._gate.memory.answered(self.id, upstream_id)
        try:
            await self._row.submitted(upstream_id)
        except NotOurs:
            # Another process has reported it as indeterminate. At the gateway it would run on, paid for and never read.
            self._late_id = upstream_id
            raise
        finally:
            self.submit_done.set()

    async def _prepare(self) -> None:
        """Commit the intent at the last moment before the request leaves. Raises HeldBack."""
        # Few at a time: a crash between this commit and the first byte makes a run indeterminate that was never sent.
        async with self._gate.departing:
            if self._cancel.is_set() or not await self._row.commit_intent():
                raise HeldBack
        # Check again: during the commit, others may have declared this process dead, or a client may have cancelled.
        if self._cancel.is_set() or not self._lease.may_send:
            raise HeldBack
        # From here on only the gateway can say whether it was executed.
        self._sent = True
        self._place.left_at = time.monotonic()
        self._gate.memory.sent(self.id)
        if self._record.state == "awaiting":
            # The model blocks, so its answer takes as long as the run: only departing submissions hold a place.
            self._gate.free(self._place)

    # Streaming

    async def _relay_text(self, reply: Reply | None, replies: Replies) -> Outcome | None:
        """Store the text as it arrives; return the outcome, None if polling has to find it."""
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
                # Polling takes over and repeats the request, unless the run cannot be stopped: then reading goes on.
                if stopped is not None or self._poller.may_ask_to_stop:
                    return stopped
            if stop and not ask:
                return None
            # A silent stream may be a lost connection, while the run has long ended: poll the response.
            if now - heard >= self._timings.stall:
                known = self._row.upstream_id
                looked = await self._poller.retrieve(known) if known else None
                if looked and looked.outcome is not None:
                    return looked.outcome
                heard = time.monotonic()
            reply = await replies.next(self._timings.flush if text else self._timings.stall, self._cancel)

    async def _confirmed(self, outcome: Outcome) -> Outcome | None:
        """Return the outcome of a stream. Poll a failure first, because the gateway may have invented it.

        Any other outcome is trusted: LiteLLM bills a response that has ended once more with each poll.
        """
        if self._row.upstream_id is None or outcome.state != "failed":
            return outcome
        reply = await self._poller.retrieve(self._row.upstream_id)
        if reply.outcome is not None:
            return reply.outcome
        # It can never be polled, so the stream's report has to do.
        if reply.hopeless:
            return outcome
        # Not confirmed yet. If polling finds no response in the end, the reported failure stands.
        self._poller.fallback = outcome
        return None
