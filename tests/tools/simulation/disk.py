"""The ledger's database in the loop's own thread: real SQLite, under SQLAlchemy's own dialect for aiosqlite.

aiosqlite answers from a thread, at a moment that no seed controls. Here each statement runs at once, after one await,
so that a process can die between any two. Faults of the disk, or of a database server, are injected here too.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_dbapi,
    SQLiteDialect_aiosqlite,
)
from sqlalchemy.engine import URL
from sqlalchemy.util.concurrency import await_

from .loop import Clock, current

_BUSY = 2.0  # seconds, as the product asks SQLite to wait
_KEPT = 24  # commits that a ledger can be set back by

_compiled: dict[Any, Any] = {}

registry.register("sqlite.simulated", __name__, "Dialect")


class Disk:
    """A database file with its last commits and its faults.

    Attributes:
        away_until: time until which every statement fails.
        lose_answers: number of coming commits that succeed but report an error.
        fail_commits: number of coming commits that fail.
        latency: duration of a statement in seconds.
        on_commit: called after each commit that changed something.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.url = URL.create("sqlite+simulated", database=str(path))
        self.clock = clock
        self.away_until = 0.0
        self.lose_answers = self.fail_commits = 0
        self.latency = 0.0
        self.keeps = False
        self.on_commit: Callable[[], None] = lambda: None
        self._path = path
        self._states: deque[bytes] = deque(maxlen=_KEPT)
        self._open: list[Connection] = []

    def opened(self, connection: Connection) -> None:
        self._open.append(connection)

    def closed(self, connection: Connection) -> None:
        if connection in self._open:
            self._open.remove(connection)

    def committed(self, connection: Connection) -> None:
        if self.keeps:
            self._states.append(connection.raw.serialize())
        self.on_commit()

    def set_back(self, commits: int) -> bool:
        """Undo the last commits, as a restore or a failover to a lagging standby does; all connections break.

        Returns:
            True if there were commits to undo.
        """
        commits = min(commits, len(self._states) - 1)
        if commits < 1:
            return False
        for connection in list(self._open):
            connection.fail()
        for _ in range(commits):
            self._states.pop()
        state = bytearray(self._states[-1])
        state[18:20] = b"\x01\x01"  # an image in memory keeps no write-ahead log
        with sqlite3.connect(":memory:") as earlier, sqlite3.connect(self._path) as live:
            earlier.deserialize(bytes(state))
            earlier.backup(live)
        earlier.close()
        live.close()
        return True

    @property
    def used(self) -> bool:
        return bool(self._states)

    def rows(self) -> list[dict[str, Any]]:
        """Return the committed invocations."""
        return self._read("SELECT * FROM relay_invocations ORDER BY created_at, id")

    def leases(self) -> dict[str, float]:
        """Return the committed expiry of each process's lease."""
        return {row["id"]: row["expires_at"] for row in self._read("SELECT id, expires_at FROM relay_workers")}

    def _read(self, query: str) -> list[dict[str, Any]]:
        connection = sqlite3.connect(self._path)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(query)]
        finally:
            connection.close()


class Connection:
    """An aiosqlite connection without its thread."""

    def __init__(self, *args: Any, **options: Any) -> None:
        process = current.get()
        assert process is not None
        self.disk: Disk = process.disk
        self.raw = sqlite3.connect(*args, **options)
        self.raw.execute("PRAGMA busy_timeout=0")
        self.raw.create_function("julianday", 1, lambda _: self.disk.clock.wall / 86400 + 2440587.5)
        self._broken = False
        self._written = 0
        self.disk.opened(self)
        process.on_death.append(self.stop)

    def fail(self) -> None:
        """Break the connection and roll back its transaction."""
        self._broken = True
        self.raw.rollback()

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        """Run a statement, after waiting for another process's transaction as SQLite does."""
        await asyncio.sleep(self.disk.latency)
        until = self.disk.clock.now + _BUSY
        while True:
            if self._broken or self.disk.clock.now < self.disk.away_until:
                raise sqlite3.OperationalError("the database is away")
            try:
                return work(*args)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or self.disk.clock.now >= until:
                    raise
            await asyncio.sleep(0.01)

    def cursor(self) -> Cursor:
        return Cursor(self, self.raw.cursor())

    async def commit(self) -> None:
        if self.disk.fail_commits and self._changed():
            self.disk.fail_commits -= 1
            raise sqlite3.OperationalError("disk I/O error")
        await self.run(self.raw.commit)
        if self._changed():
            self._written = self.raw.total_changes
            self.disk.committed(self)
            if self.disk.lose_answers:
                self.disk.lose_answers -= 1
                raise sqlite3.OperationalError("the connection broke")

    def _changed(self) -> bool:
        changes: int = self.raw.total_changes
        return changes != self._written

    async def rollback(self) -> None:
        self.raw.rollback()
        self._written = self.raw.total_changes

    async def create_function(self, *args: Any, **options: Any) -> None:
        self.raw.create_function(*args, **options)

    async def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        self.disk.closed(self)
        self.raw.close()


class Cursor:
    """A cursor of a simulated connection."""

    def __init__(self, connection: Connection, raw: sqlite3.Cursor) -> None:
        self._connection = connection
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    async def __aenter__(self) -> Cursor:
        return self

    async def execute(self, sql: str, parameters: Any = ()) -> Any:
        if "busy_timeout" not in sql:  # waiting would stop the only thread
            await self._connection.run(self._raw.execute, sql, parameters)
        return self

    async def executemany(self, sql: str, parameters: Any) -> Any:
        await self._connection.run(self._raw.executemany, sql, parameters)
        return self

    async def fetchall(self) -> list[Any]:
        return self._raw.fetchall()

    async def close(self) -> None:
        self._raw.close()


class _AdaptedConnection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ()
    _connection: Any

    @property
    def isolation_level(self) -> str | None:
        level: str | None = self._connection.raw.isolation_level
        return level

    @isolation_level.setter
    def isolation_level(self, value: str | None) -> None:
        self._connection.raw.isolation_level = value

    def rollback(self) -> None:
        await_(self._connection.rollback())

    def commit(self) -> None:
        try:
            await_(self._connection.commit())
        except Exception as error:
            self._handle_exception(error)


class _Module(AsyncAdapt_aiosqlite_dbapi):
    def connect(self, *args: Any, **options: Any) -> Any:
        options.pop("async_creator_fn", None)
        connection: Any = Connection(*args, **options)
        return _AdaptedConnection(self, connection)


class Dialect(SQLiteDialect_aiosqlite):
    """SQLAlchemy's dialect for aiosqlite, on `Connection`.

    All engines share one cache of compiled statements: a seed makes about ten engines for a few statements each.
    """

    driver = "simulated"
    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dialect)

    def __hash__(self) -> int:
        return hash(Dialect)

    @classmethod
    def engine_created(cls, engine: Any) -> None:
        engine.update_execution_options(compiled_cache=_compiled)

    @classmethod
    def import_dbapi(cls) -> Any:
        return _Module(aiosqlite, sqlite3)


dialect = Dialect
