"""Leases: which processes live. What a dead one owns is an orphan.

On PostgreSQL a lease goes by the database's clock; on SQLite, whose processes share one machine, by that machine's
clock that only runs forward.

A lease also tells a process that the ledger was set back (a restored backup, a standby that had not caught up): its
own is older then than what it has last written. On PostgreSQL another server than before is a sign of it too, for the
last commits may be lost alone. Such a ledger may call queued what another process has submitted, whose own lease may
be as it was written: it was renewed before what was lost. So the process that finds out makes all others find out, by
making their leases a little older.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Executable,
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

_LONGEST_LEASE = 60.0  # one that ends later on SQLite's clock was written before the machine started anew
_THOROUGH_EVERY = 30.0
_FORGOTTEN_AFTER = 3600.0
_MARK = 0.001  # seconds by which a lease is made older to tell its process

_row = invocations.c


class Renewal(NamedTuple):
    """What a renewal has found and written: `expires_at` before and after, and since when the server runs."""

    found: float | None
    expires_at: float
    server: float | None


class Leases:
    """The leases of all processes, as one of them sees them.

    Args:
        worker: the name of this process.
        seconds: that this process may be silent before others take its work.
        clock: seconds, the same for all processes of this machine, never set. It counts on SQLite.
        retention: seconds for which this process was told to keep results, None for as long as others say.

    Attributes:
        untold: whether this process has found the ledger set back, and the others may not know.
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
        self._next_thorough = 0.0
        self._started: float | None = None  # the database's clock less this process's, at the first renewal
        self._server: float | None = None  # when PostgreSQL's server was started, as last seen
        self._written: float | None = None  # the `expires_at` that this process knows to be on disk
        self._doubted = -math.inf  # when it was last found older than that, by this process's clock
        # Both are put together once: SQLAlchemy takes longer for that than the database for the answer.
        self._is_alive = self._alive()
        mine = select(workers.c.id).where(workers.c.id == worker, self._is_alive, self._is_as_written())
        self.there: ColumnElement[bool] = mine.exists()
        """The lease holds: this process may say what it has sent."""
        doubted = bindparam(None, type_=Boolean, callable_=lambda: self._clock() - self._doubted < seconds)
        self.held: ColumnElement[bool] = mine.where(not_(doubted)).exists()
        """The same, and the queue may be trusted: after a set-back it lists what others have sent until they say so.

        Nothing becomes a process's own whose lease is not there: so all that is owned can be found by leases.
        """

    async def renew(self, connection: AsyncConnection) -> Renewal:
        """Renew this process's lease. What this returns is for `renewed`, once it is on disk."""
        mine = workers.c.id == self._worker
        # Locked: a mark that is made meanwhile would be written over unseen.
        found = await connection.scalar(select(workers.c.expires_at).where(mine).with_for_update())
        server = await connection.scalar(select(_server_start())) if self._postgresql else None
        ticks = None if self._postgresql else self._clock() + self._seconds
        lease = {
            "id": self._worker,
            "expires_at": db_now() + self._seconds,
            "ticks": ticks,
            "version": VERSION,
            "retention": self._retention,
        }
        renewed = insert(workers).values(lease) if found is None else update(workers).where(mine).values(lease)
        expires_at = (await connection.execute(renewed.returning(workers.c.expires_at))).scalar_one()
        if self._is_set_back(found, server):
            # At once: what waits behind this renewal, perhaps in the same transaction, finds the lease as new again.
            self._doubted = self._clock()
        return Renewal(found, expires_at, server)

    def renewed(self, renewal: Renewal) -> bool:
        """Take note that a renewal is on disk, and return True if the ledger may have been set back since the last."""
        set_back = self._is_set_back(renewal.found, renewal.server)
        # Less is a mark: whoever made it has told all.
        self.untold = self.untold or self._older_by(renewal.found) > self._seconds / 10
        self._written, self._server = renewal.expires_at, renewal.server
        if self._started is None:
            self._started = renewal.expires_at - self._seconds - self._clock()
        return set_back

    def _is_set_back(self, found: float | None, server: float | None) -> bool:
        """Return True if the ledger may be older than it was, by this process's lease or the server's start."""
        return self._older_by(found) > 0 or (self._server is not None and server != self._server)

    def _older_by(self, found: float | None) -> float:
        """Return the seconds by which this process's lease is older than it wrote it, infinity if it is gone."""
        if self._written is None:
            return 0.0
        return math.inf if found is None else max(0.0, self._written - found)

    async def tell_others(self, connection: AsyncConnection) -> None:
        """Make every other process find its lease older than it wrote it. Not in the transaction of a renewal."""
        others = workers.c.id != self._worker
        # Locked in one order: several processes may find out at the same moment.
        await connection.execute(select(workers.c.id).where(others).order_by(workers.c.id).with_for_update())
        await connection.execute(update(workers).where(others).values(expires_at=workers.c.expires_at - _MARK))

    @property
    def latest_now(self) -> float:
        """The time by the database's clock if nobody has set it since the first renewal."""
        return math.inf if self._started is None else self._started + self._clock()

    async def is_older_alive(self, connection: AsyncConnection) -> bool:
        """Return True while a process lives that does not know hashed tokens. None can start once it is False."""
        older = select(workers.c.id).where(workers.c.version.is_(None), self._is_alive).exists()
        return bool(await connection.scalar(select(older)))

    async def longest_retention(self, connection: AsyncConnection) -> float | None:
        """Return the longest time, in seconds, for which any process was told to keep results; None if none was."""
        longest: float | None = await connection.scalar(select(func.max(workers.c.retention)))
        return longest

    async def end(self, connection: AsyncConnection) -> None:
        """End this process's lease."""
        await connection.execute(delete(workers).where(workers.c.id == self._worker))
        self._written = None

    async def forget(self, connection: AsyncConnection) -> None:
        """Delete leases that are long over, of processes that own nothing."""
        owns = select(_row.id).where(IS_ACTIVE, _row.owner == workers.c.id).exists()
        long_over = workers.c.expires_at < db_now() - _FORGOTTEN_AFTER
        await connection.execute(delete(workers).where(long_over, ~self._is_alive, ~owns))

    async def is_orphan(self, connection: AsyncConnection, *, may_declare_dead: bool) -> ColumnElement[bool]:
        """Of an active row, that nobody does it: its owner has left, or let its lease run out and may be declared dead.

        Looks at the leases, of which there are few. Now and then also for owners that have none: there should be none.
        A process that asks lives, however late its heart beats: what is its own is never an orphan to it.
        """
        left: ColumnElement[bool] = _row.owner.is_(None)
        if not may_declare_dead:
            return left
        silent = select(workers.c.id).where(workers.c.id != self._worker, ~self._is_alive)
        dead: Executable = silent
        if self._clock() >= self._next_thorough:
            self._next_thorough = self._clock() + _THOROUGH_EVERY
            leased = select(workers.c.id).where(workers.c.id == _row.owner).exists()
            dead = silent.union(select(_row.owner).where(IS_ACTIVE, _row.owner != self._worker, ~leased))
        names = [row.id for row in await connection.execute(dead)]
        return or_(left, _row.owner.in_(names)) if names else left

    def _is_as_written(self) -> ColumnElement[bool]:
        """Return the condition that the ledger is not older than it must be, by this process's lease."""
        written = bindparam(None, type_=Float, callable_=lambda: -1.0 if self._written is None else self._written)
        if not self._postgresql:
            return workers.c.expires_at >= written
        server = bindparam(None, type_=Float, callable_=lambda: self._server)
        return and_(workers.c.expires_at >= written, _server_start() == func.coalesce(server, _server_start()))

    def _alive(self) -> ColumnElement[bool]:
        """Whether a lease of `workers` holds."""
        lease = workers.c
        if self._postgresql:
            return lease.expires_at > db_now()
        now = bindparam(None, type_=Float, callable_=self._clock)  # asked whenever a statement is executed
        return or_(
            func.coalesce(lease.ticks, -1.0).between(now, now + _LONGEST_LEASE),
            and_(lease.ticks.is_(None), lease.expires_at > db_now()),
        )


def _server_start() -> ColumnElement[float]:
    """When PostgreSQL's server was started: each has its own time, and a standby that takes over has another one."""
    return cast(extract("epoch", func.pg_postmaster_start_time()), Float)
