"""Leases: which processes live. What a dead one owns is an orphan.

On PostgreSQL a lease goes by the database's clock; on SQLite, whose processes share one machine, by that machine's
clock that only runs forward.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import ColumnElement, Executable, Float, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .schema import IS_ACTIVE, VERSION, db_now, invocations, workers

_LONGEST_LEASE = 60.0  # one that ends later on SQLite's clock was written before the machine started anew
_THOROUGH_EVERY = 30.0
_FORGOTTEN_AFTER = 3600.0

_row = invocations.c


class Leases:
    """The leases of all processes, as one of them sees them.

    Args:
        worker: the name of this process.
        seconds: that this process may be silent before others take its work.
        clock: seconds, the same for all processes of this machine, never set. It counts on SQLite.
        retention: seconds for which this process was told to keep results, None for as long as others say.
    """

    def __init__(
        self, worker: str, seconds: float, clock: Callable[[], float], *, postgresql: bool, retention: float | None
    ) -> None:
        self._worker = worker
        self._seconds = seconds
        self._clock = clock
        self._retention = retention
        self._postgresql = postgresql
        self._next_thorough = 0.0
        # Both are put together once: SQLAlchemy takes longer for that than the database for the answer.
        self._is_alive = self._alive()
        self.held: ColumnElement[bool] = select(workers.c.id).where(workers.c.id == worker, self._is_alive).exists()
        """Nothing becomes a process's own whose lease is not there: so all that is owned can be found by leases."""

    async def renew(self, connection: AsyncConnection) -> None:
        """Renew this process's lease."""
        ticks = None if self._postgresql else self._clock() + self._seconds
        lease = {
            "id": self._worker,
            "expires_at": db_now() + self._seconds,
            "ticks": ticks,
            "version": VERSION,
            "retention": self._retention,
        }
        renewed = update(workers).where(workers.c.id == self._worker).values(lease)
        if (await connection.execute(renewed)).rowcount == 0:
            await connection.execute(insert(workers).values(lease))

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
