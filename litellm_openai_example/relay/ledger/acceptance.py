"""Accepting invocations into the ledger, many in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from .database import Transaction
from .records import NewInvocation, Record
from .schema import IS_QUEUED, db_now, invocations

_row = invocations.c
_QUEUED = {"state": "queued", "cancel_requested": False, "attempts": 0, "not_before": 0.0}

RECORD = [_row[field.name] for field in fields(Record)]
"""The columns of a Record, in its order."""
# Put together once: SQLAlchemy takes longer for it than the database for the answer.
_BY_ID = _row.id.in_(bindparam("ids", expanding=True))
_BY_ID_OR_KEY = or_(_BY_ID, _row.idempotency_hash.in_(bindparam("hashes", expanding=True)))
_KNOWN_BY_ID, _KNOWN = (
    select(_row.idempotency_hash, _row.fingerprint, *RECORD).where(same) for same in (_BY_ID, _BY_ID_OR_KEY)
)
_MOMENT = select(db_now(), select(func.count()).where(IS_QUEUED).scalar_subquery())
RECORDS_BY_ID = select(*RECORD).where(_BY_ID)
# Rows whose key another process has inserted meanwhile are left out, which the number of rows tells.
_INSERT = {
    dialect: insert(invocations)
    .on_conflict_do_nothing(index_elements=[_row.idempotency_hash])
    .execution_options(preserve_rowcount=True)
    for dialect, insert in (("postgresql", postgresql.insert), ("sqlite", sqlite.insert))
}


class QueueFull(Exception):
    """As many invocations are queued as may be."""


class IdempotencyConflict(Exception):
    """The key belongs to an invocation with other arguments."""


async def insert_new(
    transaction: Transaction, wanted: Sequence[NewInvocation], max_queued: int
) -> list[Record | Exception]:
    """Insert those that are new, as long as the queue has room, and find those that were accepted before.

    Returns:
        for each of `wanted` its record, or QueueFull or IdempotencyConflict.
    """
    connection = transaction.connection
    while True:
        now, waiting = (await connection.execute(_MOMENT)).one()
        known = await _find(transaction, wanted)
        answers, rows = _decide(wanted, known, now, max_queued - waiting)
        if not rows:
            return answers
        # In the order of their keys: two processes that insert the same ones wait for each other in one direction only.
        rows.sort(key=lambda row: row["idempotency_hash"] or "")
        result = await connection.execute(_INSERT[connection.dialect.name], rows)
        transaction.changed.update(str(row["id"]) for row in rows)
        if result.rowcount == len(rows):
            return answers
        # Another process was faster with one of the keys. Its commit was waited for, so its row is visible now.


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


async def _find(transaction: Transaction, wanted: Sequence[NewInvocation]) -> dict[str, tuple[str, Record]]:
    """Those that are there already, by id and by the hash of their key."""
    ids = [new.id for new in wanted]
    hashes = [new.idempotency_hash for new in wanted if new.idempotency_hash]
    # SQLite reads the whole table for "in (nothing)".
    query = _KNOWN if hashes else _KNOWN_BY_ID
    found = {}
    for key, fingerprint, *columns in await transaction.connection.execute(query, {"ids": ids, "hashes": hashes}):
        record = Record(*columns)
        found[record.id] = found[key or ""] = fingerprint, record
    found.pop("", None)
    return found
