"""`/metrics`: what runs, how long, and what it cost, as Prometheus reads it.

What the ledger knows (runs by state, the oldest of each) is the same on every replica; counters are of this process.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from sqlalchemy import func, select

from ..research.contract import TERMINAL
from .ledger.ledger import Ledger
from .ledger.schema import db_now, invocations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAME = "litellm_relay"
_STATES = ("queued", "submitting", "awaiting", "running", *sorted(TERMINAL))

_counters = CollectorRegistry()
_accepted = Counter(f"{_NAME}_accepted", "Starts that were accepted, repeats included.", registry=_counters)
_submitted = Counter(f"{_NAME}_submitted", "Runs whose id the gateway gave.", registry=_counters)
_ended = Counter(
    f"{_NAME}_ended", "Runs that ended, and why not completed.", ["state", "error_code"], registry=_counters
)
_cost = Counter(f"{_NAME}_cost_usd", "Cost of ended runs as the gateway reckoned it.", registry=_counters)


def count_accepted() -> None:
    _accepted.inc()


def count_submitted() -> None:
    _submitted.inc()


def count_ended(state: str, error_code: str | None, cost: float | None) -> None:
    _ended.labels(state, error_code or "").inc()
    _cost.inc(max(0.0, cost or 0.0))


async def exposition(ledger: Ledger, *, waiters: int, seconds: float) -> bytes:
    """The metrics as text.

    Args:
        waiters: clients that wait or watch at this process.
        seconds: that the ledger has to answer; without an answer, its metrics are left out and `up` is 0.
    """
    registry = CollectorRegistry()
    Gauge(f"{_NAME}_waiters", "Clients that wait or watch at this process.", registry=registry).set(waiters)
    up = Gauge(f"{_NAME}_ledger_up", "Whether the ledger answers.", registry=registry)
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            rows = await _by_state(ledger)
    except Exception:
        up.set(0)
    else:
        up.set(1)
        latency = Gauge(f"{_NAME}_ledger_seconds", "How long the ledger took to answer this.", registry=registry)
        latency.set(time.monotonic() - began)
        _set_runs(registry, rows)
    return generate_latest(registry) + generate_latest(_counters)


async def _by_state(ledger: Ledger) -> list[Any]:
    row = invocations.c
    query = select(row.state, func.count().label("runs"), (db_now() - func.min(row.created_at)).label("age")).group_by(
        row.state
    )
    return list(await ledger.database.read(lambda connection: connection.execute(query)))


def _set_runs(registry: CollectorRegistry, rows: list[Any]) -> None:
    runs = Gauge(f"{_NAME}_runs", "Runs in the ledger.", ["state"], registry=registry)
    oldest = Gauge(f"{_NAME}_oldest_seconds", "Age of the oldest run of a state.", ["state"], registry=registry)
    found = {row.state: row for row in rows}
    for state in _STATES:
        runs.labels(state).set(found[state].runs if state in found else 0)
        if state not in TERMINAL:
            oldest.labels(state).set(found[state].age if state in found else 0)
