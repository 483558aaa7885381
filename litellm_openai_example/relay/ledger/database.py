"""The database under the ledger, SQLite or PostgreSQL: many readers, and one writer that commits in groups.

A durable commit costs one disk flush, for one change or many. So all writes of a process go through one `Batch`: those
that arrive while a commit runs share the next transaction.

If the answer to a commit is lost, PostgreSQL is asked for the fate of the transaction, however long that takes, before
anything is repeated. (On SQLite a failed commit has not happened, and none is cut short.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from sqlalchemy import String, bindparam, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..log import log
from ..metrics import observe_commit
from ..tasks import Batch
from .engines import Connections
from .failures import LedgerUnavailable, NotAnnounced, is_outage, unavailable

T = TypeVar("T")

CHANNEL = "litellm_relay"
_LARGEST_GROUP = 256
_CLOSING = 0.4  # seconds that a silent database may hold up the end of the process
_RETRY = 0.5
_FRESH = 0.5  # seconds for which one successful write shows that another would succeed
_IDS_PER_NOTIFICATION = 150  # PostgreSQL's payloads end at 8,000 bytes
# Built once: SQLAlchemy takes longer to build a statement than the database to answer it.
_ANNOUNCE = select(func.pg_notify(CHANNEL, bindparam("payload", type_=String)), func.txid_current().label("number"))
_ECHO = 3.0  # seconds within which a listener must hear its own process


@dataclass
class Transaction:
    """The transaction that a write runs in.

    Attributes:
        changed: ids of the changed invocations, announced with the commit.
        conditions: checked right before the commit. If one is false, the whole group is undone and runs again.
        number: PostgreSQL's, None if the transaction can simply be repeated. Announcing a change sets it, too.
    """

    connection: AsyncConnection
    changed: set[str] = field(default_factory=set)
    conditions: list[Callable[[], bool]] = field(default_factory=list)
    number: int | None = None


Write = Callable[[Transaction], Awaitable[T]]


@dataclass
class _CommitLost(Exception):
    """The connection broke during the commit. `number` is the transaction's, None if it can simply be repeated."""

    error: Exception
    number: int | None
    results: list[object]
    changed: set[str]


class _Outdated(Exception):
    """A condition of a transaction has become false."""


class Database:
    """One database, as one process uses it.

    Args:
        url: SQLAlchemy URL with an asynchronous driver.
        name: of this process, unique among those that share the database.

    Attributes:
        on_change: called after each commit with the ids of the invocations that this process changed.
        away: True from the first failed write until a `check` succeeds.

    Raises:
        ConfigurationError: see `Connections`.
    """

    def __init__(self, url: URL, name: str) -> None:
        self.connections = Connections(url)
        self.postgresql = self.connections.postgresql
        self.on_change: Callable[[Iterable[str]], None] = lambda _: None
        self.away = False
        self._name = name
        self._writing: Batch[Write[Any], object] = Batch(self._commit, largest=_LARGEST_GROUP)
        self._written = -_FRESH  # start of the last successful write
        self._probe: asyncio.Task[None] | None = None
        self._closed = False

    async def close(self) -> None:
        """Close all connections, cutting those on which the database is silent."""
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                self.connections.cut()
                if self._probe is not None:
                    self._probe.cancel()
                    await asyncio.wait([self._probe])
                await self._writing.close()
                await self.connections.dispose()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run SELECTs. Raises LedgerUnavailable."""

        async def once() -> T:
            async with self.connections.reading() as connection:
                return await work(connection)

        return await _twice(once)

    async def write(self, work: Write[T]) -> T:
        """Run a change together with others that are waiting; return its result once it is on disk.

        `work` may run more than once, each time in a new transaction; at most one of them is committed.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        if self._closed:
            raise LedgerUnavailable("closed")
        return cast(T, await self._writing(work))

    async def check(self, work: Write[None], seconds: float) -> None:
        """Raise LedgerUnavailable if `work` fails, or is not on disk within `seconds`.

        It stands for all writes: the ledger is away from the first failed one until `work` succeeds. Concurrent checks
        share one `work`. Other writes do not share its transaction, as it may need more room than they do.
        """
        if not self.away and time.monotonic() - self._written < _FRESH:
            return
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self.probe(work))
        except TimeoutError:
            raise LedgerUnavailable("TimeoutError") from None

    def probe(self, work: Write[None]) -> asyncio.Task[None]:
        """Start the task that `check` waits for, unless it runs already."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._prove(work))
            self._probe.add_done_callback(lambda probe: probe.cancelled() or probe.exception())
        return self._probe

    async def _prove(self, work: Write[None]) -> None:
        (answer,) = await self._commit([work])
        if isinstance(answer, Exception):
            raise answer
        self._note(None)

    async def listen(self) -> AsyncIterator[set[str]]:
        """Yield the ids of invocations that other processes change (PostgreSQL); an empty set once listening begins.

        Raises:
            NotAnnounced: not even this process's own announcement arrives.
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
        """Run blocking-style code on a `Connection`, in a separate transaction. Raises the driver's exceptions."""
        async with self.connections.opening() as connection:
            result = await connection.run_sync(work)
            await connection.commit()
        return result

    # Writing

    async def _commit(self, works: Sequence[Write[Any]]) -> list[object]:
        """Commit `works` in one transaction; return a result or an exception for each."""
        began = time.monotonic()
        try:
            results, changed = await _twice(lambda: self._transact_once(works))
        except Exception as error:
            if isinstance(error, LedgerUnavailable):
                self._note(error)
            elif len(works) > 1:  # one of them is at fault: the others must not suffer
                return [answer for work in works for answer in await self._commit([work])]
            return [error] * len(works)
        self._written = began
        observe_commit(time.monotonic() - began)
        if changed:
            self.on_change(changed)
        return results

    async def _transact_once(self, works: Sequence[Write[Any]]) -> tuple[list[object], set[str]]:
        """Commit them exactly once, even if the answer to the commit is lost."""
        while True:
            try:
                return await self._transact(works)
            except _Outdated:
                continue
            except _CommitLost as lost:
                if lost.number is not None and await self._is_committed(lost.number):
                    return lost.results, lost.changed
                raise lost.error from None

    async def _transact(self, works: Sequence[Write[Any]]) -> tuple[list[object], set[str]]:
        committing = False
        try:
            async with self.connections.writing() as connection:
                transaction = Transaction(connection)
                results = [await work(transaction) for work in works]
                if self.postgresql and transaction.changed:
                    transaction.number = await self._notify(connection, sorted(transaction.changed))
                if not all(holds() for holds in transaction.conditions):
                    raise _Outdated
                committing = True
                await connection.commit()
        except Exception as error:
            if committing and is_outage(error):
                raise _CommitLost(error, transaction.number, results, transaction.changed) from None
            raise
        return results, transaction.changed

    async def _is_committed(self, number: int) -> bool:
        """Wait until the fate of a transaction is known; return True if it was committed."""
        # However long that takes: until then, nobody may repeat the changes, nor report that they failed.
        query = select(func.txid_status(number))
        while True:
            with suppress(LedgerUnavailable):
                try:
                    state = await self.read(lambda connection: connection.scalar(query))
                except DBAPIError:  # another server, which never saw the transaction
                    return False
                if state != "in progress":
                    return bool(state == "committed")
            await asyncio.sleep(_RETRY)

    async def _notify(self, connection: AsyncConnection, ids: list[str]) -> int:
        """Announce the changes at the commit; return the transaction's number."""
        number = 0
        for start in range(0, len(ids) or 1, _IDS_PER_NOTIFICATION):
            payload = " ".join([self._name, *ids[start : start + _IDS_PER_NOTIFICATION]])
            number = (await connection.execute(_ANNOUNCE, {"payload": payload})).one().number
        return number

    def _note(self, error: LedgerUnavailable | None) -> None:
        """Log that the ledger is away, and that it is back, once each."""
        if self.away == (error is not None):
            return
        self.away = error is not None
        if error is not None:
            log.warning("the ledger cannot be written (%s); refusing new runs meanwhile", error)
        else:
            log.warning("the ledger can be written again")


async def _twice(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`, and retry once after an outage: the pool may hold connections to a server that has restarted."""
    try:
        return await work()
    except Exception as error:
        if not is_outage(error):
            raise unavailable(error) from None
    try:
        return await work()
    except Exception as error:
        raise unavailable(error) from None
