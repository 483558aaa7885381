"""How long the pauses are: between two looks at a response, and before another try to submit."""

from __future__ import annotations

import random

from ..settings import Timings

_GROWTH = 0.5  # of the age: a run that took minutes is found a little later, for few looks
_LONGEST_POLL_AFTER = 60.0


def pause(poll_after: float | None, age: float, jobs: int, timings: Timings) -> float:
    """Seconds until the next look: growing from the start, if the gateway has no wish.

    Args:
        poll_after: what the gateway wishes, in seconds.
        age: of the run, in seconds.
        jobs: runs of this process, which share its looks.
    """
    if poll_after is None:
        wished = min(timings.first_poll + age * _GROWTH, timings.longest_poll)
    else:
        wished = min(max(poll_after, timings.first_poll / 2), _LONGEST_POLL_AFTER)
    return max(wished, jobs / timings.polls_per_second)


def until_next_try(attempts: int, delay: float | None, timings: Timings) -> float:
    """Seconds until what was not sent is tried again: exponential, with jitter, and as long as the gateway asks for.

    Args:
        attempts: made so far.
        delay: what the gateway asks for, in seconds.
    """
    seconds = min(timings.retry, 0.5 * 2.0 ** min(attempts - 1, 10)) * random.uniform(0.75, 1)  # noqa: S311
    return max(seconds, min(delay or 0.0, 4 * timings.retry))
