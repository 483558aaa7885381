"""Leases: which processes are alive. Work that a dead process owns is an orphan.

On PostgreSQL a lease goes by the database's clock; on SQLite, whose processes share one machine, by that machine's
monotonic clock.

A lease also shows a process that the ledger was set back (a restored backup, a standby that had not caught up): its
own lease is older than it last wrote it. On PostgreSQL a different server is a sign too, because only the last commits
may be lost. A ledger that was set back may call a run queued that another process has submitted, and that process may
not notice: its lease may be as it wrote it. So the process that notices makes all others notice, by making their
leases a little older.

A lease also carries an operator's wish to drain its process (`drain`): REQUESTED, until the process has DRAINED. The
process keeps the wish itself from then on, also if the ledger forgets it.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import socket
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Float,
    and_,
    bindparam,
    cast,
    delete,
    extract,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from .schema import IS_ACTIVE, VERSION, db_now, invocations, workers

_LONGEST_LEASE = 60.0  # on SQLite, a lease that ends later was written before the machine booted
_THOROUGH_EVERY = 30.0
_FORGOTTEN_AFTER = 3600.0
REQUESTED, DRAINED = "requested", "drained"
_MARK = 0.001  # seconds by which a lease is made older to make its process notice

_row = invocations.c


class Renewal(NamedTuple):
    """A renewal as written, and what it found before.

    Attributes:
        older_by: age of the lease beyond what this process wrote, in seconds; infinity if it was gone.
        moved: True if another PostgreSQL server answers than before.
        expires_at: the new end of the lease, by the database's clock.
        server: start time of the PostgreSQL server.
        drain: the wish to drain this process, as found.
    """

    older_by: float
    moved: bool
    expires_at: float
    server: float | None
    drain: str | None

    @property
    def set_back(self) -> bool:
        """May the ledger have been set back since the last renewal?"""
        return self.older_by > 0 or self.moved


class Leases:
    """The leases of all processes, as one process sees them.

    Args:
        worker: the name of this process.
        seconds: that this process may be silent before others take its work.
        clock: monotonic seconds, the same for all processes of this machine. Leases on SQLite go by it.
        retention: seconds for which this process wants results kept; None if it does not care.

    Attributes:
        untold: this process has found the ledger set back, and the others may not know.
        drain: the wish to drain this process, as last found or written.
        alive: SQL condition: the lease of a row of `workers` has not run out.
        valid: SQL condition: this process holds a lease, and the ledger is not older than that.
        trusted: the same, and the queue can be trusted. After a set-back it lists runs that other processes have sent,
            until these say so; for that they get the length of a lease.
    """

    def __init__(
        self, worker: str, seconds: float, clock: Callable[[], float], *, postgresql: bool, retention: float | None
    ) -> None:
        self._worker = worker
        self._seconds = seconds
        self._clock = clock
        self._retention = retention
        self._postgresql = postgresql
        self.untold = False
        self.drain: str | None = None
        self._next_thorough = 0.0
        self._unleased: set[str] = set()  # owners without a lease, as of the last thorough look
        self._started: float | None = None  # the database's clock less this process's, at the first renewal
        self._server: float | None = None  # start time of PostgreSQL's server, as last seen
        self._written: float | None = None  # the `expires_at` that this process knows to be on disk
        self._doubted = -math.inf  # when a renewal last found the ledger set back, by this process's clock
        # Statements are built once: SQLAlchemy takes longer to build one than the database to answer it.
        self.alive = self._alive()
        self._all_leases = select(workers.c.id, self.alive.label("alive"))
        mine = select(workers.c.id).where(workers.c.id == worker, self.alive, self._is_as_written())
        self.valid: ColumnElement[bool] = mine.exists()
        doubtful = bindparam(None, type_=Boolean, callable_=lambda: self._clock() - self._doubted < seconds)
        self.trusted: ColumnElement[bool] = mine.where(not_(doubtful)).exists()

    async def renew(self, connection: AsyncConnection) -> Renewal:
        """Renew this process's lease. Pass the result to `renewed` once it is on disk."""
        mine = workers.c.id == self._worker
        # Locked: a mark made meanwhile would be overwritten unseen.
        locked = select(workers.c.expires_at, workers.c.drain).where(mine).with_for_update()
        found = (await connection.execute(locked)).first()
        server = await connection.scalar(select(_server_start())) if self._postgresql else None
        ticks = None if self._postgresql else self._clock() + self._seconds
        lease = {
            "id": self._worker,
            "expires_at": db_now() + self._seconds,
            "ticks": ticks,
            "version": VERSION,
            "retention": self._retention,
        }
        written = insert(workers).values(lease) if found is None else update(workers).where(mine).values(lease)
        expires_at = (await connection.execute(written.returning(workers.c.expires_at))).scalar_one()
        older_by = 0.0
        if self._written is not None:
            older_by = math.inf if found is None else max(0.0, self._written - found.expires_at)
        drain = None if found is None else found.drain
        renewal = Renewal(older_by, self._server not in (None, server), expires_at, server, drain)
        if renewal.set_back:
            # At once: a claim behind this renewal, perhaps in the same transaction, sees a lease as good as new.
            self._doubted = self._clock()
        return renewal

    def renewed(self, renewal: Renewal) -> None:
        """Note that a renewal is on disk."""
        # A lease that is older by less was marked: the process that marked it tells all others.
        self.untold = self.untold or renewal.older_by > self._seconds / 10
        self._written, self._server, self.drain = renewal.expires_at, renewal.server, renewal.drain
        if self._started is None:
            self._started = renewal.expires_at - self._seconds - self._clock()

    async def tell_others(self, connection: AsyncConnection) -> None:
        """Make every other process find its lease older than it wrote it. Not in the transaction of a renewal."""
        others = workers.c.id != self._worker
        # Locked in one order: several processes may notice at the same moment.
        await connection.execute(select(workers.c.id).where(others).order_by(workers.c.id).with_for_update())
        await connection.execute(update(workers).where(others).values(expires_at=workers.c.expires_at - _MARK))

    @property
    def latest_now(self) -> float:
        """The time by the database's clock, if nobody has set it since the first renewal."""
        return math.inf if self._started is None else self._started + self._clock()

    async def is_older_alive(self, connection: AsyncConnection) -> bool:
        """Return True while a process lives that does not know hashed tokens. None can start once it is False."""
        older = select(workers.c.id).where(workers.c.version.is_(None), self.alive).exists()
        return bool(await connection.scalar(select(older)))

    async def longest_retention(self, connection: AsyncConnection) -> float | None:
        """Return the longest retention, in seconds, of all processes; None if none has any."""
        longest: float | None = await connection.scalar(select(func.max(workers.c.retention)))
        return longest

    async def report_drain(self, connection: AsyncConnection, state: str) -> None:
        """Write how far the draining of this process has come."""
        await connection.execute(update(workers).where(workers.c.id == self._worker).values(drain=state))

    def takes_work(self) -> ColumnElement[bool]:
        """Return the condition that a row of `workers` is a living process that takes over the work of others."""
        return and_(self.alive, workers.c.drain.is_(None))

    async def is_another(self, connection: AsyncConnection) -> bool:
        """Return True if another process than this one would take over its work."""
        others = select(workers.c.id).where(workers.c.id != self._worker, self.takes_work()).exists()
        return bool(await connection.scalar(select(others)))

    async def end(self, connection: AsyncConnection) -> None:
        """End this process's lease."""
        await connection.execute(delete(workers).where(workers.c.id == self._worker))
        self._written = None

    async def forget(self, connection: AsyncConnection) -> None:
        """Delete leases that ended long ago, of processes that own nothing."""
        owns = select(_row.id).where(IS_ACTIVE, _row.owner == workers.c.id).exists()
        long_over = workers.c.expires_at < db_now() - _FORGOTTEN_AFTER
        await connection.execute(delete(workers).where(long_over, ~self.alive, ~owns))

    async def is_orphan(self, connection: AsyncConnection, *, may_declare_dead: bool) -> ColumnElement[bool]:
        """Return the condition that nobody works on an active row.

        Its owner has left, or its lease has run out and `may_declare_dead` is True. This process is alive, however late
        its heartbeat: its own rows are never orphans to it.
        """
        left: ColumnElement[bool] = _row.owner.is_(None)
        if not may_declare_dead:
            return left
        # The leases are few, the rows many. A process without a lease cannot own anything; a look for such owners, in
        # all active rows, is taken only now and then.
        if self._clock() >= self._next_thorough:
            self._next_thorough = self._clock() + _THOROUGH_EVERY
            leased = select(workers.c.id).where(workers.c.id == _row.owner).exists()
            owners = select(_row.owner).where(IS_ACTIVE, _row.owner != self._worker, ~leased).distinct()
            self._unleased = {row.owner for row in await connection.execute(owners)}
        leases = {row.id: row.alive for row in await connection.execute(self._all_leases)}
        silent = [one for one, alive in leases.items() if not alive and one != self._worker]
        names = [*silent, *sorted(self._unleased - leases.keys())]
        return or_(left, _row.owner.in_(names)) if names else left

    def _is_as_written(self) -> ColumnElement[bool]:
        """Return the condition that this process's lease is not older than it wrote it, on the same server."""
        written = bindparam(None, type_=Float, callable_=lambda: -1.0 if self._written is None else self._written)
        if not self._postgresql:
            return workers.c.expires_at >= written
        server = bindparam(None, type_=Float, callable_=lambda: self._server)
        return and_(workers.c.expires_at >= written, _server_start() == func.coalesce(server, _server_start()))

    def _alive(self) -> ColumnElement[bool]:
        """Return the condition that a lease has not run out."""
        lease = workers.c
        if self._postgresql:
            return lease.expires_at > db_now()
        now = bindparam(None, type_=Float, callable_=self._clock)  # evaluated at each execution
        return or_(
            func.coalesce(lease.ticks, -1.0).between(now, now + _LONGEST_LEASE),
            and_(lease.ticks.is_(None), lease.expires_at > db_now()),
        )


def _server_start() -> ColumnElement[float]:
    """Return the start time of PostgreSQL's server, which identifies it: a standby that takes over has another."""
    return cast(extract("epoch", func.pg_postmaster_start_time()), Float)


# The names of processes, which tell their machines


def new_name() -> str:
    """Return the name of this process in the ledger, HOST:PID:RANDOM, which no process had before."""
    return f"{this_host()}:{os.getpid()}:{secrets.token_hex(4)}"


def this_host() -> str:
    """Return the name of this machine: in a container its id, in a pod the pod's name."""
    return re.sub(r"[^\w.-]", "-", socket.gethostname(), flags=re.ASCII)[:64] or "localhost"


def host_of(name: str) -> str:
    """Return the machine of a replica; empty for the names of older releases."""
    return name.rpartition(":")[0].rpartition(":")[0]
