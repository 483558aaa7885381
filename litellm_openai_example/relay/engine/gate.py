"""The shared view that a process's jobs have of their gateway: how many submissions and polls it gets at a time.

Submissions are bounded by a congestion window, as TCP's segments are (RFC 5681). It opens by one for each accepted
submission, later by one a round trip, for as long as it is used and the gateway stays quick. A refusal (429, a 5xx, no
connection) halves it, once a round trip. After a refusal one submission at a time probes, with growing pauses, until
one is accepted.

A submission without an answer for a few seconds leaves the gate: its model answers only at the end, and would hold up
all others. Once a model is known for that, its submissions leave as soon as they are sent.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ..log import log
from ..settings import Timings
from .memory import Memory

_INITIAL = 64.0  # submissions in flight before the gateway has shown anything
_DEPARTING = 8  # a crash leaves at most as many marked as sent which never were
_PROBE, _LONGEST_PROBE = 0.5, 15.0  # seconds between two submissions to a gateway that refuses
_SLOWER, _SLACK = 2.0, 0.25  # an answer by this factor and these seconds slower than the quickest was queued there
_QUICKEST_FOR = 60.0  # seconds for which the quickest answer is the measure
_RECENT = 60.0  # seconds after an acceptance in which a single refusal is not logged
_POLLS_AT_ONCE = 32
_SLOW_POLL = 1.0  # seconds after which a poll gives up its place: one that hangs must not hold up others
_FAILURES = 3  # polls in a row that fail before it is an outage


class Gate:
    """Bounds for submissions and polls.

    Args:
        most: submissions in flight at a time, however much the gateway takes.
        polls_per_second: of all runs of this process together.

    Attributes:
        blocks: whether the model is known to answer only when it is done.
        departing: held from the commit of an intent until its request leaves.
        memory: what this process has sent.
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
        self._told = False
        self._cut_at = self._reopens_at = self._accepted_at = -math.inf
        self._quickest, self._quickest_at = math.inf, -math.inf
        self._polls = asyncio.Semaphore(_POLLS_AT_ONCE)
        self._poll_interval, self._next_poll = 1 / polls_per_second, -math.inf
        self._failures = 0

    def room(self, most: int) -> int:
        """Return how many submissions may begin now, `most` at the most."""
        if time.monotonic() < self._reopens_at:
            return 0
        # After a refusal the queue is still full: all of it at once would be refused again.
        allowed = 1 if self._refusals else int(self.window)
        return max(0, min(most, allowed - self._in_flight))

    def enter(self) -> Place:
        """Take a place for a submission."""
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        return Place(self)

    def leave(self) -> None:
        """Give a place back."""
        self._in_flight -= 1
        self.on_change()

    def accepted(self, seconds: float, *, finished: bool) -> None:
        """Note an accepted submission; one that is `finished` comes from a model that blocks, and shows no speed.

        Args:
            seconds: from the first byte of the request until the answer.
        """
        if self._told:
            log.warning("the gateway is accepting submissions again")
        self._refusals, self._reopens_at, self._told, self.blocks = 0, -math.inf, False, finished
        now = self._accepted_at = time.monotonic()
        if finished:
            return
        # The measure is forgotten now and then: one lucky answer must not keep the window closed for ever.
        if seconds <= self._quickest or now - self._quickest_at > _QUICKEST_FOR:
            self._quickest, self._quickest_at = seconds, now
        # A window that was never used is not known to be safe, so it does not grow (RFC 7661).
        if 2 * self._peak >= self.window and seconds <= self._quickest * _SLOWER + _SLACK:
            self.window = min(self._most, self.window + (1 if self.window < self._threshold else 1 / self.window))
        self.on_change()

    def refused(self, began: float, delay: float | None) -> None:
        """Note a submission that the gateway refused, or failed to take.

        Args:
            began: when it entered; one from before the last cut tells nothing new.
            delay: seconds that the gateway asks for.
        """
        # The rest of a round was sent before the gateway could show that it refuses: one event, as in TCP.
        if began < self._cut_at:
            return
        self.window = self._threshold = max(1.0, self.window / 2)
        self._peak = min(self._peak, int(self.window))
        self._refusals += 1
        pause = min(_LONGEST_PROBE, max(delay or 0.0, _PROBE * 2.0 ** min(self._refusals - 1, 10)))
        self._cut_at = time.monotonic()
        self._reopens_at = self._cut_at + pause
        # One that comes between acceptances is how a rate limit works, and no news.
        if not self._told and (self._refusals > 1 or self._cut_at - self._accepted_at > _RECENT):
            self._told = True
            log.warning("the gateway is not accepting submissions; the next one probes in %.1f s", pause)

    def poll_delay(self) -> float:
        """Reserve a poll and return the seconds until it may be sent, so that all polls keep to their rate."""
        now = time.monotonic()
        at = max(now, self._next_poll)
        self._next_poll = at + self._poll_interval
        return at - now

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        """A place for one poll, for as long as it is quick."""
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
        """Note a poll that was answered, or that met a gateway which is away."""
        if not answered:
            self._failures += 1
            if self._failures == _FAILURES:
                log.warning("the gateway does not answer polls; running runs are polled again later")
            return
        if self._failures >= _FAILURES:
            log.warning("the gateway answers polls again")
        self._failures = 0


class Place:
    """The place of one submission among those in flight.

    Args:
        gate: that it belongs to.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._held = True
        self._began = self._left_at = time.monotonic()

    def leaves_now(self) -> None:
        """Note that the request leaves this machine."""
        self._left_at = time.monotonic()

    def accepted(self, *, finished: bool) -> None:
        """Note that the gateway has accepted it, perhaps with the finished response itself."""
        self._gate.accepted(time.monotonic() - self._left_at, finished=finished)

    def refused(self, delay: float | None = None) -> None:
        """Note that the gateway did not take it, and asks for a pause of `delay` seconds."""
        self._gate.refused(self._began, delay)

    def free(self) -> None:
        """Give the place back; a second time changes nothing."""
        if self._held:
            self._held = False
            self._gate.leave()


def until_next_try(attempts: int, delay: float | None, timings: Timings) -> float:
    """Seconds until what was not sent is tried again: exponential, with jitter, and as long as the gateway asks for.

    Args:
        attempts: made so far.
        delay: what the gateway asks for, in seconds.
    """
    seconds = min(timings.retry, 0.5 * 2.0 ** min(attempts - 1, 10)) * random.uniform(0.75, 1)  # noqa: S311
    return max(seconds, min(delay or 0.0, 4 * timings.retry))
