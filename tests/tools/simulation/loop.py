"""Virtual time, and processes that can be killed or frozen between any two steps.

The event loop is asyncio's, on a selector that never waits: instead of sleeping until the next timer, it moves the
clock there. Every step of a task is a callback of the loop, and the callback's context names the simulated process that
it belongs to. A killed process takes no further step: as with `kill -9`, no `finally` runs.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVarTuple

Given = TypeVarTuple("Given")

_MOST_TURNS = 3_000_000  # of the loop in one seed; more means that it never comes to rest

current: ContextVar[Process | None] = ContextVar("process", default=None)
"""The simulated process whose code runs; None for the simulation itself."""


class Stuck(Exception):
    """Raised if the simulation can never end: nothing is left to run, or the same steps repeat endlessly."""


class Clock:
    """The machine's clocks: `now` is monotonic, `wall` can be set."""

    def __init__(self) -> None:
        self.now = 100_000.0
        self.offset = 1_790_000_000.0 - self.now

    @property
    def wall(self) -> float:
        return self.now + self.offset


class Process:
    """A simulated process: a name, a context for its tasks, and the resources that its death closes.

    Attributes:
        disk: the disk that holds its ledger.
        on_death: called when it dies.
        leaves_at: time of its death, or of the signal to stop.
    """

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name = name
        self.alive = True
        self.disk: Any = None
        self.leaves_at = math.inf
        self.on_death: list[Callable[[], None]] = []
        self._loop = loop
        self._steps_left: int | None = None
        self._killed: Callable[[], None] = lambda: None
        self._frozen_until = 0.0
        self._held: list[tuple[Callable[..., object], tuple[Any, ...], Context]] = []
        self._context: Context = copy_context()
        self._context.run(current.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Run a coroutine in this process."""
        return self._loop.create_task(work, name=name or self.name, context=self._context.copy())

    def kill(self) -> None:
        """End the process at once: its connections break, and none of its code runs again."""
        if self.alive:
            self.alive = False
            self.leaves_at = min(self.leaves_at, self._loop.time())
            for close in self.on_death:
                close()

    def kill_after(self, steps: int, killed: Callable[[], None]) -> None:
        """Kill the process after `steps` further steps, then call `killed`."""
        self._steps_left, self._killed = steps, killed

    def freeze(self, seconds: float) -> None:
        """Stop the process for `seconds`, as SIGSTOP or a suspended machine does."""
        self._frozen_until = self._loop.time() + seconds

    def take(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Take one step, unless the process is dead or frozen."""
        if not self.alive:
            return
        if self._frozen_until > self._loop.time():
            if not self._held:
                self._loop.call_at(self._frozen_until, self._thaw, context=Context())
            self._held.append((callback, args, copy_context()))
            return
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left < 0:
                self._steps_left = None
                self.kill()
                self._killed()
                return
        callback(*args)

    def _thaw(self) -> None:
        """Take all held steps in order, at one moment: some repeat until another one has been taken."""
        if self._frozen_until > self._loop.time():
            self._loop.call_at(self._frozen_until, self._thaw, context=Context())
            return
        held, self._held = self._held, []
        for callback, args, context in held:
            self._loop.call_soon(callback, *args, context=context)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the clock's, and whose steps belong to processes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._objects = 0
        # Without this reference a dead process's task would be collected, which runs its `finally` blocks.
        self._tasks: list[asyncio.Task[Any]] = []
        super().__init__(_Selector(clock))
        self.set_task_factory(self._new_task)

    def time(self) -> float:
        return self._clock.now

    def call_soon(
        self, callback: Callable[[*Given], object], *args: *Given, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(_step, callback, args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Given], object], *args: *Given, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, _step, callback, args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[[*Given], Any], *args: *Given) -> asyncio.Future[Any]:
        """Call it here and now: a thread would answer at a moment that no seed controls."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(self._number(), loop=self)

    def _new_task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = _Task(self._number(), work, loop=loop, **options)
        self._tasks.append(task)
        return task

    def _number(self) -> int:
        self._objects += 1
        return self._objects


def _step(callback: Callable[..., object], args: tuple[Any, ...]) -> None:
    process = current.get()
    if process is None:
        callback(*args)
    else:
        process.take(callback, args)


class _Task(asyncio.Task[Any]):
    """A task whose order in a set is independent of its memory address."""

    def __init__(self, number: int, work: Any, **options: Any) -> None:
        self._hash = number
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self._hash


class _Future(asyncio.Future[Any]):
    """A future whose order in a set is independent of its memory address."""

    def __init__(self, number: int, **options: Any) -> None:
        self._hash = number
        super().__init__(**options)

    def __hash__(self) -> int:
        return self._hash


class _Selector(selectors.DefaultSelector):
    """A selector that advances the clock instead of waiting; the simulation has no real input or output."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._turns += 1
        if timeout is None:
            raise Stuck("nothing is left to happen, and the simulation has not ended")
        if self._turns > _MOST_TURNS:
            raise Stuck("it does not come to rest")
        if timeout > 0:
            self._clock.now += timeout
        return []
