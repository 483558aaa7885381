"""`litellm-relay cancel` and `drain`: an operator's wishes, written into the ledger for the relays to carry out.

They need the ledger alone. So they reach any replica, also behind a load balancer, and survive its death.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from ..config import ConfigurationError
from .ledger.database import Database
from .ledger.leases import DRAINED, REQUESTED, Leases, host_of, this_host
from .ledger.records import Record
from .ledger.schema import IS_ACTIVE, IS_QUEUED, invocations, workers
from .ledger.states import Ledger
from .ledger.visit import visit
from .settings import Timings

_KNOWS_DRAIN = 5  # the first schema version whose processes can be drained
_POLL = 0.25
_CANCEL_WAIT = Timings.cancel  # seconds, as `POST .../cancel` waits

_lease = workers.c


def cancel_runs(url: URL, ids: Sequence[str]) -> list[Record | None]:
    """Cancel runs, wait a few seconds for their ends, and return their records; None for an unknown id.

    A queued run ends at once. The replica that follows an active one asks the gateway to stop it, and repeats that
    until the gateway reports the end.

    Raises:
        ConfigurationError: the ledger cannot be used.
    """

    async def work(database: Database) -> list[Record | None]:
        ledger = _ledger(database)
        for record in (await ledger.get_many(ids)).values():
            if not record.finished:
                await ledger.request_cancel(record.id)
        until = time.monotonic() + _CANCEL_WAIT
        while True:
            found = await ledger.get_many(ids)
            if time.monotonic() >= until or all(record.finished for record in found.values()):
                return [found.get(one) for one in ids]
            await asyncio.sleep(_POLL)

    return visit(url, work)


def cancel_queued(url: URL) -> list[str]:
    """Cancel all queued runs, none of which was sent, and return their ids. Raises ConfigurationError."""
    return visit(url, lambda database: _ledger(database).cancel_queued())


def drain(url: URL, name: str | None, seconds: float, tell: Callable[[str], None]) -> tuple[str, bool]:
    """Ask a replica to take no more work and to hand over its runs, and wait until it has none.

    Args:
        name: the replica, or the beginning of its name; None for the only one on this machine.
        seconds: the longest wait. The wish remains when it is over.
        tell: called with a line for each step.

    Returns:
        the replica's name, and True if it has no work left.

    Raises:
        ConfigurationError: no single replica is meant, or the ledger cannot be used.
    """

    async def work(database: Database) -> tuple[str, bool]:
        leases = _leases(database)
        replica = _chosen(await _replicas(database, leases), name)
        wish = update(workers).where(_lease.id == replica.name, _lease.drain.is_(None)).values(drain=REQUESTED)
        await database.write(lambda transaction: transaction.connection.execute(wish))
        until, told = time.monotonic() + seconds, ""
        while True:
            living = {one.name: one for one in await _replicas(database, leases)}
            now = living.get(replica.name)
            if now is None:
                tell(f"{replica.name} has ended")
                return replica.name, True
            if now.drain == DRAINED:
                if not any(one.takes_work for one in living.values()):
                    queued = await database.read(_queued)
                    tell(f"no other replica takes work: {queued} queued runs wait for the next one")
                return replica.name, True
            if (text := f"runs that {replica.name} still follows: {now.runs}") != told:
                tell(told := text)
            if time.monotonic() >= until:
                return replica.name, False
            await asyncio.sleep(_POLL)

    return visit(url, work)


def _ledger(database: Database) -> Ledger:
    """Return the ledger as a process without a lease sees it: it can own nothing."""
    return Ledger(database, "visitor", lease=0.0, max_queued=0)


def _leases(database: Database) -> Leases:
    return Leases("visitor", 0.0, time.monotonic, postgresql=database.postgresql, retention=None)


async def _replicas(database: Database, leases: Leases) -> Sequence[Row[Any]]:
    """Return the living processes, each with the number of runs that it follows."""
    runs = select(func.count()).where(IS_ACTIVE, invocations.c.owner == _lease.id).scalar_subquery().label("runs")
    takes_work = leases.takes_work().label("takes_work")
    query = select(_lease.id.label("name"), _lease.drain, _lease.version, takes_work, runs).where(leases.alive)
    return (await database.read(lambda connection: connection.execute(query.order_by(_lease.id)))).all()


async def _queued(connection: AsyncConnection) -> int:
    return int(await connection.scalar(select(func.count()).where(IS_QUEUED)) or 0)


def _chosen(living: Sequence[Row[Any]], name: str | None) -> Row[Any]:
    """Return the one replica that is meant. Raises ConfigurationError."""
    if not living:
        raise ConfigurationError("no relay runs on this ledger")
    if name is None:
        meant = [one for one in living if host_of(one.name) == this_host()]
        problem = f"{'several replicas run' if meant else 'no replica runs'} on this machine"
    else:
        exact = [one for one in living if name in (one.name, host_of(one.name))]
        meant = exact or [one for one in living if one.name.startswith(name)]
        problem = f"{'several replicas have names that begin with' if meant else 'no replica is named'} {name}"
    if len(meant) != 1:
        raise ConfigurationError(f"{problem}: name one of {_names(meant or living)}")
    if (meant[0].version or 0) < _KNOWS_DRAIN:
        raise ConfigurationError(
            f"{meant[0].name} runs an older release, which cannot be drained: stop it with SIGTERM"
        )
    return meant[0]


def _names(replicas: Iterable[Row[Any]]) -> str:
    return ", ".join(one.name for one in replicas)
