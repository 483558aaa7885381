"""Repeated kill -9 during bursts of slow submissions: every indeterminate run had really left this machine."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import create_engine, select
from sqlalchemy.engine import make_url

from litellm_openai_example.http_library import httpx
from litellm_openai_example.relay.ledger.schema import IN_FLIGHT, in_state, invocations

from ...fakes.gateway import Gateway, Json
from ...relay.running import Api, RelayProcess, body, environment
from .faults import BadDay, asked
from .reconcile import ENDED, Reconciliation, Run, reconcile

GATE = 8
_BURST = 24
_SLOW = 2.5  # seconds to accept: longer than a submission stays in the gate


@dataclass
class Kill:
    """One kill: runs with a submission in flight, and those among them that the provider never saw."""

    in_flight: int
    unseen: int


@dataclass
class Burst:
    """Outcome of a series of kills."""

    kills: list[Kill]
    found: Reconciliation

    @property
    def clean(self) -> bool:
        return self.found.clean and all(kill.unseen <= GATE for kill in self.kills)

    def __str__(self) -> str:
        sent = sum(kill.in_flight - kill.unseen for kill in self.kills)
        unseen = [kill.unseen for kill in self.kills]
        return (
            f"{self.found}\n{len(self.kills)} kills: {sent} submissions in flight had been sent; "
            f"between mark and first byte {sum(unseen)}, at most {max(unseen)} a kill"
        )


def burst(database_url: str, kills: int, seed: int) -> Burst:
    """Kill a relay repeatedly, each time in the middle of a burst of starts, and account for every run.

    Args:
        database_url: URL of an empty database.
    """
    gateway = Gateway().start()
    day, chance = BadDay(gateway, seed), random.Random(seed)
    day.over, day.accept = True, (_SLOW,)
    env = environment(database_url, gateway, RELAY_MAX_RUNNING="500", RELAY_MAX_QUEUED="5000", RELAY_LOG_LEVEL="ERROR")
    runs = [Run(f"soak question {number}") for number in range(kills * _BURST)]
    killed: list[float] = []
    left: list[set[str]] = []  # in flight at each kill
    known: set[str] = set()
    try:
        for number in range(kills):
            relay = RelayProcess(env, "--port", "0").ready()
            with ThreadPoolExecutor(_BURST) as clients:
                for run in runs[number * _BURST : (number + 1) * _BURST]:
                    clients.submit(_start, relay.api, run)
                _wait_for(gateway, len(gateway.posts) + chance.randint(1, _BURST))
                time.sleep(chance.uniform(0, 0.4))
                relay.process.kill()
                killed.append(time.monotonic())
            relay.end()
            in_flight = _in_flight(database_url) - known
            known |= in_flight
            left.append(in_flight)
        day.accept = (0.0,)
        relay = RelayProcess(env, "--port", "0").ready()
        try:
            with ThreadPoolExecutor(8) as clients:
                list(clients.map(lambda run: _finish(relay.api, run), runs))
        finally:
            relay.ensure_ended()
    finally:
        gateway.stop()
    # Only now: the provider may have been slow to read what had been sent.
    told = [Kill(len(questions), sum(not day.posts.get(one) for one in questions)) for questions in left]
    return Burst(told, reconcile(runs, day.posts, killed))


def _start(api: Api, run: Run) -> Json | None:
    try:
        answer = api.post(body(run.question, background=True), Idempotency_Key=run.question.replace(" ", "-"))
    except httpx.TransportError:
        return None
    assert answer.status_code in (200, 202), answer.text
    view: Json = answer.json()
    run.ids.add(view["invocation_id"])
    return view


def _wait_for(gateway: Gateway, posts: int) -> None:
    until = time.monotonic() + 10
    while len(gateway.posts) < posts and time.monotonic() < until:
        time.sleep(0.005)


def _in_flight(database_url: str) -> set[str]:
    """Return the questions whose submission is in flight according to the ledger."""
    engine = create_engine(make_url(database_url.replace("+aiosqlite", "")))
    try:
        with engine.connect() as connection:
            rows = connection.execute(select(invocations.c.arguments).where(in_state(invocations.c, IN_FLIGHT)))
            return {asked({"input": arguments}) for (arguments,) in rows}
    finally:
        engine.dispose()


def _finish(api: Api, run: Run) -> None:
    """Repeat the start under its key, and wait for the run to end."""
    started = _start(api, run)
    assert started is not None
    until = time.monotonic() + 90
    while True:
        view = api.wait(started, 20)
        run.status, run.error_code, run.text = view["status"], view["error_code"], view["output_text"]
        if run.status in ENDED or time.monotonic() > until:
            return
