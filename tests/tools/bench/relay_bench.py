"""The relay against the bare stub: start time, idle cost, and rates of accepting and finishing runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from itertools import count

from .load import Connection, post_rate
from .measure import Figures, stub
from .relay_process import RelayProcess, invocation, relay, start_jobs

ROUNDS = 3
POST_ROUNDS = 7
STARTS = 5
CLIENTS = 32
_POSTING = 2.0  # seconds
_IDLE = 5.0
AT_ONCE = 200
SUBMITS = 300
RESEARCH = 5  # seconds
_LOOK_EVERY = 1.0  # seconds between the relay's polls of a run that is as short


@dataclass(frozen=True)
class Start:
    """Start time and size of an idle relay.

    Attributes:
        ready: seconds until it is ready, start by start.
        megabytes: resident memory, start by start.
        cpu: per cent of one processor, second by second of the last one.
    """

    ready: list[float]
    megabytes: list[float]
    cpu: list[float]


def start() -> Start:
    """Start the relay several times on a fresh ledger, and measure the last one while it is idle."""
    found = Start([], [], [])
    with stub() as upstream:
        for number in range(STARTS + 1):
            with relay(upstream, "research-3600") as process:
                if number == 0:
                    continue  # the first start compiles bytecode
                time.sleep(1)
                found.ready.append(process.ready)
                found.megabytes.append(process.kilobytes / 1024)
                if number == STARTS:
                    found.cpu.extend(_idle_cpu(process))
    return found


def _idle_cpu(process: RelayProcess) -> list[float]:
    shares = []
    for _ in range(int(_IDLE)):
        before, began = process.cpu, time.perf_counter()
        time.sleep(1)
        shares.append(100 * (process.cpu - before) / (time.perf_counter() - began))
    return shares


def accept() -> tuple[Figures, ...]:
    """Measure the seconds for one durable POST with 32 clients at once, at the relay and at the stub."""
    return asyncio.run(_accept())


async def _accept() -> tuple[Figures, ...]:
    ours, theirs = Figures("accept: relay"), Figures("accept: stub")
    with stub() as upstream, relay(upstream, "research-3600", max_queued=1_000_000) as process:
        numbers = count()
        for round_ in range(POST_ROUNDS + 1):
            seconds = _POSTING if round_ else 0.5  # the first round is not counted
            accepted = await post_rate(process.port, CLIENTS, seconds, lambda: invocation(next(numbers)), 202)
            created = await post_rate(upstream, CLIENTS, seconds, _submission, 200)
            if round_:
                ours.seconds.append(1 / accepted)
                theirs.seconds.append(1 / created)
    return ours, theirs


def run_cost() -> Figures:
    """Measure the relay's processor seconds for one run of 5 s, with 200 at once, and the polls of a run.

    `megabytes` of the figures holds the polls (GETs per run).
    """
    return asyncio.run(_run_cost())


async def _run_cost() -> Figures:
    figures = Figures("run: relay")
    for round_ in range(ROUNDS):
        with stub() as upstream, relay(upstream, f"research-{RESEARCH}", max_running=AT_ONCE) as process:
            async with Connection(upstream) as counter:
                await counter.get("/counts")
                used = process.cpu
                numbers = range(round_ * AT_ONCE, (round_ + 1) * AT_ONCE)
                await _timed(_through_relay(process.port, number) for number in numbers)
                figures.seconds.append((process.cpu - used) / AT_ONCE)
                figures.megabytes.append((await counter.get("/counts")).json["GET"] / AT_ONCE)
    return figures


def submits() -> Figures:
    """Measure the seconds until 300 runs, started at once, are submitted to an upstream that accepts after 1 s."""
    return asyncio.run(_submits())


async def _submits() -> Figures:
    figures = Figures("submits: relay")
    for _ in range(ROUNDS):
        with stub() as upstream, relay(upstream, "accepts-1-research-3600", max_running=SUBMITS) as process:
            started = time.perf_counter()
            await start_jobs(process, range(SUBMITS))
            all_submitted = f"\nlitellm_relay_submitted_total {SUBMITS:.1f}".encode()
            async with Connection(process.port) as client:
                while all_submitted not in (await client.get("/metrics")).body:
                    await asyncio.sleep(0.05)
            figures.seconds.append(time.perf_counter() - started)
    return figures


def burst() -> tuple[Figures, Figures]:
    """Measure the seconds until 200 runs of 5 s, started at once, are all answered: by the relay, and by the stub to
    clients that poll as often as the relay does."""
    return asyncio.run(_burst())


async def _burst() -> tuple[Figures, Figures]:
    ours, direct = Figures("burst: relay"), Figures("burst: stub")
    model = f"research-{RESEARCH}"
    with stub() as upstream, relay(upstream, model, max_running=AT_ONCE) as process:
        for round_ in range(ROUNDS):
            numbers = range(round_ * AT_ONCE, (round_ + 1) * AT_ONCE)
            ours.seconds.append(await _timed(_through_relay(process.port, number) for number in numbers))
            direct.seconds.append(await _timed(_directly(upstream, model) for _ in numbers))
    return ours, direct


async def _timed(calls: Iterable[Awaitable[None]]) -> float:
    started = time.perf_counter()
    await asyncio.gather(*calls)
    return time.perf_counter() - started


async def _through_relay(port: int, number: int) -> None:
    async with Connection(port) as connection:
        view = (await connection.post(*invocation(number, "foreground"))).expect(200).json
        if view["status"] != "completed":
            raise RuntimeError(f"a research ended {view['status']}: {view['error_code']}")


async def _directly(port: int, model: str) -> None:
    async with Connection(port) as connection:
        path, body, headers = _submission(model)
        response = (await connection.post(path, body, headers)).expect(200).json
        while response["status"] != "completed":
            await asyncio.sleep(_LOOK_EVERY)
            response = (await connection.get(f"{path}/{response['id']}")).expect(200).json


def _submission(model: str = "research-3600") -> tuple[str, bytes, dict[str, str]]:
    body = {"model": model, "input": "What happened?", "background": True}
    return "/v1/responses", json.dumps(body).encode(), {}
