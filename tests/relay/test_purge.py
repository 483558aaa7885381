"""Deleting what is old: however much it is, what is due is done on time."""

from __future__ import annotations

import asyncio
import time

from .test_ledger import fill, new, opened, run


def test_a_big_purge_does_not_hold_up_a_retry(database_url: str) -> None:
    """While 100,000 runs are deleted, block by block, one that the gateway told to wait is claimed on time."""

    async def work() -> None:
        async with opened(database_url) as ledger:
            await fill(ledger, 100_000)
            await ledger.heartbeat()
            await ledger.accept(new("a"))
            assert await ledger.claim(1, blocks=False)

            async def purge() -> None:
                while await ledger.purge(-10.0):
                    await asyncio.sleep(0.01)

            purging = asyncio.create_task(purge())
            await ledger.requeue("a", 1.0, attempt=1)
            due = time.monotonic() + 1.0
            while not await ledger.claim(1, blocks=False):
                assert time.monotonic() < due + 2.0
                await asyncio.sleep(0.05)
                await ledger.heartbeat()
            assert not purging.done()
            purging.cancel()

    run(work)
