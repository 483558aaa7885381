"""The gate to the gateway, shared by the jobs of a process: how many submissions and polls may be in flight.

Submissions are bounded by a congestion window, as TCP's segments are (RFC 5681). It grows by one with each accepted
submission, and from the first refusal on by one per round trip, while it is used and the gateway stays quick. A refusal
(429, a 5xx, no connection) halves it, once per round trip. After a refusal one submission at a time probes the gateway,
with growing pauses, until one is accepted.

A submission without an answer for a few seconds leaves the gate: its model may answer only at the end of the run, and
would hold up all others. Once a model is known to do so, its submissions leave as soon as they are sent.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ..log import log
from ..settings import Timings

_INITIAL = 64.0  # submissions in flight before the gateway has shown anything
_DEPARTING = 8  # a crash leaves at most this many runs marked as sent that never were
_PROBE, _LONGEST_PROBE = 0.5, 15.0  # seconds between two submissions to a gateway that refuses them
_SLOWER, _SLACK = 2.0, 0.25  # slower than this factor of the quickest answer, plus seconds: it waited in a queue there
_QUICKEST_FOR = 60.0  # seconds for which the quickest answer is the measure
_RECENT = 60.0  # seconds after an acceptance in which a single refusal is not logged
_POLLS_AT_ONCE = 32
_SLOW_POLL = 1.0  # seconds after which a poll gives up its place: one that hangs must not hold up others
_FAILURES = 3  # failed polls in a row that count as an outage
_REMEMBERED = 100_000  # the newest runs, about 20 MB


@dataclass
class Place:
    """The place of one submission among those in flight.

    Attributes:
        began: the time when it entered the gate, on the monotonic clock.
        left_at: the time when the request left this machine; until then, that of its entry.
        held: False once it has left the gate.
    """

    began: float
    left_at: float
    held: bool = True


class Gate:
    """The bounds for submissions and polls.

    Args:
        most: most submissions in flight, even if the gateway would take more.
        polls_per_second: of all runs of this process together.

    Attributes:
        blocks: True once the model is known to answer only when it is done.
        departing: held from the commit of an intent until its request leaves.
        memory: the runs that this process has sent.
        on_change: called when there may be room for a submission.
        window: submissions that may be in flight.
    """

    def __init__(self, most: int, polls_per_second: float = math.inf) -> None:
        self.blocks = False
        self.departing = asyncio.Semaphore(_DEPARTING)
        self.memory = Memory()
        self.on_change: Callable[[], None] = lambda: None
        self.window = min(_INITIAL, most)
        self._most = most
        self._threshold = math.inf  # below it the window doubles each round trip, above it grows by one
        self._in_flight = self._peak = 0
        self._refusals = 0  # rounds that were refused since a submission was accepted
        self._told = False  # the log says that the gateway refuses
        self._cut_at = self._reopens_at = self._accepted_at = -math.inf
        self._quickest, self._quickest_at = math.inf, -math.inf
        self._polls = asyncio.Semaphore(_POLLS_AT_ONCE)
        self._poll_interval, self._next_poll = 1 / polls_per_second, -math.inf
        self._failures = 0

    def room(self, most: int) -> int:
        """Return how many submissions may begin now, at most `most`."""
        if time.monotonic() < self._reopens_at:
            return 0
        # After a refusal the queue is still full, and all of it at once would be refused again: one probes.
        allowed = 1 if self._refusals else int(self.window)
        return max(0, min(most, allowed - self._in_flight))

    def enter(self) -> Place:
        """Take a place for a submission."""
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        now = time.monotonic()
        return Place(now, now)

    def free(self, place: Place) -> None:
        """Give a place back. A second call changes nothing."""
        if place.held:
            place.held = False
            self._in_flight -= 1
            self.on_change()

    def accepted(self, place: Place, *, finished: bool) -> None:
        """Note that the gateway has accepted a submission.

        Args:
            finished: True if the answer holds the result: its time is the model's, and tells nothing about the gateway.
        """
        if self._told:
            log.warning("the gateway is accepting submissions again")
        self._refusals, self._reopens_at, self._told, self.blocks = 0, -math.inf, False, finished
        now = self._accepted_at = time.monotonic()
        if finished:
            return
        seconds = now - place.left_at
        # The measure expires: otherwise one lucky answer would stop the window's growth forever.
        if seconds <= self._quickest or now - self._quickest_at > _QUICKEST_FOR:
            self._quickest, self._quickest_at = seconds, now
        # A window that was never used is not known to be safe, so it does not grow (RFC 7661).
        if 2 * self._peak >= self.window and seconds <= self._quickest * _SLOWER + _SLACK:
            self.window = min(self._most, self.window + (1 if self.window < self._threshold else 1 / self.window))
        self.on_change()

    def refused(self, place: Place, delay: float | None = None) -> None:
        """Note that the gateway refused a submission, or failed to take it; `delay` is the pause that it asks for."""
        # It was sent before the last cut, so it belongs to the same congestion: one event per round trip, as in TCP.
        if place.began < self._cut_at:
            return
        self.window = self._threshold = max(1.0, self.window / 2)
        self._peak = min(self._peak, int(self.window))
        self._refusals += 1
        pause = min(_LONGEST_PROBE, max(delay or 0.0, _PROBE * 2.0 ** min(self._refusals - 1, 10)))
        self._cut_at = time.monotonic()
        self._reopens_at = self._cut_at + pause
        # A single refusal between acceptances is how a rate limit works, and not worth a line.
        if not self._told and (self._refusals > 1 or self._cut_at - self._accepted_at > _RECENT):
            self._told = True
            log.warning("the gateway is not accepting submissions; the next one probes in %.1f s", pause)

    def poll_delay(self) -> float:
        """Reserve a poll and return the seconds until it may be sent, so that all polls together keep to their rate."""
        now = time.monotonic()
        at = max(now, self._next_poll)
        self._next_poll = at + self._poll_interval
        return at - now

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        """Hold a place for one poll, and give it up early if the poll is slow."""
        await self._polls.acquire()
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._polls.release()

        slow = asyncio.get_running_loop().call_later(_SLOW_POLL, release)
        try:
            yield
        finally:
            slow.cancel()
            release()

    def polled(self, *, answered: bool) -> None:
        """Note whether a poll was answered, and log the start and the end of an outage."""
        if not answered:
            self._failures += 1
            if self._failures == _FAILURES:
                log.warning("the gateway does not answer polls; running runs are polled again later")
            return
        if self._failures >= _FAILURES:
            log.warning("the gateway answers polls again")
        self._failures = 0


class Memory:
    """The runs that this process may have caused to be executed, their ids at the gateway, and their first attempts.

    It stands beside the ledger, which may be set back, to a backup or to a standby that had not caught up. The ledger
    then lists runs as queued that this process has submitted, and that must not be submitted again.
    """

    def __init__(self) -> None:
        self._sent: OrderedDict[str, str | None] = OrderedDict()
        self._begun: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, invocation_id: object) -> bool:
        return invocation_id in self._sent

    def sent(self, invocation_id: str) -> None:
        """Note that its submission leaves this machine now."""
        # Before the id is known: from here on it may be executed.
        self._sent[invocation_id] = None
        _bound(self._sent)

    def answered(self, invocation_id: str, upstream_id: str) -> None:
        """Note the id that the gateway has given it."""
        self._sent[invocation_id] = upstream_id
        _bound(self._sent)

    def not_executed(self, invocation_id: str) -> None:
        """Note that it was certainly not executed, so it may be sent again."""
        self._sent.pop(invocation_id, None)

    def upstream_id(self, invocation_id: str) -> str | None:
        """Return the gateway's id of a run that was sent; None until the gateway has answered."""
        return self._sent.get(invocation_id)

    def all_sent(self) -> list[str]:
        return list(self._sent)

    def waits(self, invocation_id: str, begun: float) -> None:
        """Note that it goes back to the queue; `begun` is the start of its first attempt, on the monotonic clock."""
        # The ledger counts only the planned pause; the run may wait longer for a place, and its time limit counts that.
        self._begun[invocation_id] = begun
        _bound(self._begun)

    def begun(self, invocation_id: str) -> float:
        """Return and forget the start of its first attempt here; infinity if there was none."""
        return self._begun.pop(invocation_id, math.inf)


def _bound(known: OrderedDict[str, Any]) -> None:
    if len(known) > _REMEMBERED:
        known.popitem(last=False)


def until_next_try(attempts: int, delay: float | None, timings: Timings) -> float:
    """Return the seconds until an unsent submission is retried: exponential, with jitter.

    Args:
        attempts: made so far.
        delay: the pause that the gateway asks for, in seconds.
    """
    # The gateway's pause wins if it is longer, but a wrong Retry-After must not park a run for hours.
    seconds = min(timings.retry, 0.5 * 2.0 ** min(attempts - 1, 10)) * random.uniform(0.75, 1)  # noqa: S311
    return max(seconds, min(delay or 0.0, 4 * timings.retry))
