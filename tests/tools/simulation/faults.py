"""The faults of a seed, and the findings that they excuse at the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from litellm_openai_example.relay.ledger.database import Transaction
from litellm_openai_example.relay.ledger.failures import LedgerUnavailable
from litellm_openai_example.relay.ledger.leases import DRAINED, REQUESTED
from litellm_openai_example.relay.ledger.schema import workers

from .loop import Process
from .plan import Action

if TYPE_CHECKING:
    from .world import World

_LASTING = ("freeze", "gateway_outage", "disk_away")
_AFTERMATH = {"stop": 5.0, "lose_answers": 1e6, "fail_commits": 1e6}  # seconds


@dataclass(frozen=True)
class SetBack:
    """One set-back of the ledger.

    Attributes:
        forgotten: accepted runs that the ledger has lost.
        unsent: submitted runs that the ledger again calls unsent.
        aware: processes that can detect the set-back by their lease.
    """

    at: float
    forgotten: frozenset[str]
    unsent: frozenset[str]
    aware: tuple[Process, ...]


class Faults:
    """Carries out the actions of a plan; each kind is a method.

    Attributes:
        down: relays that are dead or about to die.
        set_backs: all set-backs of the ledger so far.
    """

    def __init__(self, world: World) -> None:
        self.down: set[int] = set()
        self.set_backs: list[SetBack] = []
        self._troubles: list[tuple[float, float, str]] = []  # begin, end, kind
        self._world = world

    def troubled(self, begin: float, end: float, *kinds: str) -> bool:
        """Return True if a fault of one of these kinds overlaps the interval."""
        return any(kind in kinds and since <= end and until >= begin for since, until, kind in self._troubles)

    @property
    def forgotten(self) -> frozenset[str]:
        """Return the accepted runs that set-backs have removed from the ledger."""
        return frozenset[str]().union(*(each.forgotten for each in self.set_backs))

    def set_back(self, since: float, until: float) -> bool:
        """Return True if the ledger was set back in the interval."""
        return any(since <= each.at <= until for each in self.set_backs)

    def do(self, action: Action) -> None:
        if self._world.healed_at is not None or self._world.over:
            return
        getattr(self, f"_{action.kind}")(action)

    def _note(self, action: Action, what: str) -> None:
        lasts = action.amount if action.kind in _LASTING else _AFTERMATH.get(action.kind, 0.0)
        self._troubles.append((self._world.clock.now, self._world.clock.now + lasts, action.kind))
        self._world.log(f"*** {what}")

    def _kill(self, action: Action) -> None:
        process = self._world.relays[action.who]
        if action.who in self.down or not process.alive:
            return
        self.down.add(action.who)

        def killed() -> None:
            self._note(action, f"relay{action.who} is killed")
            self._world.loop.call_later(action.amount, self._world.boot, action.who, context=self._world.context)

        process.kill_after(action.steps, killed)

    def _stop(self, action: Action) -> None:
        process, relay = self._world.relays[action.who], self._world.relay_of.get(action.who)
        if action.who in self.down or relay is None or not process.alive:
            return
        self.down.add(action.who)
        self._note(action, f"relay{action.who} is told to stop")
        process.leaves_at = self._world.clock.now
        self._world.network.servers[self._world.addresses[action.who].removeprefix("http://")].listening = False

        async def stop() -> None:
            relay.close()
            await asyncio.sleep(0.2)
            await relay.stop()
            self._world.log(f"relay{action.who} has stopped")
            process.kill()
            self._world.loop.call_later(action.amount, self._world.boot, action.who, context=self._world.context)

        process.spawn(stop())

    def _drain(self, action: Action) -> None:
        """Drain a relay as an operator does, and stop it once it is drained."""
        process, relay = self._world.relays[action.who], self._world.relay_of.get(action.who)
        if action.who in self.down or relay is None or not process.alive:
            return
        self._note(action, f"relay{action.who} is drained")
        mine = workers.c.id == relay.name
        database = relay.ledger.database

        async def wish(transaction: Transaction) -> None:
            await transaction.connection.execute(update(workers).where(mine).values(drain=REQUESTED))

        async def state() -> object:
            return await database.read(lambda connection: connection.scalar(select(workers.c.drain).where(mine)))

        async def drain() -> None:
            wished = drained = False
            while not drained:
                with suppress(LedgerUnavailable):
                    if not wished:
                        await database.write(wish)
                        wished = True
                    drained = await state() == DRAINED
                await asyncio.sleep(0.5)
            self._world.log(f"relay{action.who} is without work")
            self._world.context.run(self._stop, action)

        process.spawn(drain())

    def _freeze(self, action: Action) -> None:
        self._note(action, f"relay{action.who} stands still for {action.amount:g} s")
        self._world.relays[action.who].freeze(action.amount)

    def _kill_client(self, action: Action) -> None:
        user = self._world.users[action.who]
        process = user.process
        if process is None or not process.alive:
            return

        def killed() -> None:
            self._note(action, f"the client of {user.name} is killed")
            self._world.loop.call_later(action.amount, user.begin, context=self._world.context)

        process.kill_after(action.steps, killed)

    def _gateway_outage(self, action: Action) -> None:
        self._note(action, f"the gateway answers {action.word} for {action.amount:g} s")
        self._world.gateway.outage = (action.word, self._world.clock.now + action.amount)

    def _relay_outage(self, action: Action) -> None:
        self._note(action, f"a proxy before relay{action.who} answers {action.word} for {action.amount:g} s")
        self._world.proxies[action.who] = (action.word, self._world.clock.now + action.amount)

    def _step_clock(self, action: Action) -> None:
        self._note(action, f"the clock is set by {action.amount:+g} s")
        self._world.clock.offset += action.amount

    def _set_back(self, action: Action) -> None:
        disk, gateway = self._world.disk, self._world.gateway
        before = {row["id"]: row for row in disk.rows()} if disk.used else {}
        leases = disk.leases() if disk.used else {}
        if not disk.set_back(int(action.amount)):
            return
        after, leases_after = {row["id"]: row for row in disk.rows()}, disk.leases()
        sent = {one for one, row in before.items() if not _is_unsent(row)} | set(gateway.creates)
        workers = ((self._world.relays[number], relay.ledger.worker) for number, relay in self._world.relay_of.items())
        self.set_backs.append(
            SetBack(
                at=self._world.clock.now,
                forgotten=frozenset(before.keys() | gateway.creates.keys()) - after.keys(),
                unsent=frozenset(one for one in sent if one in after and _is_unsent(after[one])),
                aware=tuple(one for one, name in workers if leases.get(name) != leases_after.get(name)),
            )
        )
        states = {row["id"][:10]: row["state"] for row in after.values()}
        self._note(action, f"the ledger forgets its last {action.amount:g} commits: {states}")

    def _disk_away(self, action: Action) -> None:
        self._note(action, f"the database is away for {action.amount:g} s")
        self._world.disk.away_until = self._world.clock.now + action.amount

    def _lose_answers(self, action: Action) -> None:
        self._note(action, f"the answers to {action.amount:g} commits are lost")
        self._world.disk.lose_answers += int(action.amount)

    def _fail_commits(self, action: Action) -> None:
        self._note(action, f"{action.amount:g} commits fail")
        self._world.disk.fail_commits += int(action.amount)


def _is_unsent(row: dict[str, Any]) -> bool:
    return row["state"] == "queued" or bool(row["unsent"])
