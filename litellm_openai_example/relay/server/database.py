"""The database under the ledger: SQLite or PostgreSQL, many readers, and one writer that commits in groups.

A durable commit costs a disk flush whatever it holds. All writes of a process therefore go through one task, which
puts what has gathered while the last commit ran into one transaction.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import event, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

T = TypeVar("T")

CHANNEL = "litellm_relay"
_LARGEST_GROUP = 256
_LONGEST_TRANSACTION = 15.0
_IDS_PER_NOTIFICATION = 150  # PostgreSQL's payloads end at 8,000 bytes
_POSTGRESQL_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "litellm-relay",
}


class LedgerUnavailable(Exception):
    """The database does not answer; what was asked of it may be asked again."""


@dataclass
class Transaction:
    """What a write works on; `changed` gathers the invocations that others are to be told about."""

    connection: AsyncConnection
    changed: set[str] = field(default_factory=set)


Write = Callable[[Transaction], Awaitable[T]]


class Database:
    """Connections to one database.

    Args:
        url: of SQLAlchemy, with an asynchronous driver.
        name: of this process among those that share the database.

    `on_change` is called with the invocations that this process has changed, after each commit.
    """

    def __init__(self, url: URL, name: str) -> None:
        self.postgresql = url.get_backend_name() == "postgresql"
        self.on_change: Callable[[Iterable[str]], None] = _nobody
        self._name = name
        if not self.postgresql:
            _create_private(Path(str(url.database)))
        options: dict[str, Any] = {"pool_reset_on_return": None, "pool_timeout": 10}
        if self.postgresql:
            options["connect_args"] = _POSTGRESQL_OPTIONS
        self._writer = create_async_engine(url, pool_size=1, max_overflow=0, **options)
        self._reader = create_async_engine(
            url, pool_size=8 if self.postgresql else 2, max_overflow=0, isolation_level="AUTOCOMMIT", **options
        )
        if not self.postgresql:
            _prepare_sqlite(self._writer, writes=True)
            _prepare_sqlite(self._reader, writes=False)
        self._writes: asyncio.Queue[tuple[Write[Any], asyncio.Future[Any]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._write_in_groups(), name="ledger-writer")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for engine in (self._writer, self._reader):
            await engine.dispose()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run SELECTs. Raises LedgerUnavailable."""
        return await _twice(lambda: self._read(work))

    async def write(self, work: Write[T]) -> T:
        """Run a change, together with others that are waiting, and return its result once it is on disk.

        `work` may run more than once, in a transaction of its own each time.

        Raises:
            LedgerUnavailable: the database does not answer; whether it was committed is unknown.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writes.put_nowait((work, done))
        return await done

    async def listen(self) -> AsyncIterator[set[str]]:
        """The invocations that other processes change (PostgreSQL). The first item is empty: listening has begun.

        Raises:
            LedgerUnavailable: the connection broke; changes may have been missed.
        """
        try:
            async with self._reader.connect() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                try:
                    await driver.execute(f"LISTEN {CHANNEL}")
                    yield set()
                    async for notification in driver.notifies():
                        sender, *ids = notification.payload.split()
                        if sender != self._name:
                            yield set(ids)
                finally:
                    await connection.invalidate()
        except Exception as error:
            raise _unavailable(error) from None

    async def run(self, work: Callable[[Any], T]) -> T:
        """Run blocking-style code on a `Connection` in a transaction of its own."""
        try:
            async with self._writer.begin() as connection:
                return await connection.run_sync(work)
        except DBAPIError as error:
            raise _unavailable(error) from None

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with asyncio.timeout(_LONGEST_TRANSACTION), self._reader.connect() as connection:
            return await work(connection)

    async def _write_in_groups(self) -> None:
        while True:
            group = [await self._writes.get()]
            while not self._writes.empty() and len(group) < _LARGEST_GROUP:
                group.append(self._writes.get_nowait())
            try:
                await self._commit(group)
            except asyncio.CancelledError:
                for _, done in group:
                    done.cancel()
                raise

    async def _commit(self, group: list[tuple[Write[Any], asyncio.Future[Any]]]) -> None:
        try:
            results, changed = await _twice(lambda: self._transact([work for work, _ in group]))
        except Exception as error:
            if len(group) > 1 and not isinstance(error, LedgerUnavailable):
                for one in group:  # one of them is at fault: the others shall not suffer
                    await self._commit([one])
                return
            for _, done in group:
                if not done.done():
                    done.set_exception(error)
            return
        if changed:
            self.on_change(changed)
        for (_, done), result in zip(group, results, strict=True):
            if not done.done():
                done.set_result(result)

    async def _transact(self, works: list[Write[Any]]) -> tuple[list[Any], set[str]]:
        async with asyncio.timeout(_LONGEST_TRANSACTION), self._writer.begin() as connection:
            transaction = Transaction(connection)
            results = [await work(transaction) for work in works]
            if self.postgresql and transaction.changed:
                await self._notify(connection, sorted(transaction.changed))
        return results, transaction.changed

    async def _notify(self, connection: AsyncConnection, ids: list[str]) -> None:
        for start in range(0, len(ids), _IDS_PER_NOTIFICATION):
            payload = " ".join([self._name, *ids[start : start + _IDS_PER_NOTIFICATION]])
            await connection.execute(select(func.pg_notify(CHANNEL, payload)))


def _nobody(_: Iterable[str]) -> None:
    """Listens to changes until somebody else does."""


async def _twice(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`, and once more if the database went away: the pool may hold connections to one that restarted."""
    try:
        return await work()
    except Exception as error:
        if not _is_outage(error):
            raise
    try:
        return await work()
    except Exception as error:
        raise _unavailable(error) from None


def _is_outage(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        return not isinstance(error, IntegrityError | DataError | ProgrammingError)
    return isinstance(error, PoolTimeout | TimeoutError | OSError)


def _unavailable(error: Exception) -> Exception:
    # The driver's message may hold the address of the database: only the kind of error is kept.
    cause = error.orig if isinstance(error, DBAPIError) else error
    return LedgerUnavailable(type(cause).__name__) if _is_outage(error) else error


def _create_private(path: Path) -> None:
    """Make the file before SQLite does, readable by its user alone; its side files take over the mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _prepare_sqlite(engine: AsyncEngine, *, writes: bool) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        cursor = connection.cursor()
        for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if writes:

        @event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: Any) -> None:
            # A transaction that begins as a reader and writes later fails when another process wrote in between.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
