"""The world of one seed: two relays on one ledger, a gateway, users, and the faults between them."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litellm_openai_example.config import ConfigurationError, GatewaySettings
from litellm_openai_example.relay.http.routes import create_app
from litellm_openai_example.relay.ledger.failures import LedgerUnavailable
from litellm_openai_example.relay.log import log as product_log
from litellm_openai_example.relay.service import Relay
from litellm_openai_example.relay.settings import Settings
from litellm_openai_example.research.contract import TERMINAL
from litellm_openai_example.transport.http_clients import AsyncLiteLLMHttpxClient

from .chance import buried, determined
from .disk import Disk
from .faults import Faults
from .gateway import Gateway, fail
from .loop import Clock, Process, Stuck, VirtualLoop, current
from .network import Exchange, Network, Server, Transport, asgi
from .plan import RELAYS, Plan, draw
from .users import GATEWAY_KEY, User

_SHM = Path("/dev/shm")
_LOOK = 2.0


@dataclass
class Result:
    """The outcome of a seed: its history, its violations, and the excused findings."""

    seed: int
    history: list[str]
    findings: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)


class World:
    """The simulated parts of one seed."""

    def __init__(self, plan: Plan, directory: Path, clock: Clock, loop: VirtualLoop) -> None:
        self.plan = plan
        self.clock = clock
        self.loop = loop
        self.history: list[str] = []
        self.network = Network(random.Random(f"network {plan.seed}"))
        self.disk = Disk(directory / "ledger.sqlite3", clock)
        self.gateway = Gateway(clock, random.Random(f"gateway {plan.seed}"), self.log)
        self.addresses = [f"http://127.0.0.1:{8081 + number}" for number in range(RELAYS)]
        self.relays: list[Process] = []
        self.users = [User(number, user, self) for number, user in enumerate(plan.users, 1)]
        self.faults = Faults(self)
        self.failures: list[str] = []  # of the processes themselves
        self.healed_at: float | None = None
        self.over = False
        self.proxies: dict[int, tuple[str, float]] = {}  # proxies before a relay: their answer, and the end of it
        self.set_back_until = clock.now  # the ledger may still be set back until then
        self.relay_of: dict[int, Relay] = {}
        self.starts: list[float] = []  # the lead of the wall clock at each start of a relay
        self._events: Counter[str] = Counter()
        self.context = Context()

    def log(self, what: str) -> None:
        self.history.append(f"{self.clock.now - 100_000:10.3f} {what}")

    def happened(self, event: str) -> None:
        """Count an event, and trigger the faults planned for it."""
        self._events[event] += 1
        for action in self.plan.actions:
            if action.after == (event, self._events[event]) and self.healed_at is None:
                self.loop.call_soon(self.faults.do, action, context=self.context)

    async def run(self) -> None:
        """Run from the start until every user has all that they can get."""
        plan = self.plan
        self.gateway.submits = dict(plan.submits) or {"ok": 1.0}
        self.gateway.slow, self.gateway.durations, self.gateway.blocks = plan.slow, plan.durations, plan.blocks
        self.gateway.on_create = lambda: self.happened("create")
        self.disk.on_commit = lambda: self.happened("commit")
        self.disk.latency, self.network.drop = plan.disk_latency, plan.drop
        self.disk.keeps = any(action.kind == "set_back" for action in plan.actions)
        gateway = Process("gateway", self.loop)
        self.network.servers["127.0.0.1:4000"] = Server(gateway, self.gateway.serve)
        for number in range(RELAYS):
            self.relays.append(Process("not yet", self.loop))
            self.boot(number)
        for user in self.users:
            self.loop.call_later(user.plan.start, user.begin)
        for action in plan.actions:
            if action.at is not None:
                self.loop.call_later(action.at, self.faults.do, action)
                if action.kind == "set_back":
                    self.set_back_until = max(self.set_back_until, self.clock.now + action.at + _LOOK)
        await self._settle(self.clock.now + plan.trouble)
        self._heal()
        await self._settle(self.clock.now + float(plan.settings["research_timeout"]) + 900)
        self.over = True

    async def _settle(self, until: float) -> None:
        """Wait until every user is done and every row terminal, with no event left that could change them."""
        while self.clock.now < until:
            await asyncio.sleep(min(_LOOK, until - self.clock.now))
            running = any(r.status(self.clock.now) == "in_progress" for r in self.gateway.responses.values())
            waiting = running or not all(user.done for user in self.users)
            if (
                not waiting
                and self.clock.now >= self.set_back_until
                and all(row["state"] in TERMINAL for row in self.disk.rows())
            ):
                return

    def _heal(self) -> None:
        self.log("--- from here on nothing goes wrong")
        self.healed_at = self.set_back_until = self.clock.now
        self.gateway.submits, self.gateway.outage = {"ok": 1.0}, ("", 0.0)
        self.proxies.clear()
        self.disk.away_until = 0.0
        self.disk.lose_answers = self.disk.fail_commits = 0
        self.network.drop = 0.0

    # Relays

    def boot(self, number: int) -> None:
        self.faults.down.discard(number)
        process = Process(f"relay{number}", self.loop)
        process.disk = self.disk
        self.starts.append(self.clock.offset)
        self.relay_of.pop(number, None)
        self.relays[number] = process
        process.spawn(self._serve(number, process))

    async def _serve(self, number: int, process: Process) -> None:
        settings = Settings(
            gateway=GatewaySettings("http://127.0.0.1:4000/v1", GATEWAY_KEY),
            database_url=self.disk.url,
            timings=self.plan.timings,
            **self.plan.settings,  # type: ignore[arg-type]
        )
        http = AsyncLiteLLMHttpxClient(transport=Transport(self.network), trust_env=False)
        relay = Relay(settings, http)
        relay.on_failure = lambda: self.failures.append(f"{process.name}: a loop ended")
        try:
            await relay.open()
            await relay.start()
        except (ConfigurationError, LedgerUnavailable) as error:
            self.log(f"relay{number} cannot start: {error}")
            process.kill()
            self.loop.call_later(1.0, self.boot, number, context=self.context)
            return
        self.log(f"relay{number} listens")
        self.relay_of[number] = relay
        address = self.addresses[number].removeprefix("http://")
        app = asgi(create_app(relay))

        async def behind_proxy(exchange: Exchange) -> None:
            word, until = self.proxies.get(number, ("", 0.0))
            await (fail(exchange, word) if self.clock.now < until else app(exchange))

        self.network.servers[address] = Server(process, behind_proxy)


class _History(logging.Handler):
    """A log handler that adds the relays' log to the history."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = current.get()
        self._world.log(f"[{process.name if process else '-'}] {record.getMessage()}")
        if " ended state=" in record.getMessage():
            self._world.happened("settled")


def simulate(seed: int) -> Result:
    """Run one seed and reconcile its outcome."""
    from .reconcile import reconcile

    result = Result(seed, [])
    play(draw(seed), result, reconcile)
    return result


def play(plan: Plan, result: Result, judge: Callable[[World, Result], object]) -> None:
    """Run a plan, and call `judge` with the world at its end, before the disk is removed."""
    product_log.setLevel(logging.INFO)
    product_log.propagate = False
    with buried():
        _play(plan, result, judge)


def _play(plan: Plan, result: Result, judge: Callable[[World, Result], object]) -> None:
    clock = Clock()
    with (
        determined(plan.seed, clock),
        tempfile.TemporaryDirectory(dir=_SHM if _SHM.is_dir() else None) as directory,
        closing(VirtualLoop(clock)) as loop,
    ):
        world = World(plan, Path(directory), clock, loop)
        result.history = world.history
        loop.set_exception_handler(lambda _, context: None if world.over else world.log(f"loop: {_what(context)}"))
        handler = _History(world)
        product_log.addHandler(handler)
        product_log.disabled = False
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(world.run())
        except Stuck as error:
            result.findings.append(f"stuck: {error}")
        finally:
            world.over = product_log.disabled = True
            asyncio.set_event_loop(None)
        for process in world.relays:
            process.kill()
        judge(world, result)
        product_log.removeHandler(handler)


def _what(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')} {type(error).__name__ if error else ''}"
