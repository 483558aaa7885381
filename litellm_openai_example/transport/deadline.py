"""One deadline for a whole call, retries and polling included, on the monotonic clock.

An HTTP client's timeouts are per read: a server that drips one byte now and then stretches them for ever. An
asynchronous call can be cancelled from outside; a blocking one cannot, so each of its reads is given what is left.
"""

from __future__ import annotations

import inspect
import math
import ssl
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_NEVER = 1e9  # seconds; the clocks of the operating system overflow not much later
_SHORTEST = 0.001  # seconds; a timeout of 0 would mean not to wait, which is another error
_PIECE = 2**16  # bytes that are written under one timeout


class Deadline:
    """A moment on the monotonic clock.

    Args:
        seconds: from now; None or infinity for never.
    """

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float | None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self.at = time.monotonic() + self.seconds if self.seconds < _NEVER else math.inf

    def remaining(self) -> float:
        """Seconds left, 0 when it has passed, infinite when there is no limit."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def current_deadline() -> Deadline | None:
    """The deadline that `deadline` set around this code, if any."""
    return _current.get()


@contextmanager
def deadline(seconds: float | Deadline | None) -> Iterator[Deadline]:
    """Bound everything sent inside the block, streams that are opened inside it to their end included.

    Args:
        seconds: of the whole block, or a deadline that already runs. A deadline around it that is nearer wins.
    """
    mine = seconds if isinstance(seconds, Deadline) else Deadline(seconds)
    outer = _current.get()
    nearest = outer if outer is not None and outer.at <= mine.at else mine
    token = _current.set(nearest)
    try:
        yield nearest
    finally:
        _current.reset(token)


# Until when the blocking call that runs here may read and write.
_io_until: ContextVar[Deadline | None] = ContextVar("io_until", default=None)


@contextmanager
def bounded_io(until: Deadline | None) -> Iterator[None]:
    """Bound each read and write inside the block, on connections that `clamp` was given; None for no bound."""
    token = _io_until.set(until)
    try:
        yield
    finally:
        _io_until.reset(token)


def clamp(stream: Any) -> None:
    """Let no single read, write or handshake of a new connection last longer than the deadline of its call.

    A blocking read cannot be cancelled from outside, but every one has a timeout, so that also a head or body that
    drips ends in time.

    Args:
        stream: a network stream of the HTTP library (its `read`, `write` and `start_tls` are public).
    """
    read, write, start_tls = weakly(stream.read), weakly(stream.write), weakly(stream.start_tls)

    def clamped_read(max_bytes: int, timeout: float | None = None) -> bytes:
        return read(max_bytes, _clamped(timeout))  # type: ignore[no-any-return]

    def clamped_write(buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):  # each has the timeout anew
            write(buffer[start : start + _PIECE], _clamped(timeout))

    def clamped_start_tls(ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        return start_tls(ssl_context, server_hostname, _clamped(timeout))

    stream.read, stream.write, stream.start_tls = clamped_read, clamped_write, clamped_start_tls
    _clamp_tls(stream.get_extra_info("socket"))


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `method` and does not keep its object alive.

    The object holds what replaces its method, and is alive whenever that is called. A plain function is returned as it
    is: an earlier replacement.
    """
    if not inspect.ismethod(method):
        return method
    held = weakref.WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> Any:
        found = held()
        assert found is not None
        return found(*args, **kwargs)

    return call


def _clamp_tls(socket: object) -> None:
    """For TLS within the TLS of a proxy: a handshake or a read of the inner one makes many of the outer one."""
    if not isinstance(socket, ssl.SSLSocket):
        return
    outer: Any = socket
    receive, send = weakly(outer.recv), weakly(outer.sendall)
    held = weakref.ref(outer)

    def clamped_receive(*args: int) -> bytes:
        clamp_timeout(held())
        return receive(*args)  # type: ignore[no-any-return]

    def clamped_send(data: bytes) -> None:
        clamp_timeout(held())
        send(data)

    def clamp_timeout(alive: Any) -> None:
        alive.settimeout(_clamped(alive.gettimeout()))

    outer.recv, outer.sendall = clamped_receive, clamped_send


def _clamped(timeout: float | None) -> float | None:
    until = _io_until.get()
    if until is None or until.at == math.inf:
        return timeout
    left = max(until.remaining(), _SHORTEST)
    return left if timeout is None else min(timeout, left)
