"""One invocation from the intent to its end: submit it once, follow it, write down what became of it.

Longer than other files: submitting, streaming and following hand over to each other in both directions, and share what
decides when each of them stops (a cancel, the time that is left, what is believed if nothing better is heard). What can
be told apart from that stands elsewhere: `entry`, `inbox`, `upstream`, `gate`, `pace`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from ...research.arguments import DeepResearchArguments
from ..ledger.ledger import CANCELLED, INDETERMINATE, Ledger
from ..ledger.records import Outcome, Record
from ..log import kind_and_place, log
from ..settings import Settings
from .entry import LOST, Entry, NotOurs
from .failures import HeldBack, NotSent, OutcomeUnknown, PollFailed, Refused
from .gate import Gate
from .hub import happens
from .inbox import Inbox
from .lease import Lease
from .pace import pause, until_next_try
from .prompt import research_request
from .upstream import Reply, Upstream

_TOO_LATE = Outcome("failed", "research_timeout")
_PIECE = 4096


class Job:
    """Runs one invocation that this process owns.

    Args:
        record: claimed (submitting or awaiting) or reclaimed (running).
        ledger, upstream, gate, lease, settings: the worker's.

    `submit_done` is set once no submission is in flight.
    """

    def __init__(
        self, record: Record, ledger: Ledger, upstream: Upstream, gate: Gate, lease: Lease, settings: Settings
    ) -> None:
        self.id = record.id
        self.submit_done = asyncio.Event()
        self._record = record
        self._entry = Entry(record, ledger, settings)
        self._upstream = upstream
        self._gate = gate
        self._lease = lease
        self._settings = settings
        self._timings = settings.timings
        self._payer = record.payer
        self._begun = time.monotonic() - (record.age or 0.0)
        self._accepted = self._begun  # by the gateway
        self._cancel = asyncio.Event()
        self._fallback = LOST
        self._in_gate = record.upstream_id is None
        if self._in_gate:
            gate.enter()
        else:
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
                    await self._entry.settle(INDETERMINATE)
                    return
                await asyncio.sleep(self._timings.longest_poll)

    @property
    def _followed(self) -> float:
        """Seconds since the gateway took it: a submission that was kept waiting gives no reason to look sooner."""
        return time.monotonic() - self._accepted

    @property
    def _left(self) -> float:
        return self._settings.research_timeout - (time.monotonic() - self._begun)

    # Submitting

    async def _submit(self) -> None:
        if self._cancel.is_set():
            return await self._entry.settle(CANCELLED)
        if not self._lease.may_send:  # another process may believe us dead by now
            return await self._entry.requeue(0.0)
        if self._left <= 0:
            return await self._entry.settle(Outcome("failed", "gateway_unavailable"))
        settings = self._settings
        try:
            arguments = DeepResearchArguments.model_validate_json(self._record.arguments)
        except ValidationError:  # a newer relay has accepted it, and knows what they mean
            return await self._entry.requeue(until_next_try(self._record.attempts, None, self._timings))
        request = research_request(arguments, settings.model, settings.request)
        replies = self._upstream.submit(
            request,
            stream=arguments.stream,
            call_id=self.id,
            payer=self._payer,
            timeout=self._left,
            prepare=self._prepare,
        )
        async with Inbox(replies) as inbox:
            try:
                reply = await self._first_reply(inbox)
            except Refused as error:
                response = {"model": settings.model} if error.code == "model_unavailable" else None
                return await self._entry.settle(Outcome("failed", error.code, None, response))
            except NotSent as error:
                return await self._try_later(error.delay)
            except HeldBack:
                return await self._entry.requeue(0.0)
            except OutcomeUnknown:
                return await self._entry.settle(INDETERMINATE)
            if reply is None:
                return await self._entry.settle(CANCELLED)
            self._gate.sent(finished=reply.outcome is not None and not reply.streaming)
            return await self._answered(reply, inbox)

    async def _first_reply(self, inbox: Inbox) -> Reply | None:
        """The answer to the submission; None if it was cancelled while the gateway kept it open."""
        reply = await inbox.next(self._timings.gate)
        if reply is not None:
            return reply
        leaving = asyncio.create_task(self._free_place())  # a silent ledger must not keep the answer unread
        try:
            while reply is None and not self._cancel.is_set():
                reply = await inbox.next(self._timings.tick, self._cancel)
            return reply
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _free_place(self) -> None:
        await self._entry.leave_gate()
        self._leave_gate()

    async def _try_later(self, delay: float | None) -> None:
        seconds = until_next_try(self._record.attempts, delay, self._timings)
        if seconds >= self._left:
            return await self._entry.settle(Outcome("failed", "gateway_unavailable"))
        self._gate.not_sent(seconds)
        return await self._entry.requeue(seconds)

    async def _answered(self, reply: Reply, inbox: Inbox) -> None:
        """The gateway has it: keep its id before anything else happens."""
        if reply.outcome is not None and not reply.streaming:
            return await self._entry.settle(reply.outcome, reply.response_id)
        if reply.outcome is not None and reply.outcome.state == "failed":
            return await self._doubted(reply.response_id)
        if reply.response_id is not None:
            await self._submitted(reply.response_id)
        self._leave_gate()
        if reply.streaming:
            outcome = await self._relay_text(reply, inbox)
            if outcome is not None:
                return await self._entry.settle(outcome)
            if self._entry.upstream_id is None:
                return await self._entry.settle(self._fallback)
        return await self._follow(reply.poll_after)

    async def _doubted(self, response_id: str | None) -> None:
        """A stream that begins with a failure: LiteLLM invents that, id included, when its own connection breaks.

        The provider may have accepted it all the same, so it is a failure only if the response itself says so.
        """
        looked = await self._look(self._upstream.retrieve, response_id) if response_id else None
        if isinstance(looked, Reply) and looked.outcome is not None:
            return await self._entry.settle(looked.outcome, response_id)
        if response_id is None or looked is None or (isinstance(looked, PollFailed) and not looked.outage):
            return await self._entry.settle(INDETERMINATE)
        self._fallback = INDETERMINATE
        await self._submitted(response_id)
        self._leave_gate()
        return await self._follow()

    async def _submitted(self, upstream_id: str) -> None:
        self._accepted = time.monotonic()
        try:
            await self._entry.submitted(upstream_id)
        except NotOurs:
            # Reported as indeterminate meanwhile: nobody will ever read what it costs to go on.
            log.warning("%s: lost to another process while it was submitted; asking the gateway to stop it", self.id)
            await self._look(self._upstream.cancel, upstream_id)
            raise
        self.submit_done.set()

    async def _prepare(self) -> None:
        """Commit the intent, in the last moment before the request leaves. Raises HeldBack."""
        if not await self._entry.commit_intent() or not self._lease.may_send:
            raise HeldBack
        if self._record.state == "awaiting":
            # The model blocks: its answer comes at the end, and the place is for what has not left this machine yet.
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
                if reply.response_id is not None and self._entry.upstream_id is None:
                    await self._submitted(reply.response_id)
            stop = inbox.ended or self._cancel.is_set() or self._left <= 0
            outcome = reply.outcome if reply is not None else None
            if text and (stop or outcome is not None or len(text) >= _PIECE or now - since >= self._timings.flush):
                await self._entry.append(text)
                text = ""
            if outcome is not None:
                return await self._confirmed(outcome)
            if stop:
                return None
            if now - heard >= self._timings.stall:
                known = self._entry.upstream_id
                looked = await self._look(self._upstream.retrieve, known) if known else None
                if isinstance(looked, Reply) and looked.outcome is not None:
                    return looked.outcome
                heard = time.monotonic()
            reply = await inbox.next(self._timings.flush if text else self._timings.stall, self._cancel)

    async def _confirmed(self, outcome: Outcome) -> Outcome | None:
        """What became of it, by the response itself where a gateway may have invented a failure.

        Anything else is believed as it is: each look at a response that has ended is billed by LiteLLM once more.
        """
        if self._entry.upstream_id is None or outcome.state != "failed":
            return outcome
        reply = await self._look(self._upstream.retrieve, self._entry.upstream_id)
        if isinstance(reply, Reply) and reply.outcome is not None:
            return reply.outcome
        if isinstance(reply, PollFailed) and reply.hopeless:
            return outcome
        self._fallback = outcome
        return None

    # Following

    async def _follow(self, poll_after: float | None = None) -> None:
        """Look at the response, ever less often, until it has ended."""
        await self._entry.load_pieces()
        missing_since: float | None = None
        if poll_after is None and self._followed >= self._timings.first_poll:  # picked up: not with all others at once
            rest = random.uniform(0, self._timings.first_poll)  # noqa: S311
        else:
            rest = pause(poll_after, self._followed, self._gate.jobs, self._timings)
        while True:
            await happens(self._cancel, min(rest, max(0.0, self._left)))
            if self._cancel.is_set():
                return await self._stop(CANCELLED)
            if self._left <= 0:
                return await self._stop(_TOO_LATE)
            reply = await self._look(self._upstream.retrieve, self._entry.upstream_id or "")
            if isinstance(reply, Reply):
                missing_since = None
                if reply.outcome is not None:
                    return await self._entry.settle(reply.outcome)
            elif reply.hopeless:
                return await self._entry.settle(self._fallback)
            elif reply.missing:
                missing_since = missing_since or time.monotonic()
                if time.monotonic() - missing_since >= self._timings.missing:
                    return await self._entry.settle(self._fallback)
            poll_after = reply.poll_after if isinstance(reply, Reply) else None
            rest = pause(poll_after, self._followed, self._gate.jobs, self._timings)

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
            reply = await self._look(look, self._entry.upstream_id or "")
            if isinstance(reply, Reply) and reply.outcome is not None:
                stopped = reply.outcome.state == "cancelled"
                return await self._entry.settle(otherwise if stopped else reply.outcome)
            if isinstance(reply, Reply):
                break
        return await self._entry.settle(otherwise)
