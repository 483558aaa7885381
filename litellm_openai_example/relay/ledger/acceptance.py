"""Accepting invocations into the ledger: concurrent starts share one statement and one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, literal, null, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from ..log import log
from ..tasks import Batch
from .database import Database, Transaction
from .failures import LedgerUnavailable
from .records import NewInvocation, Record
from .schema import IS_QUEUED, db_now, invocations

_AT_ONCE = 200
_WITHDRAW_AGAIN, _WITHDRAW_SELDOM = 0.5, 15.0  # seconds between tries: the first, the longest

_row = invocations.c
_QUEUED = {"state": "queued", "cancel_requested": False, "attempts": 0, "not_before": 0.0}

RECORD = [_row[field.name] for field in fields(Record) if field.metadata.get("column", True)]
"""The columns of a Record, in its order."""
# Statements are built once: SQLAlchemy takes longer to build one than the database to answer it.
_BY_ID = _row.id.in_(bindparam("ids", expanding=True))
_BY_ID_OR_KEY = or_(_BY_ID, _row.idempotency_hash.in_(bindparam("hashes", expanding=True)))
_ALWAYS = select(literal(1).label("one")).subquery()


def _known(number: ColumnElement[Any], same: ColumnElement[bool]) -> Select[Any]:
    """Return the query for all that an insert depends on: one row at least, so one round trip is enough.

    Its columns: the transaction's number, the time, the length of the queue, and the invocations that exist.
    """
    waiting = select(func.count()).where(IS_QUEUED).scalar_subquery()
    found = _ALWAYS.outerjoin(invocations, same)
    return select(number, db_now(), waiting, _row.idempotency_hash, _row.fingerprint, *RECORD).select_from(found)


_KNOWN_BY_ID, _KNOWN = (
    {"postgresql": _known(func.txid_current(), same), "sqlite": _known(null(), same)}
    for same in (_BY_ID, _BY_ID_OR_KEY)
)
RECORDS_BY_ID = select(*RECORD).where(_BY_ID)
# Skips rows whose key another process has inserted meanwhile; the number of inserted rows shows it.
_INSERT = {
    dialect: insert(invocations)
    .on_conflict_do_nothing(index_elements=[_row.idempotency_hash])
    .execution_options(preserve_rowcount=True)
    for dialect, insert in (("postgresql", postgresql.insert), ("sqlite", sqlite.insert))
}


class QueueFull(Exception):
    """The queue has no room for another invocation."""


class IdempotencyConflict(Exception):
    """The key belongs to an invocation with other arguments."""


class Acceptance:
    """Accepts invocations, many at a time.

    Args:
        database: the ledger's.
        max_queued: invocations that may wait to be submitted.
        withdraw: cancels an accepted invocation. Raises LedgerUnavailable.
    """

    def __init__(self, database: Database, max_queued: int, withdraw: Callable[[str], Awaitable[None]]) -> None:
        self._database = database
        self._max_queued = max_queued
        self._withdraw = withdraw
        self._wanted: set[str] = set()  # ids whose caller is still waiting
        self._withdrawing: set[asyncio.Task[None]] = set()
        self._accepting = Batch(self._accept, largest=_AT_ONCE)

    async def __call__(self, new: NewInvocation) -> Record:
        """Store an invocation, or find the one that its idempotency key started.

        Cancelling this call withdraws the start: its client sees a failure and repeats it, and both would be paid for.
        Once the commit is under way, a start with a key stays, for the repeat to find; one without is cancelled.

        Raises:
            QueueFull, IdempotencyConflict, LedgerUnavailable
        """
        self._wanted.add(new.id)
        try:
            return await self._accepting(new)
        finally:
            self._wanted.discard(new.id)

    async def _accept(self, asked: Sequence[NewInvocation]) -> list[Record | Exception]:
        async def work(transaction: Transaction) -> dict[str, Record | Exception]:
            wanted = [new for new in asked if new.id in self._wanted]
            transaction.conditions.append(lambda: self._wanted.issuperset(new.id for new in wanted))
            answers = await _insert_new(transaction, wanted, self._max_queued)
            return {new.id: answer for new, answer in zip(wanted, answers, strict=True)}

        answers = await self._database.write(work)
        for new in asked:
            if new.id in answers and new.id not in self._wanted and new.idempotency_hash is None:
                # In a task: the other starts of this commit are answered at once.
                task = asyncio.create_task(self._keep_withdrawing(new.id))
                self._withdrawing.add(task)
                task.add_done_callback(self._withdrawing.discard)
        return [answers.get(new.id) or LedgerUnavailable() for new in asked]

    async def _keep_withdrawing(self, invocation_id: str) -> None:
        pause = _WITHDRAW_AGAIN
        while True:
            try:
                return await self._withdraw(invocation_id)
            except Exception as error:
                if pause == _WITHDRAW_AGAIN:
                    log.warning(
                        "%s: its client saw the start fail, and it cannot be withdrawn (%s); retrying",
                        invocation_id,
                        type(error).__name__,
                    )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _WITHDRAW_SELDOM)


async def _insert_new(
    transaction: Transaction, wanted: Sequence[NewInvocation], max_queued: int
) -> list[Record | Exception]:
    """Insert the new ones as far as the queue has room, and find those that were accepted before.

    Returns:
        a record, QueueFull or IdempotencyConflict for each of `wanted`.
    """
    if not wanted:
        return []
    connection = transaction.connection
    while True:
        now, waiting, known = await _find(transaction, wanted)
        answers, rows = _decide(wanted, known, now, max_queued - waiting)
        if not rows:
            return answers
        # Sorted by key: two processes that insert the same keys wait for each other in one direction only.
        rows.sort(key=lambda row: row["idempotency_hash"] or "")
        result = await connection.execute(_INSERT[connection.dialect.name], rows)
        if result.rowcount == len(rows):
            return answers
        # Another process was faster with one of the keys. The insert waited for its commit: its row is visible now.


def _decide(
    wanted: Sequence[NewInvocation], known: dict[str, tuple[str, Record]], now: float, room: int
) -> tuple[list[Record | Exception], list[dict[str, Any]]]:
    """Return the answers for `wanted`, and the rows to insert: `room` at most."""
    answers: list[Record | Exception] = []
    rows: list[dict[str, Any]] = []
    for new in wanted:
        found = known.get(new.id) or known.get(new.idempotency_hash or "")
        if found is not None:
            fingerprint, record = found
            answers.append(record if fingerprint == new.fingerprint else IdempotencyConflict())
        elif len(rows) >= room:
            answers.append(QueueFull())
        else:
            row = {**vars(new), **_QUEUED, "created_at": now, "updated_at": now}
            columns: list[Any] = [row.get(column.name) for column in RECORD]
            record = Record(*columns)
            if new.idempotency_hash:
                known[new.idempotency_hash] = new.fingerprint, record
            rows.append(row)
            answers.append(record)
    return answers, rows


async def _find(
    transaction: Transaction, wanted: Sequence[NewInvocation]
) -> tuple[float, int, dict[str, tuple[str, Record]]]:
    """Return the time, the number of queued invocations, and those of `wanted` that exist: the fingerprint and record
    of each, by its id and by the hash of its key.

    The transaction gets its number. New invocations are not announced: nobody can watch one before its commit.
    """
    ids = [new.id for new in wanted]
    hashes = [new.idempotency_hash for new in wanted if new.idempotency_hash]
    # SQLite reads the whole table for "in (nothing)".
    query = (_KNOWN if hashes else _KNOWN_BY_ID)[transaction.connection.dialect.name]
    rows = (await transaction.connection.execute(query, {"ids": ids, "hashes": hashes})).all()
    transaction.number, now, waiting, *_ = rows[0]
    found: dict[str, tuple[str, Record]] = {}
    for _, _, _, key, fingerprint, *columns in rows:
        if fingerprint is not None:
            record = Record(*columns)
            found[record.id] = found[key or ""] = fingerprint, record
    found.pop("", None)
    return now, waiting, found
