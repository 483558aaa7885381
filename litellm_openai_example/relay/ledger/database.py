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
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..counters import observe_commit
from ..log import log
from ..loops import keep_going
from .batch import let_gather
from .connections import Connections
from .failures import LedgerUnavailable, NotAnnounced, is_outage, twice, unavailable

T = TypeVar("T")

CHANNEL = "litellm_relay"
_LARGEST_GROUP = 256
_CLOSING = 0.4  # seconds that a silent database may hold up the end of the process
_RETRY = 0.5
_FRESH = 0.5  # seconds for which one successful write says that another would go as well
_IDS_PER_NOTIFICATION = 150  # PostgreSQL's payloads end at 8,000 bytes
_ECHO = 3.0  # seconds within which a listener must have heard its own process


@dataclass
class Transaction:
    """What a write works on.

    Attributes:
        changed: the invocations that others are to be told about.
        conditions: asked in the last moment before the commit. If one does not hold, all is undone and runs anew.
    """

    connection: AsyncConnection
    changed: set[str] = field(default_factory=set)
    conditions: list[Callable[[], bool]] = field(default_factory=list)


Write = Callable[[Transaction], Awaitable[T]]


@dataclass
class _CommitLost(Exception):
    """The connection broke while it committed. `number` is the transaction's, None if it may simply be repeated."""

    error: Exception
    number: int | None
    results: list[object]
    changed: set[str]


class _Outdated(Exception):
    """A condition of a transaction holds no longer."""


class Database:
    """One database.

    Args:
        url: of SQLAlchemy, with an asynchronous driver.
        name: of this process among those that share the database.

    `on_change` is called with the invocations that this process has changed, after each commit.

    Attributes:
        away: whether a write has failed and no `check` has succeeded since.

    Raises:
        ConfigurationError: see `engines`.
    """

    def __init__(self, url: URL, name: str) -> None:
        self.connections = Connections(url)
        self.postgresql = self.connections.postgresql
        self.on_change: Callable[[Iterable[str]], None] = lambda _: None
        self._name = name
        self._writes: asyncio.Queue[tuple[Write[Any], asyncio.Future[Any]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.away = False
        self._written = -_FRESH  # when the last write that succeeded began
        self._probe: asyncio.Task[None] | None = None

    def start(self) -> None:
        writing = keep_going("writing to the ledger", self._write_group, pause=_RETRY)
        self._task = asyncio.create_task(writing, name="ledger-writer")

    async def close(self) -> None:
        """Give the connections up, also those on which the database is silent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                self.connections.cut()
                tasks = [task for task in (self._task, self._probe) if task is not None]
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks)
                await self.connections.dispose()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run SELECTs. Raises LedgerUnavailable."""

        async def once() -> T:
            async with self.connections.reading() as connection:
                return await work(connection)

        return await twice(once)

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
        """Raise LedgerUnavailable if `work` fails, or is not on disk after `seconds`.

        It stands for all writes: the ledger is away from the first that fails until `work` succeeds. All who ask
        meanwhile share it, and other writes are not gathered with it, as it may need more room than they do.
        """
        if not self.away and time.monotonic() - self._written < _FRESH:
            return
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self.probe(work))
        except TimeoutError:
            raise LedgerUnavailable("TimeoutError") from None

    def probe(self, work: Write[None]) -> asyncio.Task[None]:
        """Begin what `check` waits for, unless it is under way."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._prove(work))
            self._probe.add_done_callback(lambda probe: probe.cancelled() or probe.exception())
        return self._probe

    async def _prove(self, work: Write[None]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._commit([(work, done)])
        await done
        self._note(None)

    async def listen(self) -> AsyncIterator[set[str]]:
        """The invocations that other processes change (PostgreSQL). The first item is empty: listening has begun.

        Raises:
            NotAnnounced: not even the own process is heard.
            LedgerUnavailable: the connection broke; changes may have been missed.
        """
        try:
            async with self.connections.listening() as driver:
                await driver.execute(f"LISTEN {CHANNEL}")
                await self.write(lambda transaction: self._notify(transaction.connection, []))
                if not [heard async for heard in driver.notifies(timeout=_ECHO, stop_after=1)]:
                    raise NotAnnounced
                yield set()
                async for notification in driver.notifies():
                    sender, *ids = notification.payload.split()
                    if sender != self._name:
                        yield set(ids)
        except Exception as error:
            raise unavailable(error) from None

    async def run(self, work: Callable[[Any], T]) -> T:
        """Run blocking-style code on a `Connection` in a transaction of its own. Raises what the driver raises."""
        async with self.connections.opening() as connection:
            result = await connection.run_sync(work)
            await connection.commit()
        return result

    # Writing

    async def _write_group(self) -> None:
        group = [await self._writes.get()]
        try:
            await let_gather()
            while not self._writes.empty() and len(group) < _LARGEST_GROUP:
                group.append(self._writes.get_nowait())
            await self._commit(group)
        finally:
            for _, done in group:
                done.cancel()  # nobody waits for an answer that will not come

    async def _commit(self, group: list[tuple[Write[Any], asyncio.Future[Any]]]) -> None:
        began = time.monotonic()
        try:
            results, changed = await twice(lambda: self._transact_once([work for work, _ in group]))
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
        for (_, done), result in zip(group, results, strict=True):
            if not done.done():
                done.set_result(result)
        if changed:
            self.on_change(changed)

    async def _transact_once(self, works: list[Write[Any]]) -> tuple[list[object], set[str]]:
        """Commit them once, also where the answer to the commit is lost."""
        while True:
            try:
                return await self._transact(works)
            except _Outdated:
                continue
            except _CommitLost as lost:
                if lost.number is not None and await self._is_committed(lost.number):
                    return lost.results, lost.changed
                raise lost.error from None

    async def _transact(self, works: list[Write[Any]]) -> tuple[list[object], set[str]]:
        committing, number = False, None
        try:
            async with self.connections.writing() as connection:
                transaction = Transaction(connection)
                results = [await work(transaction) for work in works]
                if self.postgresql and transaction.changed:
                    number = await self._notify(connection, sorted(transaction.changed))
                if not all(holds() for holds in transaction.conditions):
                    raise _Outdated
                committing = True
                await connection.commit()
        except Exception as error:
            if committing and is_outage(error):
                raise _CommitLost(error, number, results, transaction.changed) from None
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

    def _note(self, error: LedgerUnavailable | None) -> None:
        """Say once that the ledger is away, and once that it is back."""
        if self.away == (error is not None):
            return
        self.away = error is not None
        if error is not None:
            log.warning("the ledger cannot be written (%s): new runs are refused until it can", error)
        else:
            log.warning("the ledger can be written again")
