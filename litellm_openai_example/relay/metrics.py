"""`/metrics`: what runs, how long, and what it cost, as Prometheus reads it.

What the ledger knows (runs that have not ended by state, the oldest of each) is the same on every replica; counters are
of this process.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .counters import NAME, counters
from .ledger.ledger import Ledger
from .ledger.schema import ACTIVE, IS_ACTIVE, IS_QUEUED, db_now, invocations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATES = ("queued", *ACTIVE)


async def exposition(ledger: Ledger, *, waiters: int, seconds: float) -> bytes:
    """The metrics as text.

    Args:
        waiters: clients that wait or watch at this process.
        seconds: that the ledger has to answer; without an answer, its metrics are left out and `up` is 0.
    """
    registry = CollectorRegistry()
    Gauge(f"{NAME}_waiters", "Clients that wait or watch at this process.", registry=registry).set(waiters)
    up = Gauge(f"{NAME}_ledger_up", "Whether the ledger answers.", registry=registry)
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            rows = await _by_state(ledger)
    except Exception:
        up.set(0)
    else:
        up.set(1)
        latency = Gauge(f"{NAME}_ledger_seconds", "How long the ledger took to answer this.", registry=registry)
        latency.set(time.monotonic() - began)
        _set_runs(registry, rows)
    return generate_latest(registry) + generate_latest(counters)


async def _by_state(ledger: Ledger) -> list[Row[Any]]:
    """Of those that have not ended: to count the others, all of them would have to be read each time."""
    row = invocations.c
    found = select(row.state, func.count().label("runs"), (db_now() - func.min(row.created_at)).label("age"))

    async def work(connection: AsyncConnection) -> list[Row[Any]]:
        queries = [found.where(where).group_by(row.state) for where in (IS_QUEUED, IS_ACTIVE)]
        return [each for query in queries for each in await connection.execute(query)]

    return await ledger.database.read(work)


def _set_runs(registry: CollectorRegistry, rows: list[Row[Any]]) -> None:
    runs = Gauge(f"{NAME}_runs", "Runs that have not ended.", ["state"], registry=registry)
    oldest = Gauge(f"{NAME}_oldest_seconds", "Age of the oldest run of a state.", ["state"], registry=registry)
    found = {row.state: row for row in rows}
    for state in _STATES:
        runs.labels(state).set(found[state].runs if state in found else 0)
        oldest.labels(state).set(found[state].age if state in found else 0)
