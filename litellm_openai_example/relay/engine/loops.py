"""Work that goes on as long as the process: no failure ends it, and none is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..ledger.database import LedgerUnavailable
from ..log import kind_and_place, log


async def keep_going(name: str, step: Callable[[], Awaitable[object]], *, pause: float) -> None:
    """Call `step` again and again until cancelled.

    Args:
        name: what it does, for the log.
        step: waits for its next turn itself.
        pause: seconds until the next turn after one that failed.

    A failure is said once, with its kind and place, and so is its end. That the ledger is away is no failure of a loop:
    the database says that itself.
    """
    failing = ""
    while True:
        try:
            await step()
        except LedgerUnavailable:
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
