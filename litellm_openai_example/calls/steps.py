"""Work without I/O: an operation is a coroutine that awaits the steps it needs done: `call`, `sleep`, `gather`.

A step gives itself to whoever drives the coroutine: `run` with a blocking client, `run_async` with an asynchronous one,
and what an operation decides is written once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import anyio
from httpx2 import RequestError
from openai import OpenAIError

from ..config import ConfigurationError
from ..errors import GatewayError, redact

T = TypeVar("T")

# What can go wrong on the way; anything else that a call raises is the caller's own (a function that gives the key, a
# value that is no JSON), and reaches the caller as it is. So does a setting that cannot be used.
_ON_THE_WAY = (OpenAIError, RequestError)
# What can go wrong while a reply is fetched and read; anything else is a programming error and shows itself.
EXPECTED = (OpenAIError, RequestError, ValueError, RecursionError, OSError)

Operation = Coroutine["Step", Any, T]


class _Step(Awaitable[Any]):
    """Awaited, it is handed to the driver, which gives its result back or raises what went wrong."""

    def __await__(self) -> Generator[Self, object, Any]:
        return (yield self)


@dataclass(frozen=True)
class call(_Step):
    """Call the client: `function(client)` gives its result, or an awaitable of it."""

    function: Callable[[Any], Any]


@dataclass(frozen=True)
class sleep(_Step):
    """Wait for that many seconds."""

    seconds: float


@dataclass(frozen=True)
class gather(_Step):
    """Carry out operations side by side; gives a list of their results, an exception where one failed."""

    operations: Sequence[Operation[object]]


Step = call | sleep | gather


class _Driver(Generic[T]):
    """An operation on its way: the step that it wants done now (None at its end), and its result."""

    def __init__(self, client: object, operation: Operation[T]) -> None:
        self.step: Step | None = None
        self.result: T
        self._client = client
        self._operation = operation
        self.give(None)

    def give(self, value: object) -> None:
        self._advance(lambda: self._operation.send(value))

    def throw(self, error: Exception) -> None:
        self._advance(lambda: self._operation.throw(error))

    def _advance(self, move: Callable[[], Step]) -> None:
        try:
            self.step = move()
        except StopIteration as stop:
            self.step, self.result = None, stop.value
        except GatewayError as error:
            raise redact(error, getattr(self._client, "api_key", None)) from error.__cause__


def run(client: object, operation: Operation[T]) -> T:
    """Drive an operation to its end with a blocking client."""
    driver = _Driver(client, operation)
    while driver.step is not None:
        try:
            value = _do(client, driver.step)
        except ConfigurationError:
            raise
        except _ON_THE_WAY as error:
            driver.throw(error)
        else:
            driver.give(value)
    return driver.result


async def run_async(client: object, operation: Operation[T]) -> T:
    """Drive an operation to its end with an asynchronous client."""
    driver = _Driver(client, operation)
    while driver.step is not None:
        try:
            value = await _do_async(client, driver.step)
        except ConfigurationError:
            raise
        except _ON_THE_WAY as error:
            driver.throw(error)
        else:
            driver.give(value)
    return driver.result


def _do(client: object, step: Step) -> object:
    if isinstance(step, call):
        return step.function(client)
    if isinstance(step, gather):
        return _side_by_side(client, step.operations)
    time.sleep(step.seconds)
    return None


async def _do_async(client: object, step: Step) -> object:
    if isinstance(step, call):
        return await step.function(client)
    if isinstance(step, gather):
        return await _side_by_side_async(client, step.operations)
    await anyio.sleep(step.seconds)
    return None


def _side_by_side(client: object, operations: Sequence[Operation[object]]) -> list[object]:
    outcomes: list[object] = [None] * len(operations)

    def one(index: int, operation: Operation[object]) -> None:
        try:
            outcomes[index] = run(client, operation)
        except BaseException as error:
            outcomes[index] = error

    # Daemons: an interrupt in the main thread must not wait for a research run. Each has the caller's deadline.
    threads = [
        threading.Thread(target=copy_context().run, args=(one, index, operation), daemon=True)
        for index, operation in enumerate(operations)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, EXPECTED):
            raise outcome
    return outcomes


async def _side_by_side_async(client: object, operations: Sequence[Operation[object]]) -> list[object]:
    outcomes: list[object] = [None] * len(operations)

    async def one(index: int, operation: Operation[object]) -> None:
        try:
            outcomes[index] = await run_async(client, operation)
        except EXPECTED as error:
            outcomes[index] = error

    try:
        async with anyio.create_task_group() as tasks:
            for index, operation in enumerate(operations):
                tasks.start_soon(one, index, operation)
    finally:
        for operation in operations:
            operation.close()  # one that was cancelled before it began
    return outcomes
