"""Work that goes on as long as the process: no failure ends it, and none is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .log import kind_and_place, log


async def keep_going(
    name: str,
    step: Callable[[], Awaitable[object]],
    *,
    pause: float,
    expected: type[Exception] | tuple[type[Exception], ...] = (),
) -> None:
    """Call `step` again and again until cancelled.

    Args:
        name: what it does, for the log.
        step: waits for its next turn itself.
        pause: seconds until the next turn after one that failed.
        expected: what is no failure of the loop, but an outage that somebody else tells of.

    A failure is said once, with its kind and place, and so is its end.
    """
    failing = ""
    while True:
        try:
            await step()
        except expected:
            await asyncio.sleep(pause)
        except Exception as error:
            kind = kind_and_place(error)
            if kind != failing:
                log.error("%s failed (%s) and goes on", name, kind)
            failing = kind
            await asyncio.sleep(pause)
        else:
            if failing:
                log.warning("%s works again", name)
            failing = ""
