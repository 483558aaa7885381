"""Polling a response at the gateway to its end, and stopping it there.

A wish to stop (a client's cancel, the time limit) is kept in the ledger. The request to the gateway is repeated, also
through outages, until the gateway reports that the run has ended. That end decides the outcome.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from ...window import poll_pause, time_limit, window_seconds
from ..ledger.records import Outcome, Record
from ..ledger.states import CANCELLED
from ..log import log
from ..settings import Settings, Timings
from .gate import Gate
from .hub import happens
from .replies import Reply
from .row import LOST, Row
from .upstream import Upstream

_TOO_LATE = Outcome("failed", "research_timeout")
_GROWTH = 0.2  # pause as a share of the age: the end of a run is noticed late by at most this share of its length
_LONGEST_POLL_AFTER = 60.0


class Poller:
    """The polls of one response until it has ended, and the requests to stop it.

    Args:
        record, row: of the invocation.
        upstream, gate, settings: shared by all jobs of the worker.

    Attributes:
        cancel: set when a client wants it stopped.
        begun: start of the first attempt, on the monotonic clock.
        accepted: time of the gateway's answer, on the monotonic clock.
        fallback: the outcome if the gateway no longer knows the response.
    """

    def __init__(self, record: Record, row: Row, upstream: Upstream, gate: Gate, settings: Settings) -> None:
        self.id = record.id
        self.cancel = asyncio.Event()
        # Not by a wall clock, which may be wrong by hours after a restart. Of the two starts the earlier counts: the
        # ledger knows attempts of other processes, and memory the whole time that a run waited in the queue.
        self.begun = min(time.monotonic() - (record.followed or 0.0), gate.memory.begun(record.id))
        self.accepted = self.begun
        self.fallback = LOST
        self._row = row
        self._upstream = upstream
        self._gate = gate
        self._payer = record.payer
        self._timings = settings.timings
        self._window = record.window
        self._limit = settings.research_timeout
        if self._window is not None:
            self._limit = max(self._limit, time_limit(self._window))
        self._picked_up = record.upstream_id is not None
        self._timed_out = record.stop_reason is not None  # the time limit's wish is in the ledger
        self._wished_at: float | None = None  # time of the first request to stop it
        self._unstoppable = False  # the gateway cannot stop a run of this model
        if record.cancel_requested:
            self.cancel.set()

    @property
    def followed(self) -> float:
        """Seconds since the first attempt, not counting time without a relay process."""
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        """Seconds until the time limit."""
        return self._limit - self.followed

    @property
    def left_to_submit(self) -> float:
        """Seconds until it is too late to submit it: the time limit must leave room for the whole discount window."""
        return self.left - window_seconds(self._window)

    @property
    def _wish(self) -> Outcome | None:
        """The outcome if the gateway stops it; None if nobody wants that."""
        if self.cancel.is_set():
            return CANCELLED
        return _TOO_LATE if self._timed_out or self.left <= 0 else None

    async def end(self, outcome: Outcome, upstream_id: str | None = None) -> None:
        """Settle it as it ended at the gateway. A cancellation there counts as the client's or the time limit's."""
        # Only that: a run that was finished before the stop arrived keeps its result, which has been paid for.
        stopped = self._wish if outcome.state == "cancelled" else None
        await self._row.settle(stopped or outcome, upstream_id)

    @property
    def may_ask_to_stop(self) -> bool:
        """Return True if a stop is wanted, and the gateway has an id for it and has not ruled it out."""
        return self._wish is not None and self._row.upstream_id is not None and not self._unstoppable

    async def follow(self, poll_after: float | None = None) -> None:
        """Poll the response at growing intervals until it has ended; ask the gateway to stop it if that is wanted.

        A run that was taken over is polled first: it may have ended already, with a result that has been paid for.
        """
        await self._row.load_pieces()
        known, missing_since = not self._picked_up, None
        # At random: a process that takes over many runs must not poll them all at once.
        rest = self._pause(poll_after) if known else random.uniform(0, self._timings.first_poll)  # noqa: S311
        while True:
            await self._rest(rest)
            if (delay := self._gate.poll_delay()) > 0:
                await self._rest(delay)
            stopped = await self.ask_to_stop() if known and self.may_ask_to_stop else None
            if stopped is not None:
                return await self.end(stopped)
            reply = await self.retrieve(self._row.upstream_id or "")
            if reply.outcome is not None:
                return await self.end(reply.outcome)
            # A single "not found" may come from a replica of the gateway that lags behind, and giving up loses a result
            # that was paid for: only an unbroken series of them counts.
            missing_since = (missing_since or time.monotonic()) if reply.missing else None
            if reply.hopeless or (missing_since and time.monotonic() - missing_since >= self._timings.missing):
                return await self._row.settle(self.fallback)
            rest = self._pause(reply.poll_after, failed=not reply.known)
            # It still runs: a stop that waited for this poll is requested at once.
            if not known and not reply.outage:
                known, rest = True, 0.0 if self._wish else rest

    async def _rest(self, seconds: float) -> None:
        """Wait until the next poll, or until a wish to stop arises."""
        if self._wish is None:
            await happens(self.cancel, min(seconds, max(0.0, self.left)))
        else:  # a wish that is there already would end every wait at once
            await asyncio.sleep(seconds)

    def _pause(self, poll_after: float | None = None, *, failed: bool = False) -> float:
        """Return the seconds until the next poll, by the age of the run or of the first request to stop it.

        Args:
            poll_after: the interval that the gateway asks for, in seconds; None if it asks for none.
            failed: the last poll says nothing about the run.
        """
        if self._wished_at is not None:
            return pause(None, time.monotonic() - self._wished_at, self._timings)
        usual = pause(poll_after, age := time.monotonic() - self.accepted, self._timings)
        # In a window, too, a failed poll is repeated soon: some providers delete a result ten minutes after its end.
        if self._window is None or failed:
            return usual
        timings = self._timings
        return max(poll_pause(age, timings.first_poll, timings.window_poll, timings.longest_window_poll), usual)

    async def ask_to_stop(self) -> Outcome | None:
        """Ask the gateway to stop it. Return the end that the gateway reports, None if it reports none."""
        if self._wished_at is None:
            self._wished_at = time.monotonic()
        # In the ledger first: a process that takes over must repeat the request and report the same reason.
        if self._wish is _TOO_LATE and not self._timed_out:
            await self._row.keep_wish(str(_TOO_LATE.error_code))
            self._timed_out = True
        reply = await self._call(self._upstream.cancel, self._row.upstream_id or "")
        self._unstoppable = reply.hopeless
        return reply.outcome

    async def stop_unowned(self, upstream_id: str) -> None:
        """Stop a run that was reported as indeterminate before its id came: nobody will read its result."""
        log.warning("%s: lost to another process while it was submitted; asking the gateway to stop it", self.id)
        self._wished_at = time.monotonic()
        try:
            await self._row.answered_late(upstream_id)
            while (known := await self._stopped_state(upstream_id)) is None:
                await self._rest(self._pause())
        except asyncio.CancelledError:
            log.warning("%s: the process ends before the gateway has confirmed the end of %s", self.id, upstream_id)
            raise
        log.warning("%s: %s at the gateway, where it is %s", self.id, known, upstream_id)

    async def _stopped_state(self, upstream_id: str) -> str | None:
        """Ask the gateway to stop a response that no job follows; return its state, None while that is unknown."""
        # A gateway may refuse to cancel a run that has ended, so a poll has the last word.
        for call in (self._upstream.cancel, self._upstream.retrieve):
            reply = await self._call(call, upstream_id)
            if reply.outcome is not None:
                return reply.outcome.state
            if reply.hopeless:
                return "not to be stopped"
        return "not known" if reply.missing else None

    async def retrieve(self, upstream_id: str) -> Reply:
        """Poll a response."""
        return await self._call(self._upstream.retrieve, upstream_id)

    async def _call(self, call: Callable[..., Awaitable[Reply]], upstream_id: str) -> Reply:
        async with self._gate.polling():
            reply = await call(upstream_id, payer=self._payer, timeout=self._timings.poll_timeout)
        self._gate.polled(answered=not reply.outage)
        return reply


def pause(poll_after: float | None, age: float, timings: Timings) -> float:
    """Return the seconds until the next poll: the gateway's interval, otherwise a share of the age, both within bounds.

    Args:
        poll_after: the interval that the gateway asks for, in seconds; None if it asks for none.
        age: of the run, or of the request to stop it, in seconds.
    """
    if poll_after is None:
        return min(max(timings.first_poll, age * _GROWTH), timings.longest_poll)
    return min(max(poll_after, timings.first_poll), _LONGEST_POLL_AFTER)
