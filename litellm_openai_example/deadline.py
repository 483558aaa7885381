"""One deadline for a whole call, retries and polling included, on the monotonic clock.

An HTTP client's timeouts are per read: a server that drips one byte now and then stretches them for ever. An
asynchronous call can be cancelled from outside; a blocking one cannot, so a watchdog cuts its connection.
"""

from __future__ import annotations

import math
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

_NEVER = 1e9  # seconds; the clocks of the operating system overflow not much later


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


class Guard:
    """Cuts the connection of one blocking call when its deadline passes.

    The connection is learnt while the call runs (`connection`), as there is none before. `fired` says
    afterwards whether the call ended because of the cut: to the code that was reading it looks like a server
    that went away, or even like the end of a body.
    """

    def __init__(self, until: Deadline) -> None:
        self.until = until
        self.fired = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        if self.until.at != math.inf:
            _watchdog.add(self)

    def stop(self) -> None:
        _watchdog.remove(self)

    def connection(self, stream: Any) -> None:
        """Take the network stream (httpcore's interface) that the call goes over from now on, if there is one."""
        with self._lock:
            self._socket = stream.get_extra_info("socket") if stream is not None else self._socket
            if self.fired:
                self._cut()

    def fire(self) -> None:
        with self._lock:
            self.fired = True
            self._cut()

    def _cut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it may be gone already
                # The plain socket's method: that of an SSL socket drops its state under the reader's feet.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Connections:
    """Finds out which connection of a client's pool each blocking call goes over, for its guard.

    The HTTP library's trace events tell of a connection that is opened. One that is used again is not named, but
    while a single one is idle it can only be that. With several idle ones a guard learns it with the head of the
    answer, and until then each read is bounded.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._busy: dict[int, Any] = {}
        self._lock = threading.Lock()

    def on_event(self, guard: Guard, name: str, info: dict[str, Any]) -> None:
        """Take a trace event of the call that `guard` bounds."""
        opened = info.get("return_value")
        if not hasattr(opened, "get_extra_info"):
            if not name.endswith(".send_request_headers.started"):
                return
            opened = None
        with self._lock:
            if opened is None and id(guard) not in self._busy:
                busy = {id(stream) for stream in self._busy.values()}
                idle = [stream for stream in self._known if id(stream) not in busy and _is_open(stream)]
                opened = idle[0] if len(idle) == 1 else None
            if opened is None:
                return
            self._known.add(opened)
            self._busy[id(guard)] = opened
        guard.connection(opened)

    def release(self, guard: Guard) -> None:
        """The call has ended, and its connection is idle or closed."""
        with self._lock:
            self._busy.pop(id(guard), None)


def _is_open(stream: Any) -> bool:
    sock = stream.get_extra_info("socket")
    return sock is not None and sock.fileno() != -1


class _Watchdog:
    """One thread for all guards of the process, started with the first.

    It sleeps until the nearest deadline that it knew of when it fell asleep, and is woken for a nearer one
    only, so that a series of calls with one timeout costs two dictionary operations each.
    """

    def __init__(self) -> None:
        self._guards: dict[int, Guard] = {}
        self._wakeup = threading.Condition()
        self._next = math.inf
        self._thread: threading.Thread | None = None

    def add(self, guard: Guard) -> None:
        with self._wakeup:
            self._guards[id(guard)] = guard
            if self._thread is None or not self._thread.is_alive():  # not alive: this is a forked process
                self._thread = threading.Thread(target=self._run, name="deadline-watchdog", daemon=True)
                self._next = guard.until.at
                self._thread.start()
            elif guard.until.at < self._next:
                self._wakeup.notify()

    def remove(self, guard: Guard) -> None:
        with self._wakeup:
            self._guards.pop(id(guard), None)

    def _run(self) -> None:
        with self._wakeup:
            while True:
                now = time.monotonic()
                due = [guard for guard in self._guards.values() if guard.until.at <= now]
                for guard in due:
                    del self._guards[id(guard)]
                    guard.fire()
                self._next = min((guard.until.at for guard in self._guards.values()), default=math.inf)
                self._wakeup.wait(None if self._next == math.inf else self._next - now)


_watchdog = _Watchdog()
