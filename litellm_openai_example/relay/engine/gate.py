"""What the jobs of a process know of their gateway together: whether it takes work, and how much at a time.

At most so many submissions are in flight at a time: a crash leaves at most that many of which nobody knows
whether they were paid. One that gets no answer for a few seconds leaves the gate: its model answers only when it is
done, and would hold up all others. Once a model is known for that, its submissions leave as soon as they are sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ..log import log
from .memory import Memory

_POLLS_AT_ONCE = 32
_SLOW_POLL = 1.0  # seconds after which a poll gives up its place: one that hangs must not hold up others
_FAILURES = 3  # polls in a row that fail before it is an outage


class Gate:
    """Places for submissions and polls.

    Args:
        places: submissions in flight at a time.

    Attributes:
        blocks: whether the model is known to answer only when it is done.
        trouble: whether the last submission could not be sent.
        jobs: invocations that this process runs.
        memory: what this process has sent.
        on_change: called when there may be room for a submission.
    """

    def __init__(self, places: int) -> None:
        self.blocks = False
        self.trouble = False
        self.jobs = 0
        self.memory = Memory()
        self.on_change: Callable[[], None] = lambda: None
        self._places = places
        self._polls = asyncio.Semaphore(_POLLS_AT_ONCE)
        self._failures = 0

    def room(self, most: int) -> int:
        """How many submissions may begin, of at most `most`."""
        if self.trouble:  # one finds out whether the gateway takes work again
            return min(most, 1, self._places)
        return min(most, self._places)

    def enter(self) -> None:
        self._places -= 1

    def leave(self) -> None:
        self._places += 1
        self.on_change()

    def sent(self, *, finished: bool) -> None:
        """A submission was answered, perhaps with the finished response itself."""
        if self.trouble:
            log.warning("the gateway takes work again")
        self.trouble = False
        self.blocks = finished

    def not_sent(self, pause: float) -> None:
        """A submission was not sent; the next try is in `pause` seconds."""
        if not self.trouble:
            log.warning("the gateway takes no work at the moment; the next try is in %.1f s", pause)
        self.trouble = True

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
        """A poll was answered, or met a gateway that is not to be had."""
        if not answered:
            self._failures += 1
            if self._failures == _FAILURES:
                log.warning("the gateway does not answer at the moment; what runs there is looked at again later")
            return
        if self._failures >= _FAILURES:
            log.warning("the gateway answers again")
        self._failures = 0
