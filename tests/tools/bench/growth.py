"""Growth of the relay's costs with jobs and with waiters: 1, 10, 100 and 1,000 of each.

The cost of one more is the cost of many less that of one, divided by their difference in number. All windows have the
same length, and hold the same number of the relay's periods (a poll of each job every 5 s, of each waiter every 15 s).
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from .load import Connection, Reply
from .measure import stub
from .relay_process import RelayProcess, invocation, relay, start_jobs

SIZES = (1, 10, 100, 1000)
EVERY = 5.0  # seconds between two polls of a job, as set by the upstream
PARTS = 3  # of `EVERY` seconds each make a window
MODEL = f"research-3600-every-{EVERY:.0f}"

Job = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class Step:
    """Costs of `size` jobs or waiters.

    Attributes:
        cpu: milliseconds of processor time per second, part by part of the window.
        kilobytes: resident memory at the end.
        gets: polls of the upstream in the window.
        closest: shortest time in seconds between two polls of one job.
    """

    size: int
    cpu: list[float]
    kilobytes: float
    gets: int
    closest: float | None

    @property
    def mean_cpu(self) -> float:
        return statistics.mean(self.cpu)

    def cpu_each(self, one: Step) -> float:
        """Milliseconds of processor time per second for one more."""
        return (self.mean_cpu - one.mean_cpu) / (self.size - one.size)

    def noise_each(self, one: Step) -> float:
        """Twice the standard error of `cpu_each`; smaller values are noise."""
        variance = statistics.variance(self.cpu) + statistics.variance(one.cpu)
        return 2 * math.sqrt(variance / PARTS) / (self.size - one.size)

    def kilobytes_each(self, one: Step) -> float:
        return (self.kilobytes - one.kilobytes) / (self.size - one.size)


@dataclass(frozen=True)
class Growth:
    """All measurements.

    Attributes:
        jobs: steps with running jobs without waiters.
        waiters: steps with waiters of one job.
        both: a waiter for each of 1,000 jobs, after the last of `jobs`.
        others: latencies in seconds of other requests meanwhile, by kind.
        told: seconds from the cancel of the one job until the last of its 1,000 waiters had the answer.
    """

    jobs: list[Step]
    waiters: list[Step]
    both: Step
    others: dict[str, list[float]]
    told: float


class Waiters:
    """Clients that wait for jobs, each on a separate connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stack = AsyncExitStack()
        self._waiting: list[asyncio.Task[Reply]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        await self._stack.aclose()

    async def add(self, job: Job) -> None:
        path, token = job
        connection = await self._stack.enter_async_context(Connection(self._port))
        self._waiting.append(asyncio.create_task(connection.get(f"{path}/wait?timeout=300", token)))

    def check(self) -> None:
        """Raise RuntimeError if a client has stopped waiting."""
        for task in self._waiting:
            if task.done():
                raise RuntimeError(f"a waiter was let go: {task.result()}")

    async def ended(self) -> float:
        """Return the seconds until the last client has learnt that its job has ended."""
        started = time.perf_counter()
        for reply in await asyncio.gather(*self._waiting):
            reply.expect(200)
        return time.perf_counter() - started


def growth() -> Growth:
    """Measure jobs on one relay and waiters on another one, because processor time is counted by process."""
    return asyncio.run(_growth())


async def _growth() -> Growth:
    limits = {"max_running": SIZES[-1], "max_queued": 10 * SIZES[-1], "wait_seconds": 300}
    with (
        stub() as upstream,
        stub() as other_upstream,
        relay(upstream, MODEL, **limits) as process,
        relay(other_upstream, MODEL, **limits) as other,
    ):
        (jobs, both, others), (waiters, told) = await asyncio.gather(
            _jobs(process, upstream), _waiters(other, other_upstream)
        )
        return Growth(jobs, waiters, both, others, told)


async def _jobs(process: RelayProcess, upstream: int) -> tuple[list[Step], Step, dict[str, list[float]]]:
    steps, jobs = [], list[Job]()
    async with Waiters(process.port) as waiters, Connection(upstream) as counter:
        for size in SIZES:
            jobs += await start_jobs(process, range(len(jobs), size))
            await _until_running(process, jobs)
            steps.append(await _step(process, counter, size))
        for job in jobs:
            await waiters.add(job)
        probe = asyncio.create_task(_others(process, jobs))
        both = await _step(process, counter, len(jobs))
        waiters.check()
        return steps, both, await probe


async def _waiters(process: RelayProcess, upstream: int) -> tuple[list[Step], float]:
    steps: list[Step] = []
    async with Waiters(process.port) as waiters, Connection(upstream) as counter:
        (path, token), *_ = jobs = await start_jobs(process, range(1))
        await _until_running(process, jobs)
        for size in SIZES:
            for _ in range(size - (steps[-1].size if steps else 0)):
                await waiters.add((path, token))
            steps.append(await _step(process, counter, size))
        waiters.check()
        told = asyncio.create_task(waiters.ended())
        async with Connection(process.port) as client:  # opened late: the relay does not keep an idle one
            (await client.post(f"{path}/cancel", b"", token)).expect(200)
        return steps, await told


async def _step(process: RelayProcess, upstream: Connection, size: int) -> Step:
    await asyncio.sleep(2)  # let the cost of the change itself pass
    await upstream.get("/counts")
    cpu = []
    for _ in range(PARTS):
        before, started = process.cpu, time.perf_counter()
        await asyncio.sleep(EVERY)
        cpu.append(1000 * (process.cpu - before) / (time.perf_counter() - started))
    counts = (await upstream.get("/counts")).json
    return Step(size, cpu, process.kilobytes, counts.get("GET", 0), counts["closest"])


async def _until_running(process: RelayProcess, jobs: list[Job]) -> None:
    async with Connection(process.port) as connection:
        for path, token in jobs:
            while (await connection.get(path, token)).expect(200).json["status"] != "running":
                await asyncio.sleep(0.05)


async def _others(process: RelayProcess, jobs: list[Job]) -> dict[str, list[float]]:
    """Measure requests that do not wait: a view, the health check, and a repeated POST, as costly as a new one."""
    times: dict[str, list[float]] = {"view": [], "readyz": [], "post": []}
    until = time.perf_counter() + PARTS * EVERY
    async with Connection(process.port) as client:
        while (now := time.perf_counter()) < until:
            number = random.randrange(len(jobs))
            path, token = jobs[number]
            (await client.get(path, token)).expect(200)
            times["view"].append(-now + (now := time.perf_counter()))
            (await client.get("/readyz")).expect(200)
            times["readyz"].append(-now + (now := time.perf_counter()))
            (await client.post(*invocation(number))).expect(202)
            times["post"].append(-now + time.perf_counter())
            await asyncio.sleep(0.1)
    return times
