"""The worker of one process: claim queued runs, recover orphans, renew the lease, drain, and shut down in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from ..ledger.failures import LedgerUnavailable
from ..ledger.records import Record
from ..ledger.schema import IN_FLIGHT, IS_IN_FLIGHT, IS_RUNNING
from ..ledger.states import INDETERMINATE, Ledger
from ..log import kind_and_place, log
from ..metrics import count_ended, expect_runs
from ..settings import Settings
from ..tasks import keep_going
from .gate import Gate, until_next_try
from .job import Job
from .lease import Lease
from .upstream import Upstream

_PURGE_EVERY = 600.0
_RECOVERED_AT_ONCE = 500  # orphans: more would hold up the starts behind them, and the event loop
_KEEP_EVERY = 30.0  # seconds between two writes of `followed`: a killed process leaves at most as many uncounted
_READ_AT_ONCE = 500
_UNKNOWN = INDETERMINATE.error_code
_LEAVING = (0.5, 2.0)  # seconds for the last write: after a full drain, after a short one


class Worker:
    """The loops of one process that claim, run and recover invocations until it is stopped.

    Args:
        ledger: opened.
        upstream: the gateway.
        settings: limits and timings.

    Attributes:
        jobs: the runs of this process, by the id of the invocation.
        draining: True once an operator wants this process to end up without work; it serves its clients meanwhile, and
            never takes work again.
        on_failure: called when a loop has ended that must run forever: the process can no longer work.
    """

    def __init__(self, ledger: Ledger, upstream: Upstream, settings: Settings) -> None:
        self.jobs: dict[str, Job] = {}
        self.draining = False
        self.on_failure: Callable[[], None] = lambda: None
        self._ledger = ledger
        self._upstream = upstream
        self._settings = settings
        expect_runs(settings.model)  # a series that exists from the start shows its first value in an increase
        self._timings = settings.timings
        self._gate = Gate(settings.submits, settings.timings.polls_per_second)
        self._lease = Lease(ledger, settings.timings.lease)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._handed_over: set[str] = set()  # runs whose jobs were cancelled for that
        self._drained = False  # the log says that this process has no work left
        self._stopping = False
        self._wanted = asyncio.Event()
        self._gate.on_change = self._wanted.set
        self._queued = False  # whether there may be something to claim
        self._owning = asyncio.Lock()  # held while the rows that this process owns and its jobs may differ
        self._set_back = False  # the ledger was set back, and this process's submissions are not restored yet
        self._lease.on_set_back = self._note_set_back
        self._next_check = 0.0
        self._next_keep = time.monotonic() + _KEEP_EVERY
        # Not at once: a machine that boots with a wrong clock usually corrects it within minutes.
        self._next_purge = time.monotonic() + _PURGE_EVERY

    async def start(self) -> None:
        """Take the lease and start the loops. Raises LedgerUnavailable."""
        # First: a process without a lease cannot own anything.
        await self._lease.beat()
        self._keep("keeping the lease", self._keep_lease)
        self._keep("claiming", self._dispatch)
        self._keep("looking after what was left behind", self._look_after)
        self._loops.append(asyncio.create_task(self._look_for_model()))

    def wake(self) -> None:
        """Make the worker look for queued runs."""
        self._queued = True
        self._wanted.set()

    def cancel(self, invocation_id: str) -> None:
        """Cancel an invocation if it is this process's."""
        job = self.jobs.get(invocation_id)
        if job is not None:
            job.cancel()

    async def stop(self, drain: float) -> None:
        """Take no more work, give submissions in flight `drain` seconds to finish, and leave the rest to others.

        Even with a silent ledger this takes little more than `drain`, or the time for the last write if that is longer.
        """
        self._stopping = True
        until = time.monotonic() + drain
        followed = self._followed
        for loop in self._loops[1:]:  # the lease is kept to the end
            loop.cancel()
        # Runs that are only polled need no drain: another process takes them over as they are.
        for invocation_id, job in self.jobs.items():
            if job.submit_done.is_set():
                self._tasks[invocation_id].cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await asyncio.gather(*(job.submit_done.wait() for job in self.jobs.values()))
        followed |= self._followed
        tasks = [*self._loops, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Others need not wait for the lease to run out: unsent runs go back to the queue, runs at the gateway are free
        # to take, and submissions without an answer are reported as indeterminate.
        least, most = _LEAVING
        try:
            async with asyncio.timeout(min(most, max(least, until - time.monotonic()))):
                await self._ledger.leave(followed)
        except Exception as error:
            log.warning("the ledger is away (%s): others take over when the lease is over", type(error).__name__)

    def _keep(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        going = keep_going(name, step, pause=self._timings.tick, expected=LedgerUnavailable)
        task = asyncio.create_task(going, name=name)
        task.add_done_callback(self._loop_ended)
        self._loops.append(task)

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not self._stopping:
            log.critical("%s ended: this process can no longer work", task.get_name())
            self.on_failure()

    async def _keep_lease(self) -> None:
        await asyncio.sleep(self._timings.lease / 3)
        await self._lease.beat()
        if self._ledger.drain_wanted and not self.draining:
            self.draining = True
            log.warning("draining: no more runs are accepted or submitted here; in progress: %d", len(self.jobs))

    async def _look_for_model(self) -> None:
        """Warn at the start if the gateway does not list the model: every run would fail."""
        model = self._settings.model
        nearest = await self._upstream.missing_model(model, timeout=self._timings.poll_timeout)
        if nearest is not None:
            like = f"; it lists {', '.join(nearest)}" if nearest else ""
            log.warning("the gateway does not list the model %s (RELAY_MODEL)%s", model, like)

    # Claiming

    async def _dispatch(self) -> None:
        await self._wanted.wait()
        self._wanted.clear()
        try:
            async with self._owning:
                await self._claim()
        except Exception:
            self._next_check = 0.0  # the claim may have been committed, and only its answer lost
            self.wake()
            raise

    async def _claim(self) -> None:
        while not self.draining and self._queued and self._lease.may_claim:
            free = self._gate.room(self._settings.max_running - len(self.jobs))
            if free <= 0:
                return
            self._queued = False  # set again by `wake`, perhaps during the claim
            claimed = await self._ledger.claim(free, blocks=self._gate.blocks)
            self._queued = self._queued or len(claimed) == free
            for record in claimed:
                # Sent by this process before the ledger was set back: a second submission would pay twice.
                if record.id in self._gate.memory:
                    await self._restore(record)
                elif record.id not in self.jobs:
                    self._run(record)

    def _run(self, record: Record) -> None:
        job = Job(record, self._ledger, self._upstream, self._gate, self._lease, self._settings)
        self.jobs[record.id] = job
        task = asyncio.create_task(job.run(), name=record.id)
        self._tasks[record.id] = task
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        invocation_id = task.get_name()
        self.jobs.pop(invocation_id, None)
        self._tasks.pop(invocation_id, None)
        handed_over = invocation_id in self._handed_over
        self._handed_over.discard(invocation_id)
        if not (self._stopping or handed_over) and (task.cancelled() or task.exception() is not None):
            error = None if task.cancelled() else task.exception()
            log.error("%s: ended by %s", invocation_id, kind_and_place(error) if error else "a cancellation")
            # Its row still belongs to this process; the check finds it without a job.
            self._next_check = 0.0
        self._wanted.set()

    # Recovery

    async def _look_after(self) -> None:
        await asyncio.sleep(self._timings.tick)
        async with self._owning:
            await self._say_again()
            await self._check_owned()
            await (self._hand_over() if self.draining else self._recover())
        if self.jobs:
            for invocation_id in await self._ledger.cancel_requests():
                self.cancel(invocation_id)
        if time.monotonic() >= self._next_keep:
            await self._ledger.keep_followed(self._followed)
            self._next_keep = time.monotonic() + _KEEP_EVERY
        if time.monotonic() >= self._next_purge and await self._ledger.purge(self._settings.retention) == 0:
            self._next_purge = time.monotonic() + _PURGE_EVERY  # otherwise the next tick deletes the next block

    @property
    def _followed(self) -> dict[str, float]:
        return {one: job.followed for one, job in self.jobs.items()}

    async def _check_owned(self) -> None:
        """Make the ledger and this process agree on the runs that it owns.

        They differ if a commit claimed or reclaimed runs and its answer was lost, and after the ledger was set back.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + self._timings.lease  # first: a job that breaks during the check asks for another
        owned = set(await self._ledger.owned())
        in_flight = set(await self._ledger.owned(IS_IN_FLIGHT))
        known = {one for one, job in self.jobs.items() if job.submit_done.is_set() and one in self._gate.memory}
        # Owned without a job; followed but not owned; accepted by the gateway, but in flight according to the ledger.
        doubtful = (owned - self.jobs.keys()) | (known - owned) | (known & in_flight)
        for record in (await self._ledger.get_many(sorted(doubtful))).values() if doubtful else ():
            if record.state == "queued" or record.owner == self._ledger.worker:
                await self._put_right(record)

    async def _put_right(self, record: Record) -> None:
        """Resolve one difference. Only a run that is marked as unsent is submitted again."""
        if record.id in self._gate.memory and record.state in ("queued", *IN_FLIGHT):
            await self._restore(record)
        elif record.id in self.jobs:
            return
        elif record.state == "running":
            self._run(record)
        elif record.state in IN_FLIGHT and record.unsent:  # claimed by a commit whose answer was lost
            await self._ledger.requeue(record.id, until_next_try(record.attempts, None, self._timings))
            self.wake()
        elif record.state in IN_FLIGHT and await self._ledger.settle(record.id, INDETERMINATE):
            count_ended("failed", INDETERMINATE.error_code)
            log.warning("%s: sent according to the ledger, but this process has no answer (%s)", record.id, _UNKNOWN)

    # A ledger that was set back

    def _note_set_back(self) -> None:
        log.warning("the ledger may have been set back: recording again which runs this process has submitted")
        self._set_back = True

    async def _say_again(self) -> None:
        """Remove from the queue the runs that this process has sent, before any process claims them."""
        if not self._set_back:
            return
        ids = self._gate.memory.all_sent()
        for start in range(0, len(ids), _READ_AT_ONCE):
            for record in (await self._ledger.get_many(ids[start : start + _READ_AT_ONCE])).values():
                if record.state == "queued":
                    await self._restore(record)
        self._set_back, self._next_check = False, 0.0

    async def _restore(self, record: Record) -> None:
        """Record again that this process has sent a run, which the ledger has forgotten, and follow it if possible."""
        upstream_id = self._gate.memory.upstream_id(record.id)
        if not await self._ledger.restore(record.id, upstream_id):
            return
        log.warning("%s: the ledger was set back to before it was submitted; it is not sent again", record.id)
        if record.id in self.jobs:
            return
        # With an id it can be polled. Without one, its job has ended, and the result went with the ledger's memory.
        if upstream_id is not None:
            self._run(replace(record, state="running", owner=self._ledger.worker, upstream_id=upstream_id))
        elif await self._ledger.settle(record.id, INDETERMINATE):
            count_ended("failed", INDETERMINATE.error_code)
            log.warning("%s: it had ended, but the ledger has lost its outcome (%s)", record.id, _UNKNOWN)

    async def _hand_over(self) -> None:
        """Do a drained process's part: hand over its runs, or follow all runs itself if no other process would."""
        if await self._ledger.others_take_work():
            try:
                await self._leave_running()
            except Exception:
                self._next_check = 0.0  # runs whose jobs have ended may still be this process's
                raise
        else:
            await self._recover()
        done = not self.jobs and not await self._ledger.owned()
        if done and not self._drained:
            log.warning("drained: nothing is in progress here; stop this process, or restart it to let it work again")
        self._drained = done
        await self._ledger.report_drain(done=done)

    async def _leave_running(self) -> None:
        """Leave the runs at the gateway to other processes.

        A run that is being submitted or settled stays: only this process can read, or has read, the gateway's answer.
        """
        running = set(await self._ledger.owned(IS_RUNNING))
        given = {one: job.followed for one, job in self.jobs.items() if job.can_be_left and one in running}
        if given:
            self._handed_over |= given.keys()
            tasks = [self._tasks[one] for one in given]
            for task in tasks:
                task.cancel()
            # First: a job writes to the row of its run, which must be the next process's alone.
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._ledger.hand_over(given)
            log.info("runs left to other processes: %d", len(given))

    async def _recover(self) -> None:
        may = self._lease.may_declare_dead
        queued, orphaned = await self._ledger.pending(may_declare_dead=may)
        if queued:
            self.wake()
        if not orphaned or not self._lease.may_claim:
            return
        # Claimed and certainly not sent: another process may submit them.
        if await self._ledger.requeue_orphans(may_declare_dead=may, limit=_RECOVERED_AT_ONCE):
            self.wake()
        # Perhaps sent: only the dead process could have told, and a second submission could pay twice.
        for record in await self._ledger.fail_orphans(may_declare_dead=may, limit=_RECOVERED_AT_ONCE):
            count_ended("failed", "submission_indeterminate")
            log.warning("%s: its process died while it was submitted (submission_indeterminate)", record.id)
        try:
            # Beyond RELAY_MAX_RUNNING too: these run at the gateway already, which keeps a result for minutes only, and
            # a client may want one stopped.
            reclaimed = await self._ledger.reclaim(may_declare_dead=may, limit=_RECOVERED_AT_ONCE)
        except Exception:
            self._next_check = 0.0  # the commit may have succeeded, and only its answer been lost
            raise
        for record in reclaimed:
            if record.id not in self.jobs:
                self._run(record)
