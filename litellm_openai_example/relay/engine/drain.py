"""Draining a process on an operator's wish: it takes no more work, and hands over the runs that it follows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ..ledger.schema import IS_RUNNING
from ..ledger.states import Ledger
from ..log import log
from .job import Job


class Drain:
    """The draining of one process, which goes on serving its clients meanwhile.

    Args:
        ledger: opened.
        jobs, tasks: the worker's, by the id of the invocation.

    Attributes:
        wanted: True from the operator's wish until the process ends.
    """

    def __init__(self, ledger: Ledger, jobs: Mapping[str, Job], tasks: Mapping[str, asyncio.Task[None]]) -> None:
        self.wanted = False
        self._ledger = ledger
        self._jobs = jobs
        self._tasks = tasks
        self._given: set[str] = set()
        self._told = False  # the log says that it is drained

    def notice(self) -> None:
        """Begin to drain if the last heartbeat has found the wish."""
        if self._ledger.drain_wanted and not self.wanted:
            self.wanted = True
            log.warning("draining: no more runs are accepted or submitted here; in progress: %d", len(self._jobs))

    def gave(self, invocation_id: str) -> bool:
        """Return True once if the job of this run was cancelled to hand the run over."""
        given = invocation_id in self._given
        self._given.discard(invocation_id)
        return given

    async def hand_over(self) -> bool:
        """Leave the runs at the gateway to other processes. Return False if no other process would take them.

        A run that is being submitted or settled stays: only this process can read, or has read, the gateway's answer.
        """
        if not await self._ledger.others_take_work():
            return False
        running = set(await self._ledger.owned(IS_RUNNING))
        given = {one: job.followed for one, job in self._jobs.items() if job.can_be_left and one in running}
        if given:
            self._given |= given.keys()
            tasks = [self._tasks[one] for one in given]
            for task in tasks:
                task.cancel()
            # First: a job writes to the row of its run, which must be the next process's alone.
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._ledger.hand_over(given)
            log.info("runs left to other processes: %d", len(given))
        return True

    async def report(self) -> None:
        """Record in the ledger whether this process still has work, and log the end of it once."""
        done = not self._jobs and not await self._ledger.owned()
        if done and not self._told:
            log.warning("drained: nothing is in progress here; stop this process, or restart it to let it work again")
        self._told = done
        await self._ledger.report_drain(done=done)
