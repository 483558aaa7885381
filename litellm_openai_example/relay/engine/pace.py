"""How long the pauses are: between two looks at a response, and before another try to submit."""

from __future__ import annotations

import random

from ..settings import Timings

_GROWTH = 0.2  # of the age: a run that ends between two polls is told of by so much of its length too late
_LONGEST_POLL_AFTER = 60.0


def pause(poll_after: float | None, age: float, timings: Timings) -> float:
    """Return the seconds until the next poll: a share of the run's age within bounds, or what the gateway asks for.

    Args:
        poll_after: what the gateway asks for, in seconds.
        age: of the run, in seconds.
    """
    if poll_after is None:
        return min(max(timings.first_poll, age * _GROWTH), timings.longest_poll)
    return min(max(poll_after, timings.first_poll), _LONGEST_POLL_AFTER)


def until_next_try(attempts: int, delay: float | None, timings: Timings) -> float:
    """Seconds until what was not sent is tried again: exponential, with jitter, and as long as the gateway asks for.

    Args:
        attempts: made so far.
        delay: what the gateway asks for, in seconds.
    """
    seconds = min(timings.retry, 0.5 * 2.0 ** min(attempts - 1, 10)) * random.uniform(0.75, 1)  # noqa: S311
    return max(seconds, min(delay or 0.0, 4 * timings.retry))
