"""The runner of operations, which are written once for the blocking and the asynchronous client.

An operation is a coroutine that awaits `call`, `sleep` and `gather`, which find the client in a context variable. With
a blocking client they block, so the coroutine never suspends and `run` is one `send`. With an asynchronous client they
await.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import anyio
from openai import OpenAIError

from ..config import ConfigurationError
from ..errors import GatewayError, redact
from ..http_library import httpx

P = ParamSpec("P")
T = TypeVar("T")

# The errors of sending a request.
_ON_THE_WAY = (OpenAIError, httpx.RequestError)
# The errors of sending a request and reading its reply; any other is a programming error.
EXPECTED = (OpenAIError, httpx.RequestError, ValueError, RecursionError, OSError)

Operation = Coroutine[Any, Any, T]


class _Driven(NamedTuple):
    """The client that runs the operation of this context."""

    client: Any
    asynchronous: bool


_driven: ContextVar[_Driven] = ContextVar("driven")


class _CallersOwn(BaseException):
    """A carrier that takes an exception of the caller's code past the `except` clauses of an operation.

    The function that provides the API key may raise anything, and the caller gets it unchanged.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


async def call(function: Callable[[Any], Any]) -> Any:
    """Return `function(client)`, awaited if the client is asynchronous."""
    client, asynchronous = _driven.get()
    try:
        result = function(client)
        return await result if asynchronous else result
    except ConfigurationError as error:
        # It is a ValueError, or an OpenAIError as well, and an operation would take it for a failed call.
        raise _CallersOwn(error) from None
    except _ON_THE_WAY:
        raise
    except Exception as error:
        raise _CallersOwn(error) from None


async def sleep(seconds: float) -> None:
    """Wait for `seconds`."""
    if _driven.get().asynchronous:
        await anyio.sleep(seconds)
    else:
        time.sleep(seconds)  # noqa: ASYNC251 (a blocking client has no event loop)


async def gather(operations: Sequence[Operation[object]]) -> list[object]:
    """Run operations side by side, and return their results in order, or the `EXPECTED` exception of each."""
    client, asynchronous = _driven.get()
    if asynchronous:
        return await _gather_tasks(client, operations)
    return _gather_threads(client, operations)


def run(client: object, operation: Operation[T]) -> T:
    """Run an operation with a blocking client.

    Raises:
        GatewayError: the operation failed; the client's key is removed from it.
    """
    with _driving(_Driven(client, asynchronous=False)):
        try:
            # Every await inside has blocked instead of suspending, so one `send` runs the coroutine to its end.
            operation.send(None)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        raise RuntimeError("a blocking operation awaited something other than its steps")


async def run_async(client: object, operation: Operation[T]) -> T:
    """Run an operation with an asynchronous client; see `run`."""
    with _driving(_Driven(client, asynchronous=True)):
        return await operation


def awaitable(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return a method of a blocking client for the asynchronous one; type checkers and editors keep its signature.

    It must return what a method of each client returns, such as `run`: there that is a coroutine.
    """

    @wraps(method)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        of_either: Callable[..., Any] = method
        return await of_either(self, *args, **kwargs)  # type: ignore[no-any-return]

    return call


@contextmanager
def _driving(driven: _Driven) -> Iterator[None]:
    token = _driven.set(driven)
    try:
        yield
    except _CallersOwn as carrier:
        raise carrier.error from carrier.error.__cause__
    except GatewayError as error:
        raise redact(error, getattr(driven.client, "api_key", None)) from error.__cause__
    finally:
        _driven.reset(token)


def _gather_threads(client: object, operations: Sequence[Operation[object]]) -> list[object]:
    outcomes: list[object] = [None] * len(operations)

    def one(index: int, operation: Operation[object]) -> None:
        try:
            outcomes[index] = run(client, operation)
        except BaseException as error:
            outcomes[index] = error

    # Daemon threads, so that Ctrl-C does not wait for a research run. Each has the caller's deadline.
    # The copied context has the deadline and the session of the caller.
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


async def _gather_tasks(client: object, operations: Sequence[Operation[object]]) -> list[object]:
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
            # Those that were cancelled before they began.
            operation.close()
    return outcomes
