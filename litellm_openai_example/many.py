"""Many questions side by side: a bounded number at a time, slowed down together by a rate limit.

The parts are the same for threads and for asyncio, and for `client.ask_all` and the command's --questions: `ask` is the
call for one question, `Pace` lets it go, `Threads` or `in_tasks` runs the calls and yields each result as it comes.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .calls.finish_reasons import RUNNING
from .calls.reply import Reply, require_complete
from .calls.requests import Api, create, wait
from .calls.steps import Operation, sleep
from .errors import ErrorKind, GatewayError
from .json_object import JsonObject
from .transport.policy import current_deadline, telling_retries
from .window import window_of

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

_LONGEST_NAP = 0.25  # seconds between two looks at the pace
_NAP = 0.02


class Pace:
    """The pace of calls that share a rate limit.

    When one call meets the limit, none begins until the gateway's Retry-After has passed, and from then on half as many
    may be under way. Each success lets the number grow again, as TCP does with its window.

    Args:
        jobs: the most calls at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = self._width = float(jobs)
        self._busy = 0
        self._resume = 0.0
        self._lock = threading.Lock()

    @property
    def paused(self) -> float:
        """The seconds until the next call may begin; 0 without a rate limit."""
        return max(0.0, self._resume - time.monotonic())

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Wait until a call may begin, and count the block as that call: its rate limits slow all calls down."""
        while not self.may_begin():
            await sleep(min(max(self.paused, _NAP), _LONGEST_NAP))
        success = False
        try:
            with telling_retries(self.slow_down):
                yield
            success = True
        except GatewayError as error:
            if _is_worth_waiting(error):
                self.slow_down(429, error.retry_after or 0.0)
            raise
        finally:
            self.end(success=success)

    def may_begin(self) -> bool:
        """Begin a call, and return True, if one may begin now. An `end` must follow."""
        with self._lock:
            if self.paused or self._busy >= int(self._width):
                return False
            self._busy += 1
            return True

    def end(self, *, success: bool) -> None:
        """Count the end of a call."""
        with self._lock:
            self._busy -= 1
            if success:
                self._width = min(self._jobs, self._width + 1 / self._width)

    def slow_down(self, status: int, seconds: float) -> None:
        """Hold all calls back for `seconds`, after an answer with this HTTP status: 429 or 503."""
        if status not in (429, 503):
            return
        with self._lock:
            # Calls that were under way together meet the same limit, which counts once.
            if not self.paused:
                self._width = max(1.0, self._width / 2)
            self._resume = max(self._resume, time.monotonic() + seconds)


async def ask(api: Api, request: JsonObject, pace: Pace, on_submitted: Callable[[Reply], None] | None = None) -> Reply:
    """Return the whole reply to one question; a background response is polled to its end.

    Args:
        api: the API.
        request: the fields of the call.
        pace: of all calls.
        on_submitted: called with the reply to a background submit.

    Raises:
        GatewayError: the call failed, its answer is not whole, or the deadline passed.
    """
    reply = await _paced(api, request, pace)
    if not request.get("background"):
        return reply
    if on_submitted is not None:
        on_submitted(reply)
    # A bridged model blocks until the response is complete.
    if reply.status not in RUNNING:
        return require_complete(reply)
    return await wait(reply.id or "", None, window_of(request))


async def _paced(api: Api, request: JsonObject, pace: Pace) -> Reply:
    while True:
        try:
            async with pace.slot():
                return await create(api, request)
        except GatewayError as error:
            if not _is_worth_waiting(error):
                raise


def _is_worth_waiting(error: GatewayError) -> bool:
    """Was the call refused by a rate limit that ends before the deadline, so that nothing was executed?"""
    if error.kind is not ErrorKind.RATE_LIMIT or error.outcome_unknown or not error.retry_after:
        return False
    until = current_deadline()
    return error.retry_after < (math.inf if until is None else until.remaining())


class Threads(Generic[T]):
    """The results of blocking tasks on a bounded number of threads, in the order of their ends.

    A task is taken only when a thread is free. The threads are daemons: a program can end while calls are under way.

    Args:
        tasks: must not raise.
        jobs: the number of threads.
    """

    def __init__(self, tasks: Iterable[Callable[[], T]], jobs: int) -> None:
        self._tasks, self._jobs = iter(tasks), jobs
        self._results: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
        self._stopped = False

    def stop(self) -> None:
        """End the iteration at once, even while it waits. May be called by a signal handler."""
        self._stopped = True
        self._results.put(None)

    def __iter__(self) -> Iterator[list[T]]:
        """Yield the results that have arrived since the last ones, at least one at a time."""
        running = 0
        while not self._stopped:
            while running < self._jobs and (task := next(self._tasks, None)) is not None:
                # With the deadline of the caller.
                context = copy_context()
                threading.Thread(target=context.run, args=(self._run, task), daemon=True).start()
                running += 1
            if not running:
                return
            arrived = [self._results.get(), *self._ready()]
            results = [one for one in arrived if one is not None]
            running -= len(results)
            for one in results:
                if isinstance(one, BaseException):
                    raise one
            yield [one for one in results if not isinstance(one, BaseException)]
        # Results that have arrived since the last ones are not lost by a stop.
        yield [one for one in self._ready() if one is not None and not isinstance(one, BaseException)]

    def _ready(self) -> Iterator[T | BaseException | None]:
        while True:
            try:
                yield self._results.get_nowait()
            except queue.Empty:
                return

    def _run(self, task: Callable[[], T]) -> None:
        try:
            self._results.put(task())
        except BaseException as error:
            self._results.put(error)


async def in_tasks(tasks: Iterable[Callable[[], Operation[T]]], jobs: int) -> AsyncGenerator[T]:
    """Yield the results of asynchronous tasks, of which a bounded number runs at a time, in the order of their ends.

    The tasks that run are cancelled when the iteration is closed before its end.
    """
    import asyncio  # here, because threads do not need it

    left = iter(tasks)
    running: set[asyncio.Task[T]] = set()
    try:
        while True:
            while len(running) < jobs and (task := next(left, None)) is not None:
                running.add(asyncio.create_task(task()))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                yield one.result()
    finally:
        for one in running:
            one.cancel()
        if running:
            await asyncio.wait(running)


@dataclass(frozen=True)
class AskedReply:
    """The end of one of many questions.

    Attributes:
        id: as given, otherwise the question's number, from 1.
        prompt: the prompt.
        reply: the whole reply; None if there is an error.
        error: a `GatewayError` of the call, or the `ValueError` or `OSError` of a question that cannot be sent.
    """

    id: object
    prompt: str
    reply: Reply | None = None
    error: Exception | None = None

    @property
    def text(self) -> str:
        """The text of the answer, or the part of it that has arrived."""
        return self.reply.text if self.reply is not None else str(getattr(self.error, "text", ""))


# A question without its end, and arguments of the method that asks it.
Unanswered = tuple[AskedReply, Mapping[str, Any]]


def questions(prompts: Iterable[str | Mapping[str, Any]], arguments: Mapping[str, Any]) -> Iterator[Unanswered]:
    """Yield the questions of `ask_all`.

    Args:
        prompts: texts, or mappings with `prompt`, `id` and arguments.
        arguments: of every question; its own take precedence.
    """
    for number, given in enumerate(prompts, 1):
        own = {"prompt": given} if not isinstance(given, Mapping) else dict(given)
        question_id, prompt = own.pop("id", None), own.pop("prompt", "")
        yield AskedReply(number if question_id is None else question_id, prompt), {**arguments, **own}
