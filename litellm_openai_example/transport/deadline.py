"""One deadline for a whole call, retries and polling included, on the monotonic clock.

An HTTP client's timeouts are per read, so a server that drips a byte now and then can stretch a call without end. The
HTTP clients cancel an asynchronous call at its deadline. A blocking call cannot be cancelled, so each of its reads and
writes gets the time that is left (`connections.clamp`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_NEVER = 1e9  # seconds; the operating system's timers overflow not far beyond


class Deadline:
    """A point in time on the monotonic clock.

    Args:
        seconds: the time from now; None or infinity for no limit.
    """

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float | None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self.at = time.monotonic() + self.seconds if self.seconds < _NEVER else math.inf

    def remaining(self) -> float:
        """Return the seconds left: 0 after the deadline, infinity without a limit."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def current_deadline() -> Deadline | None:
    """Return the deadline that `deadline` has set for this context, if any."""
    return _current.get()


@contextmanager
def deadline(seconds: float | Deadline | None) -> Iterator[Deadline]:
    """Bound everything sent inside the block, and streams opened inside it to their end.

    Args:
        seconds: the time for the whole block, or an existing deadline. An enclosing deadline that is nearer wins.
    """
    mine = seconds if isinstance(seconds, Deadline) else Deadline(seconds)
    outer = _current.get()
    nearest = outer if outer is not None and outer.at <= mine.at else mine
    # In a context variable, because the SDK lies between the caller and the HTTP client, and passes no deadline on.
    token = _current.set(nearest)
    try:
        yield nearest
    finally:
        _current.reset(token)
