"""`python -m tests.tools.bench.engine`: our row of the table in docs/engine.md, on SQLite and on PostgreSQL.

It also compares the processor time of an accept with one replica and with four, on one PostgreSQL, alternating them.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from ...fakes.postgresql import PostgreSQL
from .load import Connection, post_rate
from .measure import machine, raise_file_limit, stub
from .relay_process import RelayProcess, invocation, relay

_CLIENTS = 32
_SECONDS = 5.0
_RUNS = 300
_MODEL = "research-3600"
_REPLICAS = 4
_PAIRS = 5


def main() -> None:
    raise_file_limit()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}")
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as directory:
        print(f"SQLite: {asyncio.run(_measure(f'sqlite:///{directory}/relay.sqlite3'))}", flush=True)
        server = PostgreSQL(Path(directory))
        try:
            print(f"PostgreSQL: {asyncio.run(_measure(server.new_database()))}", flush=True)
            print(f"PostgreSQL: {asyncio.run(_replicas(server))}")
        finally:
            server.stop()


async def _measure(url: str) -> str:
    """Return accepts a second, and the processor time of a run from its acceptance to the gateway's id."""
    numbers = count()
    with stub() as upstream:
        with relay(upstream, _MODEL, database_url=url, max_running=_RUNS) as process:
            used = process.cpu
            await asyncio.gather(*(_start(process.port, next(numbers)) for _ in range(_RUNS)))
            async with Connection(upstream) as counter:
                submitted = 0
                while submitted < _RUNS:  # the stub counts from one question to the next
                    submitted += (await counter.get("/counts")).json.get("POST", 0)
                    await asyncio.sleep(0.05)
            spent = (process.cpu - used) / _RUNS
        with relay(upstream, _MODEL, database_url=url, max_running=_RUNS, max_queued=1_000_000) as process:
            rate = await post_rate(process.port, _CLIENTS, _SECONDS, lambda: invocation(next(numbers)), 202)
    return f"{rate:,.0f} accepts a second, {spent * 1000:.1f} ms a run to submitted"


async def _replicas(server: PostgreSQL) -> str:
    """Return the processor time of an accept with one replica, and with several for as many clients together."""
    numbers, one, several = count(), list[float](), list[float]()
    with stub() as upstream, ExitStack() as stack:
        groups: list[list[RelayProcess]] = []
        for replicas in (1, _REPLICAS):
            url = server.new_database()
            groups.append(
                [
                    stack.enter_context(relay(upstream, _MODEL, database_url=url, max_running=1, max_queued=1_000_000))
                    for _ in range(replicas)
                ]
            )
        for _ in range(_PAIRS):
            for costs, processes in zip((one, several), groups, strict=True):
                costs.append(await _accept_cost(processes, numbers))
    ratio = statistics.median(more / less for less, more in zip(one, several, strict=True))
    return (
        f"an accept takes {statistics.median(one) * 1000:.2f} ms with one replica, "
        f"{statistics.median(several) * 1000:.2f} ms with {_REPLICAS} ({ratio:.2f} x)"
    )


async def _accept_cost(processes: list[RelayProcess], numbers: Iterator[int]) -> float:
    """Return the processor seconds of the replicas for one accept."""
    used, first = sum(process.cpu for process in processes), next(numbers)
    clients = _CLIENTS // len(processes)
    posting = (post_rate(one.port, clients, _SECONDS, lambda: invocation(next(numbers)), 202) for one in processes)
    await asyncio.gather(*posting)
    return (sum(process.cpu for process in processes) - used) / (next(numbers) - first - 1)


async def _start(port: int, number: int) -> None:
    async with Connection(port) as connection:
        (await connection.post(*invocation(number))).expect(202)


if __name__ == "__main__":
    main()
