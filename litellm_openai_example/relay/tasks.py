"""Tasks of the event loop: loops that survive failures, and calls answered in batches.

The ledger answers many starts with one statement and one commit: written one by one into a common commit, starts were
accepted at 365 a second; batched, at 843.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from .log import kind_and_place, log

Item = TypeVar("Item")
Result = TypeVar("Result")

_TURNS = 3


async def keep_going(
    name: str,
    step: Callable[[], Awaitable[object]],
    *,
    pause: float,
    expected: type[Exception] | tuple[type[Exception], ...] = (),
) -> None:
    """Call `step` repeatedly until cancelled. Log the first of a series of failures, and the recovery.

    Args:
        name: the loop's name in the log.
        step: one round, including the wait until it is due.
        pause: seconds between a failed round and the next one.
        expected: outages that are logged elsewhere.
    """
    failing = ""
    while True:
        try:
            await step()
        except expected:
            await asyncio.sleep(pause)
        except Exception as error:
            kind = kind_and_place(error)
            # By its kind: a second fault behind the first is logged, and the same one does not fill the log.
            if kind != failing:
                log.error("%s failed (%s) and goes on", name, kind)
            failing = kind
            await asyncio.sleep(pause)
        else:
            if failing:
                log.warning("%s works again", name)
            failing = ""


class Batch(Generic[Item, Result]):
    """A call for one item, answered together with those of other callers.

    An item that arrives during a call joins the next one, so its result reflects the state after it was submitted. An
    item is processed even if its caller is cancelled: a change that a job has submitted must not be lost with the job.

    Args:
        answer: takes items, and returns a result or an exception for each, in the same order.
        largest: most items per call.
    """

    def __init__(
        self, answer: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]], *, largest: int
    ) -> None:
        self._answer = answer
        self._largest = largest
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """Return the result for `item`. Raises its exception, or the one that ended the whole call."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return await done

    async def close(self) -> None:
        """Cancel the call in progress and all callers that wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._let_others_join()
                group, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
                await self._answer_group(group)
        finally:
            self._task = None
            for _, done in self._waiting:  # only after a cancellation
                done.cancel()

    async def _let_others_join(self) -> None:
        # Each turn of the event loop takes a concurrent request one step further: read, checked, submitted here.
        # Without these turns 32 concurrent starts split into the first one and 31, each with a commit: 1,270 accepted a
        # second instead of 1,480.
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _answer_group(self, group: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            answers: Sequence[Result | Exception] = await self._answer([item for item, _ in group])
        except Exception as error:  # of the whole call, such as an outage: no item was answered
            answers = [error] * len(group)
        except asyncio.CancelledError:
            for _, done in group:
                done.cancel()
            raise
        for (_, done), answer in zip(group, answers, strict=True):
            if done.done():  # its caller was cancelled
                continue
            if isinstance(answer, Exception):
                done.set_exception(answer)
            else:
                done.set_result(answer)
