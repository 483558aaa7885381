"""The world of one seed: two relays on one ledger, a gateway, users, and what goes wrong between them."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from collections import Counter
from contextlib import closing
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litellm_openai_example.config import ConfigurationError, GatewaySettings
from litellm_openai_example.relay.http.routes import create_app
from litellm_openai_example.relay.ledger.failures import LedgerUnavailable
from litellm_openai_example.relay.log import log as product_log
from litellm_openai_example.relay.relay import Relay
from litellm_openai_example.relay.settings import Settings
from litellm_openai_example.research.contract import TERMINAL
from litellm_openai_example.transport.http_clients import AsyncLiteLLMHttpxClient

from .chance import buried, determined
from .disk import Disk
from .gateway import Gateway, fail
from .loop import Clock, Process, Stuck, VirtualLoop, current
from .network import Exchange, Network, Server, Transport, asgi
from .plan import RELAYS, Action, Plan, draw
from .users import GATEWAY_KEY, User

_SHM = Path("/dev/shm")
_LOOK = 2.0
_LASTING = ("freeze", "gateway_outage", "disk_away")
_AFTERMATH = {"stop": 5.0, "lose_answers": 1e6, "fail_commits": 1e6}  # seconds


@dataclass
class Result:
    """How a seed went: its history, what was found wrong, and what was excused."""

    seed: int
    history: list[str]
    findings: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)


class World:
    """All that one seed simulates."""

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
        self.troubles: list[tuple[float, float, str]] = []  # what went wrong: from when to when, and its kind
        self.forgotten: set[str] = set()  # accepted, and not in the ledger since it was set back
        self.unsent_again: set[str] = set()  # sent, and the ledger does not know it since it was set back
        self.set_back_at: list[float] = []
        self.failures: list[str] = []  # of the processes themselves
        self.healed_at: float | None = None
        self.over = False
        self._proxies: dict[int, tuple[str, float]] = {}  # before a relay: what they answer, until when
        self._planned = 0  # actions whose time has not come yet
        self._down: set[int] = set()
        self._relay_of: dict[int, Relay] = {}
        self._events: Counter[str] = Counter()
        self._context = Context()

    def log(self, what: str) -> None:
        self.history.append(f"{self.clock.now - 100_000:10.3f} {what}")

    def troubled(self, begin: float, end: float, *kinds: str) -> bool:
        """Whether one of these kinds of trouble touches that time."""
        return any(kind in kinds and since <= end and until >= begin for since, until, kind in self.troubles)

    def happened(self, event: str) -> None:
        """An event at which something may go wrong."""
        self._events[event] += 1
        for action in self.plan.actions:
            if action.after == (event, self._events[event]) and self.healed_at is None:
                self.loop.call_soon(self._do, action, context=self._context)

    async def run(self) -> None:
        """From the start until everybody has what they can have."""
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
            self._boot(number)
        for user in self.users:
            self.loop.call_later(user.plan.start, user.begin)
        for action in plan.actions:
            if action.at is not None:
                self._planned += 1
                self.loop.call_later(action.at, self._do, action)
        await self._settle(self.clock.now + plan.trouble)
        self._heal()
        await self._settle(self.clock.now + float(plan.settings["research_timeout"]) + 900)
        self.over = True

    async def _settle(self, until: float) -> None:
        """Wait until every user and every row has come to an end, and nothing planned is left to go wrong."""
        while self.clock.now < until:
            await asyncio.sleep(min(_LOOK, until - self.clock.now))
            running = any(r.status(self.clock.now) == "in_progress" for r in self.gateway.responses.values())
            waiting = running or self._planned or not all(user.done for user in self.users)
            if not waiting and all(row["state"] in TERMINAL for row in self.disk.rows()):
                return

    def _heal(self) -> None:
        self.log("--- from here on nothing goes wrong")
        self.healed_at, self._planned = self.clock.now, 0
        self.gateway.submits, self.gateway.outage = {"ok": 1.0}, ("", 0.0)
        self._proxies.clear()
        self.disk.away_until = 0.0
        self.disk.lose_answers = self.disk.fail_commits = 0
        self.network.drop = 0.0

    # Relays

    def _boot(self, number: int) -> None:
        self._down.discard(number)
        process = Process(f"relay{number}", self.loop)
        process.disk = self.disk
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
            self.loop.call_later(1.0, self._boot, number, context=self._context)
            return
        self.log(f"relay{number} listens")
        self._relay_of[number] = relay
        address = self.addresses[number].removeprefix("http://")
        app = asgi(create_app(relay))

        async def behind_proxy(exchange: Exchange) -> None:
            word, until = self._proxies.get(number, ("", 0.0))
            await (fail(exchange, word) if self.clock.now < until else app(exchange))

        self.network.servers[address] = Server(process, behind_proxy)

    # What goes wrong

    def _do(self, action: Action) -> None:
        self._planned -= action.at is not None
        if self.healed_at is not None or self.over:
            return
        getattr(self, f"_{action.kind}")(action)

    def _note(self, action: Action, what: str) -> None:
        lasts = action.amount if action.kind in _LASTING else _AFTERMATH.get(action.kind, 0.0)
        self.troubles.append((self.clock.now, self.clock.now + lasts, action.kind))
        self.log(f"*** {what}")

    def _kill(self, action: Action) -> None:
        process = self.relays[action.who]
        if action.who in self._down or not process.alive:
            return
        self._down.add(action.who)

        def killed() -> None:
            self._note(action, f"relay{action.who} is killed")
            self.loop.call_later(action.amount, self._boot, action.who, context=self._context)

        process.kill_after(action.steps, killed)

    def _stop(self, action: Action) -> None:
        process, relay = self.relays[action.who], self._relay_of.get(action.who)
        if action.who in self._down or relay is None or not process.alive:
            return
        self._down.add(action.who)
        self._note(action, f"relay{action.who} is told to stop")
        self.network.servers[self.addresses[action.who].removeprefix("http://")].listening = False

        async def stop() -> None:
            relay.close()
            await asyncio.sleep(0.2)
            await relay.stop()
            self.log(f"relay{action.who} has stopped")
            process.kill()
            self.loop.call_later(action.amount, self._boot, action.who, context=self._context)

        process.spawn(stop())

    def _freeze(self, action: Action) -> None:
        self._note(action, f"relay{action.who} stands still for {action.amount:g} s")
        self.relays[action.who].freeze(action.amount)

    def _kill_client(self, action: Action) -> None:
        user = self.users[action.who]
        process = user.process
        if process is None or not process.alive:
            return

        def killed() -> None:
            self._note(action, f"the client of {user.name} is killed")
            self.loop.call_later(action.amount, user.begin, context=self._context)

        process.kill_after(action.steps, killed)

    def _gateway_outage(self, action: Action) -> None:
        self._note(action, f"the gateway answers {action.word} for {action.amount:g} s")
        self.gateway.outage = (action.word, self.clock.now + action.amount)

    def _relay_outage(self, action: Action) -> None:
        self._note(action, f"a proxy before relay{action.who} answers {action.word} for {action.amount:g} s")
        self._proxies[action.who] = (action.word, self.clock.now + action.amount)

    def _step_clock(self, action: Action) -> None:
        self._note(action, f"the clock is set by {action.amount:+g} s")
        self.clock.offset += action.amount

    def _set_back(self, action: Action) -> None:
        before = {row["id"]: row for row in self.disk.rows()} if self.disk.used else {}
        if not self.disk.set_back(int(action.amount)):
            return
        after = {row["id"]: row for row in self.disk.rows()}
        self.set_back_at.append(self.clock.now)
        for invocation_id in set(before) | set(self.gateway.creates):
            row, known = after.get(invocation_id), before.get(invocation_id)
            sent = invocation_id in self.gateway.creates or (known is not None and not _is_unsent(known))
            if row is None:
                self.forgotten.add(invocation_id)
            elif sent and _is_unsent(row):
                self.unsent_again.add(invocation_id)
        states = {row["id"][:10]: row["state"] for row in after.values()}
        self._note(action, f"the ledger forgets its last {action.amount:g} commits: {states}")

    def _disk_away(self, action: Action) -> None:
        self._note(action, f"the database is away for {action.amount:g} s")
        self.disk.away_until = self.clock.now + action.amount

    def _lose_answers(self, action: Action) -> None:
        self._note(action, f"the answers to {action.amount:g} commits are lost")
        self.disk.lose_answers += int(action.amount)

    def _fail_commits(self, action: Action) -> None:
        self._note(action, f"{action.amount:g} commits fail")
        self.disk.fail_commits += int(action.amount)


def _is_unsent(row: dict[str, Any]) -> bool:
    return row["state"] == "queued" or bool(row["unsent"])


class _History(logging.Handler):
    """The relays' log, as part of the history."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = current.get()
        self._world.log(f"[{process.name if process else '-'}] {record.getMessage()}")
        if " ended state=" in record.getMessage():
            self._world.happened("settled")


def simulate(seed: int) -> Result:
    """Run one seed, and reconcile what came of it."""
    product_log.setLevel(logging.INFO)
    product_log.propagate = False
    with buried():
        return _simulate(seed)


def _simulate(seed: int) -> Result:
    from .reconcile import reconcile

    clock = Clock()
    with (
        determined(seed, clock),
        tempfile.TemporaryDirectory(dir=_SHM if _SHM.is_dir() else None) as directory,
        closing(VirtualLoop(clock)) as loop,
    ):
        world = World(draw(seed), Path(directory), clock, loop)
        result = Result(seed, world.history)
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
        reconcile(world, result)
        product_log.removeHandler(handler)
    return result


def _what(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')} {type(error).__name__ if error else ''}"
