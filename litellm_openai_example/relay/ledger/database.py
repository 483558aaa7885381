"""The database under the ledger: SQLite or PostgreSQL, many readers, and one writer that commits in groups.

A durable commit costs a disk flush whatever it holds. All writes of a process therefore go through one task, which
puts what has gathered while the last commit ran into one transaction.

A commit whose answer is lost is not repeated blindly: PostgreSQL is asked what became of the transaction, however
long it takes to reach it. (On SQLite a commit that fails has not happened, and none is cut short.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..counters import observe_commit
from ..log import log
from ..loops import keep_going
from .engines import engines, is_outage, is_unstorable, kind

T = TypeVar("T")

CHANNEL = "litellm_relay"
_LARGEST_GROUP = 256
_LONGEST_READ = 5.0
_LONGEST_WRITE = 10.0
_LONGEST_MIGRATION = 3600.0
_CLOSING = 0.4  # seconds that a silent database may hold up the end of the process
_RETRY = 0.5
_FRESH = 0.5  # seconds for which one successful write says that another would go as well
_IDS_PER_NOTIFICATION = 150  # PostgreSQL's payloads end at 8,000 bytes
_ECHO = 3.0  # seconds within which a listener must have heard its own process


class LedgerUnavailable(Exception):
    """The database does not answer; what was asked of it may be asked again."""


class Unstorable(Exception):
    """The database can never hold a value that it was given."""


class NotAnnounced(LedgerUnavailable):
    """Listening works, but nothing is heard: there is a pooler in between."""


@dataclass
class Transaction:
    """What a write works on.

    Attributes:
        changed: the invocations that others are to be told about.
        proof: whether it shows that all writes go: one that failed may have wanted another right than this one.
    """

    connection: AsyncConnection
    changed: set[str] = field(default_factory=set)
    proof: bool = False


Write = Callable[[Transaction], Awaitable[T]]


@dataclass
class _CommitLost(Exception):
    """The connection broke while it committed. `number` is the transaction's, None if it may simply be repeated."""

    number: int | None
    results: list[object]
    changed: set[str]


class Database:
    """Connections to one database.

    Args:
        url: of SQLAlchemy, with an asynchronous driver.
        name: of this process among those that share the database.

    `on_change` is called with the invocations that this process has changed, after each commit.

    Raises:
        ConfigurationError: see `engines`.
    """

    def __init__(self, url: URL, name: str) -> None:
        self.postgresql = url.get_backend_name() == "postgresql"
        self.on_change: Callable[[Iterable[str]], None] = _nobody
        self._name = name
        self._file = None if self.postgresql else _File(Path(str(url.database)))
        self._writer, self._reader = engines(url)
        self._writes: asyncio.Queue[tuple[Write[Any], asyncio.Future[Any]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._in_use: set[object] = set()
        self._away = self._proved = False
        self._written = -_FRESH  # when the last write that succeeded began
        self._probe: asyncio.Future[None] | None = None

    def start(self) -> None:
        writing = keep_going("writing to the ledger", self._write_group, pause=_RETRY)
        self._task = asyncio.create_task(writing, name="ledger-writer")

    async def close(self) -> None:
        """Give the connections up, also those on which the database is silent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                await self._close()

    async def _close(self) -> None:
        for connection in list(self._in_use):
            self._cut(connection)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for engine in (self._writer, self._reader):
            await engine.dispose()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run SELECTs. Raises LedgerUnavailable."""
        return await _twice(lambda: self._read(work))

    async def write(self, work: Write[T]) -> T:
        """Run a change, together with others that are waiting, and return its result once it is on disk.

        `work` may run more than once, in a transaction of its own each time, of which one at most is committed.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writes.put_nowait((work, done))
        return await done

    async def check(self, work: Write[None], seconds: float) -> None:
        """Whether a write would go now. `work` is one that changes nothing; it is shared by all who ask meanwhile.

        Raises:
            LedgerUnavailable: it fails, or is not on disk after `seconds`.
        """
        if self._probe is None or self._probe.done():
            if not self._away and time.monotonic() - self._written < _FRESH:
                return
            self._probe = asyncio.ensure_future(self.write(work))
            self._probe.add_done_callback(lambda probe: probe.cancelled() or probe.exception())
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._probe)
        except TimeoutError:
            raise LedgerUnavailable("TimeoutError") from None

    async def listen(self) -> AsyncIterator[set[str]]:
        """The invocations that other processes change (PostgreSQL). The first item is empty: listening has begun.

        Raises:
            NotAnnounced: not even the own process is heard.
            LedgerUnavailable: the connection broke; changes may have been missed.
        """
        try:
            async with self._reader.connect() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                self._in_use.add(driver)
                try:
                    await driver.execute(f"LISTEN {CHANNEL}")
                    await self.write(lambda transaction: self._notify(transaction.connection, []))
                    if not [heard async for heard in driver.notifies(timeout=_ECHO, stop_after=1)]:
                        raise NotAnnounced
                    yield set()
                    async for notification in driver.notifies():
                        sender, *ids = notification.payload.split()
                        if sender != self._name:
                            yield set(ids)
                finally:
                    self._in_use.discard(driver)
                    self._cut(driver)
                    await connection.invalidate()
        except Exception as error:
            raise _unavailable(error) from None

    async def run(self, work: Callable[[Any], T]) -> T:
        """Run blocking-style code on a `Connection` in a transaction of its own. Raises what the driver raises."""
        async with self._session(self._writer, _LONGEST_MIGRATION) as connection:
            result = await connection.run_sync(work)
            await connection.commit()
        if self._file is not None:
            self._file.opened()
        return result

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        if self._file is not None and self._file.replaced():
            await self._forget_connections()
        async with self._session(self._reader, _LONGEST_READ) as connection:
            return await work(connection)

    # Writing

    async def _write_group(self) -> None:
        group = [await self._writes.get()]
        while not self._writes.empty() and len(group) < _LARGEST_GROUP:
            group.append(self._writes.get_nowait())
        try:
            await self._commit(group)
        finally:
            for _, done in group:
                done.cancel()  # nobody waits for an answer that will not come

    async def _commit(self, group: list[tuple[Write[Any], asyncio.Future[Any]]]) -> None:
        began = time.monotonic()
        try:
            results, changed = await _twice(lambda: self._transact_once([work for work, _ in group]))
        except Exception as error:
            if isinstance(error, LedgerUnavailable):
                self._note(error)
            elif len(group) > 1:
                for one in group:  # one of them is at fault: the others shall not suffer
                    await self._commit([one])
                return
            for _, done in group:
                if not done.done():
                    done.set_exception(error)
            return
        self._written = began
        observe_commit(time.monotonic() - began)
        if self._proved:
            self._note(None)
        for (_, done), result in zip(group, results, strict=True):
            if not done.done():
                done.set_result(result)
        if changed:
            self.on_change(changed)

    async def _transact_once(self, works: list[Write[Any]]) -> tuple[list[object], set[str]]:
        """Commit them once, also where the answer to the commit is lost."""
        try:
            return await self._transact(works)
        except _CommitLost as lost:
            if lost.number is not None and await self._is_committed(lost.number):
                return lost.results, lost.changed
        return await self._transact(works)

    async def _transact(self, works: list[Write[Any]]) -> tuple[list[object], set[str]]:
        if self._file is not None:
            if not self._file.exists():
                raise FileNotFoundError
            if self._file.replaced():
                await self._forget_connections()
        committing, number = False, None
        try:
            async with self._session(self._writer, _LONGEST_WRITE) as connection:
                transaction = Transaction(connection)
                results = [await work(transaction) for work in works]
                if self.postgresql and transaction.changed:
                    number = await self._notify(connection, sorted(transaction.changed))
                committing = True
                await connection.commit()
            self._proved = transaction.proof
        except Exception as error:
            if committing and is_outage(error):
                raise _CommitLost(number, results, transaction.changed) from error
            raise
        return results, transaction.changed

    async def _is_committed(self, number: int) -> bool:
        """What became of a transaction of this server; waits until that is known."""
        query = select(func.txid_status(number))
        while True:
            with suppress(LedgerUnavailable):
                try:
                    state = await self.read(lambda connection: connection.scalar(query))
                except DBAPIError:  # another server, which never saw it
                    return False
                if state != "in progress":
                    return bool(state == "committed")
            await asyncio.sleep(_RETRY)

    async def _notify(self, connection: AsyncConnection, ids: list[str]) -> int:
        """Tell the others, at the commit; returns the transaction's number."""
        number = 0
        for start in range(0, len(ids) or 1, _IDS_PER_NOTIFICATION):
            payload = " ".join([self._name, *ids[start : start + _IDS_PER_NOTIFICATION]])
            row = (await connection.execute(select(func.pg_notify(CHANNEL, payload), func.txid_current()))).one()
            number = row[1]
        return number

    # Connections

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine, longest: float) -> AsyncIterator[AsyncConnection]:
        """A connection, for `longest` seconds at most. One that failed is not used again: what is behind it may have
        gone, fallen silent, or become a server that only reads."""
        async with engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            self._in_use.add(driver)
            alarm = asyncio.get_running_loop().call_later(longest, self._cut, driver)
            try:
                yield connection
            except BaseException as error:
                if not isinstance(error, Exception) or is_outage(error):
                    self._cut(driver)
                    await connection.invalidate()
                    if engine is self._writer:
                        await self._reader.dispose()
                raise
            finally:
                alarm.cancel()
                self._in_use.discard(driver)

    def _cut(self, driver: Any) -> None:
        """Close a connection under whoever waits for its answer. (SQLite's answers by itself, see SQLITE_BUSY.)"""
        if self.postgresql:
            driver.pgconn.finish()

    async def _forget_connections(self) -> None:
        for engine in (self._writer, self._reader):
            await engine.dispose()
        if self._file is not None:
            self._file.opened()

    def _note(self, error: LedgerUnavailable | None) -> None:
        """Say once that the ledger is away, and once that it is back."""
        if self._away == (error is not None):
            return
        self._away = error is not None
        if error is not None:
            log.warning("the ledger cannot be written (%s): nothing can be started until it can", error)
        else:
            log.warning("the ledger can be written again")


class _File:
    """SQLite's file, which may be deleted or replaced while it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None

    def _now(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def opened(self) -> None:
        self._identity = self._now()

    def exists(self) -> bool:
        return self._now() is not None

    def replaced(self) -> bool:
        """Whether there is another file of that name now."""
        now = self._now()
        return now is not None and self._identity is not None and now != self._identity


def _nobody(_: Iterable[str]) -> None:
    """Listens to changes until somebody else does."""


async def _twice(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`, and once more if the database went away: the pool may hold connections to one that restarted."""
    try:
        return await work()
    except Exception as error:
        if not is_outage(error):
            raise _unavailable(error) from None
    try:
        return await work()
    except Exception as error:
        raise _unavailable(error) from None


def _unavailable(error: Exception) -> Exception:
    if isinstance(error, LedgerUnavailable):
        return error
    if is_unstorable(error):
        return Unstorable(kind(error))
    return LedgerUnavailable(kind(error)) if is_outage(error) else error
