"""Growth of the ledger's costs with finished runs and with runs of other processes, on both databases."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from litellm_openai_example.relay.ledger.database import Database
from litellm_openai_example.relay.ledger.records import NewInvocation
from litellm_openai_example.relay.ledger.states import Ledger

from ...fakes.postgresql import PostgreSQL

SIZES = ((1_000, 0), (10_000, 0), (100_000, 0), (100_000, 1_000), (100_000, 10_000))  # finished, running elsewhere
_TIMES = 5
_FRESH = 0.55  # for half a second after a write, `/readyz` makes none itself
# Inserts any number of copies of one row, in SQL that both databases accept.
_ROWS = """
WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})
INSERT INTO relay_invocations (id, fingerprint, mode, deliverable_format, arguments, state, owner, cancel_requested,
    attempts, not_before, output_text, created_at, updated_at)
SELECT '{state}_' || i, 'f', 'background', 'markdown_brief', '{{}}', '{state}', {owner}, false, 1, 0, '{output}',
    {now} - i, {now} - i FROM n
"""


@dataclass(frozen=True)
class Size:
    """Median milliseconds on a ledger of this size.

    Attributes:
        look: the queries of each process once a second, the whole cost of an idle one.
    """

    database: str
    finished: int
    elsewhere: int
    readyz: float
    accept: float
    view: float
    claim: float
    look: float


def ledger_growth() -> list[Size]:
    """Measure both databases, each filled step by step."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        found = asyncio.run(_sizes("SQLite", f"sqlite+aiosqlite:///{folder}/ledger.sqlite3"))
        with tempfile.TemporaryDirectory(prefix="relay-bench-postgresql-") as directory:
            server = PostgreSQL(Path(directory))
            try:
                found += asyncio.run(_sizes("PostgreSQL", server.new_database()))
            finally:
                server.stop()
    return found


async def _sizes(name: str, url: str) -> list[Size]:
    database = Database(make_url(url), "bench")
    ledger = Ledger(database, "bench", lease=600.0, max_queued=10_000)
    await ledger.open()
    await ledger.heartbeat()
    found, finished, elsewhere = [], 0, 0
    try:
        for size in SIZES:
            await database.run(partial(_fill, finished=finished, elsewhere=elsewhere, size=size))
            finished, elsewhere = size
            found.append(Size(name, finished, elsewhere, *[await _median(*work) for work in _works(ledger, size)]))
    finally:
        await database.close()
    return found


def _fill(connection: Connection, finished: int, elsewhere: int, size: tuple[int, int]) -> None:
    connection.execute(text("DELETE FROM relay_workers WHERE id = 'other'"))
    connection.execute(text(f"INSERT INTO relay_workers (id, expires_at) VALUES ('other', {time.time() + 6000})"))
    for state, owner, before, now in (
        ("completed", "NULL", finished, size[0]),
        ("running", "'other'", elsewhere, size[1]),
    ):
        if now > before:
            row = {"state": state, "owner": owner, "first": before + 1, "last": now, "now": time.time()}
            connection.execute(text(_ROWS.format(**row, output="x" * 1000)))
    connection.execute(text("ANALYZE"))


def _works(ledger: Ledger, size: tuple[int, int]) -> list[tuple[Callable[[int], Awaitable[object]], float]]:
    def new(n: int) -> NewInvocation:
        return NewInvocation(f"inv_{size}_{n}", f"key_{size}_{n}", "f", "background", "markdown_brief", "{}")

    return [
        (lambda _: ledger.check(), _FRESH),
        (lambda n: ledger.accept(new(n)), 0),
        (lambda n: ledger.get(f"completed_{n + 1}"), 0),
        (lambda _: ledger.claim(1, blocks=False), 0),
        (lambda _: ledger.pending(may_declare_dead=True), 0),
    ]


async def _median(work: Callable[[int], Awaitable[object]], pause: float) -> float:
    times = []
    for n in range(_TIMES):
        await asyncio.sleep(pause)
        started = time.perf_counter()
        await work(n)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def ledger_table(sizes: list[Size]) -> str:
    """Return the table in milliseconds: 100,000 finished runs must cost as little as 1,000."""
    lines = [
        "| ledger | finished | running elsewhere | `/readyz` | POST | view | claim | look, each second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in sizes:
        times = " | ".join(f"{ms:.2f} ms" for ms in (one.readyz, one.accept, one.view, one.claim, one.look))
        lines.append(f"| {one.database} | {one.finished:,} | {one.elsewhere:,} | {times} |")
    return "\n".join(lines)
