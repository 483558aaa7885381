"""Purges: retentions, and no delay of due work."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from sqlalchemy import text

from litellm_openai_example.relay.ledger.records import Outcome

from .ledgers import fill, new, opened, run


def test_a_big_purge_does_not_delay_a_retry(database_url: str) -> None:
    """A run that waits for its retry is claimed while 100,000 others are deleted, block by block."""

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
            while not await ledger.claim(1, blocks=False):
                await asyncio.sleep(0.05)
                await ledger.heartbeat()
            assert not purging.done()
            purging.cancel()

    run(work)


def test_the_longer_of_two_retentions_applies(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "litellm_relay")

    async def work() -> None:
        day, hour = 86400.0, 3600.0
        async with opened(database_url, retention=hour) as short:
            async with opened(database_url, "long", retention=day) as long:
                await short.accept(new("old"))
                await short.claim(1, blocks=False)
                await short.settle("old", Outcome("failed"))
                age = text(f"UPDATE relay_invocations SET updated_at = {time.time() - 2 * hour}")
                await short.database.run(lambda connection: connection.execute(age))
                for ledger, own in ((short, hour), (long, day), (short, hour)):
                    assert await ledger.purge(own) == 0
                (said,) = caplog.messages
                assert "results are kept for 24 h" in said
                assert "this one: 1 h" in said
                await long.leave()
            assert await short.purge(hour) == 1
        assert "results are kept for 1 h" in caplog.messages[-1]

    run(work)


def test_a_different_retention_is_logged_before_anything_is_deleted(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The process with the shorter retention logs it, in either order of starts."""

    async def work() -> None:
        day, hour = 86400.0, 3600.0
        async with (
            opened(database_url, retention=hour) as short,
            opened(database_url, "long", retention=day) as long,
        ):
            for _ in range(2):
                await short.heartbeat()
                await long.heartbeat()
            (said,) = caplog.messages
            assert "results are kept for 24 h" in said
            async with opened(database_url, "late", retention=hour):
                assert len(caplog.messages) == 2

    caplog.set_level(logging.INFO, "litellm_relay")
    run(work)


def test_a_retention_outlives_its_process_for_a_while(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url, retention=0.0) as short:
            async with opened(database_url, "long", retention=3600.0):
                await short.accept(new("old"))
                await short.claim(1, blocks=False)
                await short.settle("old", Outcome("failed"))
            assert await short.purge(0.0) == 0

    run(work)
