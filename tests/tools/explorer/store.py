"""The real ledger on SQLite in memory: a call is a function from one content of the database to the next.

The clock is fixed here: all times are seconds around `NOW`, and the passing of time moves them into the past. So two
states that differ only in the time they were reached are one state, and the results of calls can be cached.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar, cast

from sqlalchemy import Connection, StaticPool, create_engine, event

from litellm_openai_example.relay.ledger.database import Database, Transaction
from litellm_openai_example.relay.ledger.failures import LedgerUnavailable
from litellm_openai_example.relay.ledger.schema import invocations, metadata, workers
from litellm_openai_example.relay.ledger.states import Ledger

T = TypeVar("T")
Row = tuple[Any, ...]
Memory = tuple[Any, ...]

NOW = 86_400.0 * 20_000  # whole days: SQLite computes its clock in days, and this must be exact
LEASE = 4.0
TICK = 3.0  # one move of the clock: a lease turns from fresh to too old for sending to over
OLDEST = NOW - 2 * TICK  # older makes no difference
_OVER = NOW - 2.0  # the expiry given to all leases that ended longer ago

_ROW, _LEASE = tuple(invocations.columns.keys()), tuple(workers.columns.keys())
ID, STATE, OWNER, UNSENT, WISH = (_ROW.index(name) for name in ("id", "state", "owner", "unsent", "cancel_requested"))
UPSTREAM, ATTEMPTS, CODE, _NOT_BEFORE = (
    _ROW.index(name) for name in ("upstream_id", "attempts", "error_code", "not_before")
)
_EXPIRES, _TICKS = _LEASE.index("expires_at"), _LEASE.index("ticks")
_REMEMBERED = ("_written", "_doubted", "untold")  # a process's memory of its lease


class Content(NamedTuple):
    """The content of the database."""

    rows: tuple[Row, ...]
    leases: tuple[Row, ...]


class Call(NamedTuple):
    """A pending call of the ledger."""

    method: str
    args: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


class Result(NamedTuple):
    """The answer to a call, the process's memory of its lease, and the content of the database, all after the call."""

    answer: Any
    memory: Memory
    content: Content


class _Statements:
    """An asynchronous connection in name only: statements run at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect

    async def execute(self, *args: Any) -> Any:
        return self._connection.execute(*args)

    async def scalar(self, *args: Any) -> Any:
        return self._connection.scalar(*args)


class _Direct:
    """The part of `Database` that the ledger uses; with `loses`, the answers to commits are lost."""

    postgresql = away = loses = False

    def __init__(self, connection: Connection) -> None:
        self._statements: Any = _Statements(connection)

    async def read(self, work: Callable[[Any], Awaitable[T]]) -> T:
        return await work(self._statements)

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        result = await work(Transaction(self._statements))
        if self.loses:
            raise LedgerUnavailable
        return result


class Store:
    """A ledger for each process, over one database whose content is swapped at will.

    Args:
        mutate: a pattern in SQL and its replacement, to break the ledger.

    Attributes:
        mutated: number of statements changed.
    """

    EMPTY = Content((), ())
    NEW: Memory = (None, float("-inf"), False)

    def __init__(self, mutate: tuple[str, str] | None = None) -> None:
        self.mutated = 0
        self._mutate = mutate
        engine = create_engine("sqlite://", poolclass=StaticPool, isolation_level="AUTOCOMMIT")
        event.listen(engine, "before_cursor_execute", self._broken, retval=True)
        self._connection = engine.connect()
        self._raw: sqlite3.Connection = self._connection.connection.driver_connection  # type: ignore[assignment]
        self._raw.create_function("julianday", 1, lambda _: NOW / 86_400 + 2_440_587.5)
        metadata.create_all(self._connection)
        self._database = _Direct(self._connection)
        self._ledgers: dict[str, Ledger] = {}
        self._loop = asyncio.new_event_loop()
        self._content = self.EMPTY
        self._known: dict[Any, Result] = {}

    def close(self) -> None:
        self._connection.close()
        self._loop.close()

    def call(self, worker: str, memory: Memory, content: Content, call: Call, *, loses: bool = False) -> Result:
        """Make a call as `worker`, with `memory` of its lease; an exception counts as an answer."""
        key = worker, memory, content, call, loses
        if key not in self._known:
            self._known[key] = self._call(*key)
        return self._known[key]

    def _call(self, worker: str, memory: Memory, content: Content, call: Call, loses: bool) -> Result:
        ledger = self._ledger(worker)
        for name, value in zip(_REMEMBERED, memory, strict=True):
            setattr(ledger._leases, name, value)
        ledger._leases._next_thorough = 0.0  # check for owners without a lease in every call
        self._write(content)
        self._database.loses = loses
        try:
            method = getattr(ledger, call.method)
            answer = self._loop.run_until_complete(method(*call.args, **dict(call.options)))
        except LedgerUnavailable as error:
            answer = error
        after = tuple(getattr(ledger._leases, name) for name in _REMEMBERED)
        return Result(_plain(answer), after, self._read())

    def _ledger(self, worker: str) -> Ledger:
        if worker not in self._ledgers:
            database = cast("Database", self._database)
            ledger = Ledger(database, worker, lease=LEASE, max_queued=9, clock=lambda: NOW)
            self._ledgers[worker] = ledger
        return self._ledgers[worker]

    def _write(self, content: Content) -> None:
        if content == self._content:
            return
        for table, before, after in zip((invocations, workers), self._content, content, strict=True):
            if before != after:
                self._raw.execute(f"DELETE FROM {table.name}")
                places = ", ".join("?" for _ in table.columns)
                self._raw.executemany(f"INSERT INTO {table.name} VALUES ({places})", after)
        self._content = content

    def _read(self) -> Content:
        rows = self._raw.execute(f"SELECT * FROM {invocations.name} ORDER BY id").fetchall()
        leases = self._raw.execute(f"SELECT * FROM {workers.name} ORDER BY id").fetchall()
        self._content = Content(tuple(rows), tuple(leases))
        return Content(tuple(_due(row) for row in rows), self._content.leases)

    def _broken(self, _connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        if self._mutate is not None:
            sql, times = re.subn(*self._mutate, sql, flags=re.DOTALL)
            self.mutated += times
        return sql, parameters


def older(content: Content, written: dict[str, float | None]) -> tuple[Content, dict[str, float]]:
    """Let time pass for the database; `written` holds the living processes' knowledge of their leases.

        Returns:
    the content, and the ageing of each lease. An expired lease, and the knowledge of it, stays as it
            is: only the difference counts.
    """
    leases, shifts = [], {}
    for lease in content.leases:
        known = written.get(lease[0]) or lease[_EXPIRES]
        shifts[lease[0]] = shift = TICK if max(known, lease[_TICKS]) - TICK >= _OVER else 0.0
        moved = list(lease)
        moved[_EXPIRES], moved[_TICKS] = lease[_EXPIRES] - shift, lease[_TICKS] - shift
        leases.append(tuple(moved))
    return Content(content.rows, tuple(leases)), shifts


def older_copy(copy: Content, written: dict[str, float | None]) -> Content:
    """Let time pass for a copy of the database that is not in use."""
    # Ages stop at a floor, because states that differ only in how long a lease has been over behave alike.
    leases = []
    for lease in copy.leases:
        # A lease older than its process knows must stay older, no matter how old both are.
        least = _OVER - 1.0 if (written.get(lease[0]) or 0.0) > lease[_EXPIRES] else _OVER
        shift = lease[_TICKS] - max(lease[_TICKS] - TICK, min(least, lease[_TICKS]))
        moved = list(lease)
        moved[_EXPIRES], moved[_TICKS] = lease[_EXPIRES] - shift, lease[_TICKS] - shift
        leases.append(tuple(moved))
    return Content(copy.rows, tuple(leases))


def is_live(content: Content, worker: str) -> bool:
    """Does the lease of `worker` hold?"""
    return any(lease[0] == worker and lease[_TICKS] >= NOW for lease in content.leases)


def expires_at(content: Content, worker: str) -> float | None:
    """Return the expiry of the lease of `worker`; None if it has none."""
    return next((lease[_EXPIRES] for lease in content.leases if lease[0] == worker), None)


def _due(row: Row) -> Row:
    return row if row[_NOT_BEFORE] > NOW else (*row[:_NOT_BEFORE], 0.0, *row[_NOT_BEFORE + 1 :])


def _plain(answer: Any) -> Any:
    """Return an answer in a form that can be stored and compared."""
    if isinstance(answer, list):
        return tuple(answer)
    if isinstance(answer, dict):
        return tuple(sorted(answer.items(), key=lambda item: str(item[0])))
    return "unavailable" if isinstance(answer, LedgerUnavailable) else answer
