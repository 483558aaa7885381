"""The work of one process: claim what is queued, carry on what was left behind, keep the lease, and stop in order.

At most `submit_gate` submissions are in flight at a time, so that a crash leaves at most that many of which nobody
knows whether they were paid. One that gets no answer for some seconds leaves the gate: its model answers only when it
is done, and would hold up all others.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from .database import LedgerUnavailable
from .job import Desk, Job
from .ledger import Ledger
from .log import kind_and_place, log
from .records import Record
from .settings import Settings
from .upstream import Upstream

_POLLS_AT_ONCE = 32
_PURGE_EVERY = 600.0
_TROUBLE_PAUSE = 0.5


class Runner:
    """Runs invocations until it is stopped.

    Args:
        ledger: opened.
        upstream: the gateway.
        settings: limits and timings.
    """

    def __init__(self, ledger: Ledger, upstream: Upstream, settings: Settings) -> None:
        self.jobs: dict[str, Job] = {}
        self._ledger = ledger
        self._settings = settings
        self._timings = settings.timings
        self._desk = Desk(
            ledger=ledger,
            upstream=upstream,
            settings=settings,
            polls=asyncio.Semaphore(_POLLS_AT_ONCE),
            may_send=self._may_send,
            active=lambda: len(self.jobs),
            not_sent=self._not_sent,
            sent=self._sent,
            left_gate=self._left_gate,
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._wanted = asyncio.Event()
        self._queued = False  # whether there may be something to claim
        self._gate_free = settings.submit_gate
        self._blocks = False  # whether the model is known to answer only when it is done
        self._trouble = False  # whether the last submission could not be sent
        self._unsure = False  # whether the answer to a claim was lost
        self._last_beat = self._beating_since = 0.0
        self._next_purge = 0.0

    async def start(self) -> None:
        """Take the lease and begin. Raises LedgerUnavailable."""
        await self._beat()
        loops = (self._keep_lease(), self._dispatch(), self._look_after(), self._look_for_model())
        self._loops = [asyncio.create_task(loop) for loop in loops]

    async def _look_for_model(self) -> None:
        """Say at the start what every run would fail with."""
        model = self._settings.model
        nearest = await self._desk.upstream.missing_model(model, timeout=self._timings.poll_timeout)
        if nearest is not None:
            like = f"; it lists {', '.join(nearest)}" if nearest else ""
            log.warning("the gateway does not list the model %s (RELAY_MODEL)%s", model, like)

    def wake(self) -> None:
        """There is something to claim."""
        self._queued = True
        self._wanted.set()

    def cancel(self, invocation_id: str) -> None:
        """Somebody wants this invocation cancelled, which may be another process's."""
        job = self.jobs.get(invocation_id)
        if job is not None:
            job.cancel()

    async def stop(self, drain: float) -> None:
        """Take no more work, let submissions in flight finish for `drain` seconds, and leave the rest to others."""
        for loop in self._loops[1:]:
            loop.cancel()
        for invocation_id, job in self.jobs.items():
            if job.landed.is_set():
                self._tasks[invocation_id].cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await asyncio.gather(*(job.landed.wait() for job in self.jobs.values()))
        tasks = [*self._loops, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._ledger.leave()
        except LedgerUnavailable:
            log.warning("the ledger is away: others will take over when the lease is over")

    # The lease

    async def _beat(self) -> None:
        began = time.monotonic()
        await self._ledger.heartbeat()
        if began - self._last_beat >= self._timings.lease:
            self._beating_since = began
        self._last_beat = began

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._timings.lease / 3)
            with suppress(LedgerUnavailable):
                await self._beat()

    def _may_send(self) -> bool:
        return time.monotonic() - self._last_beat < self._timings.lease * 0.75

    @property
    def _may_judge(self) -> bool:
        """Whether all had the time to renew their leases: the ledger itself may have been away."""
        return self._may_send() and time.monotonic() - self._beating_since >= self._timings.lease

    # Claiming

    async def _dispatch(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._claim()
            except LedgerUnavailable:
                self._unsure = True
                await asyncio.sleep(self._timings.tick)
                self.wake()
            if self._trouble:
                await asyncio.sleep(_TROUBLE_PAUSE)

    async def _claim(self) -> None:
        if self._unsure:
            await self._ledger.put_back_unknown(self.jobs.keys())
            self._unsure = False
        while self._queued and (free := self._free()) > 0 and self._may_send():
            self._queued = False  # until somebody says so again, perhaps while we claim
            claimed = await self._ledger.claim(free, blocks=self._blocks)
            self._queued = self._queued or len(claimed) == free
            for record in claimed:
                self._run(record)
            if self._trouble:
                return

    def _free(self) -> int:
        free = self._settings.max_running - len(self.jobs)
        if self._trouble:
            return min(free, 1, self._gate_free)
        return free if self._blocks else min(free, self._gate_free)

    def _run(self, record: Record) -> None:
        job = Job(record, self._desk)
        self.jobs[record.id] = job
        self._gate_free -= record.state == "submitting"
        task = asyncio.create_task(job.run(), name=record.id)
        self._tasks[record.id] = task
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        invocation_id = task.get_name()
        self.jobs.pop(invocation_id, None)
        self._tasks.pop(invocation_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: ended by %s", invocation_id, kind_and_place(error))
        self._wanted.set()

    def _left_gate(self) -> None:
        self._gate_free += 1
        self._wanted.set()

    def _sent(self, finished: bool) -> None:
        self._trouble = False
        self._blocks = finished

    def _not_sent(self, pause: float) -> None:
        if not self._trouble:
            log.warning("the gateway takes no work at the moment; the next try is in %.1f s", pause)
        self._trouble = True

    # What is found in the ledger

    async def _look_after(self) -> None:
        while True:
            try:
                await self._carry_on()
                if self.jobs:
                    for invocation_id in await self._ledger.cancel_requests():
                        self.cancel(invocation_id)
                if time.monotonic() >= self._next_purge:
                    await self._purge()
            except LedgerUnavailable:
                pass
            await asyncio.sleep(self._timings.tick)

    async def _carry_on(self) -> None:
        judge = self._may_judge
        queued, orphaned = await self._ledger.pending(judge=judge)
        if queued:
            self.wake()
        if not orphaned or not self._may_send():
            return
        for record in await self._ledger.bury(judge=judge):
            log.warning("%s: its process died while it was submitted (submission_indeterminate)", record.id)
        for record in await self._ledger.take_over(judge=judge):
            if record.id not in self.jobs:
                self._run(record)

    async def _purge(self) -> None:
        more = True
        while more:
            more = await self._ledger.purge(self._settings.retention) > 0
        self._next_purge = time.monotonic() + _PURGE_EVERY
