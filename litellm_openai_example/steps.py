"""Work without I/O: an operation is a generator that yields the steps it needs done.

It is given each step's result, or the exception, and returns its own result. `run` drives it with a blocking client,
`run_async` with an asynchronous one, so that what an operation decides is written once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio
from httpx2 import RequestError
from openai import OpenAIError

from .errors import GatewayError, redact

T = TypeVar("T")

# What can go wrong while a reply is fetched and read; anything else is a programming error and shows itself.
EXPECTED = (OpenAIError, RequestError, ValueError, RecursionError, OSError)


@dataclass(frozen=True)
class Send:
    """Call the client: `call(client)` gives its result, or an awaitable of it."""

    call: Callable[[Any], Any]


@dataclass(frozen=True)
class Pause:
    """Wait for that many seconds."""

    seconds: float


@dataclass(frozen=True)
class Together:
    """Carry out operations side by side; gives a list of their results, an exception where one failed."""

    operations: Sequence[Operation[Any]]


Operation = Generator[Any, Any, T]


class _Driver(Generic[T]):
    """An operation on its way: the step that it wants done now (None at its end), and its result."""

    def __init__(self, client: Any, operation: Operation[T]) -> None:
        self.step: Any = None
        self.result: T
        self._client = client
        self._operation = operation
        self.give(None)

    def give(self, value: object) -> None:
        self._advance(lambda: self._operation.send(value))

    def throw(self, error: Exception) -> None:
        self._advance(lambda: self._operation.throw(error))

    def _advance(self, move: Callable[[], Any]) -> None:
        try:
            self.step = move()
        except StopIteration as stop:
            self.step, self.result = None, stop.value
        except GatewayError as error:
            raise redact(error, getattr(self._client, "api_key", None)) from error.__cause__


def run(client: Any, operation: Operation[T]) -> T:
    """Drive an operation to its end with a blocking client."""
    driver = _Driver(client, operation)
    while driver.step is not None:
        try:
            value = _do(client, driver.step)
        except EXPECTED as error:
            driver.throw(error)
        else:
            driver.give(value)
    return driver.result


async def run_async(client: Any, operation: Operation[T]) -> T:
    """Drive an operation to its end with an asynchronous client."""
    driver = _Driver(client, operation)
    while driver.step is not None:
        try:
            value = await _do_async(client, driver.step)
        except EXPECTED as error:
            driver.throw(error)
        else:
            driver.give(value)
    return driver.result


def _do(client: Any, step: Any) -> Any:
    if isinstance(step, Send):
        return step.call(client)
    if isinstance(step, Together):
        return _side_by_side(client, step.operations)
    return time.sleep(step.seconds)


async def _do_async(client: Any, step: Any) -> Any:
    if isinstance(step, Send):
        return await step.call(client)
    if isinstance(step, Together):
        return await _side_by_side_async(client, step.operations)
    return await anyio.sleep(step.seconds)


def _side_by_side(client: Any, operations: Sequence[Operation[Any]]) -> list[Any]:
    outcomes: list[Any] = [None] * len(operations)

    def one(index: int, operation: Operation[Any]) -> None:
        try:
            outcomes[index] = run(client, operation)
        except BaseException as error:
            outcomes[index] = error

    # Daemons: an interrupt in the main thread must not wait for a research. Each has the caller's deadline.
    threads = [
        threading.Thread(target=copy_context().run, args=(one, index, operation), daemon=True)
        for index, operation in enumerate(operations)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _outcomes(outcomes)


async def _side_by_side_async(client: Any, operations: Sequence[Operation[Any]]) -> list[Any]:
    outcomes: list[Any] = [None] * len(operations)

    async def one(index: int, operation: Operation[Any]) -> None:
        try:
            outcomes[index] = await run_async(client, operation)
        except EXPECTED as error:
            outcomes[index] = error

    async with anyio.create_task_group() as tasks:
        for index, operation in enumerate(operations):
            tasks.start_soon(one, index, operation)
    return outcomes


def _outcomes(outcomes: list[Any]) -> list[Any]:
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, EXPECTED):
            raise outcome
    return outcomes
