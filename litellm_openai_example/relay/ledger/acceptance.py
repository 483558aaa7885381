"""Accepting invocations into the ledger, many in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, insert, or_, select

from .database import Transaction
from .records import NewInvocation, Record
from .schema import IS_QUEUED, db_now, invocations

_row = invocations.c
_QUEUED = {"state": "queued", "cancel_requested": False, "attempts": 0, "not_before": 0.0}

# The columns of a Record.
RECORD = [
    *(c for c in _row if c.name not in ("idempotency_hash", "fingerprint", "not_before", "unsent")),
    (db_now() - _row.started_at).label("age"),
]


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
    queued = select(func.count()).where(IS_QUEUED).scalar_subquery()
    now, waiting = (await transaction.connection.execute(select(db_now(), queued))).one()
    known = await _find(transaction, wanted)
    answers: list[Record | Exception] = []
    rows: list[dict[str, Any]] = []
    for new in wanted:
        found = known.get(new.id) or known.get(new.idempotency_hash or "")
        if found is not None:
            fingerprint, record = found
            answers.append(record if fingerprint == new.fingerprint else IdempotencyConflict())
        elif waiting + len(rows) >= max_queued:
            answers.append(QueueFull())
        else:
            row = {**vars(new), **_QUEUED, "created_at": now, "updated_at": now}
            fields: dict[str, Any] = {column.name: row.get(column.name) for column in RECORD}
            record = Record(**fields)
            if new.idempotency_hash:
                known[new.idempotency_hash] = new.fingerprint, record
            rows.append(row)
            answers.append(record)
    if rows:
        await transaction.connection.execute(insert(invocations), rows)
        transaction.changed.update(str(row["id"]) for row in rows)
    return answers


async def _find(transaction: Transaction, wanted: Sequence[NewInvocation]) -> dict[str, tuple[str, Record]]:
    """Those that are there already, by id and by the hash of their key."""
    ids = [new.id for new in wanted]
    hashes = [new.idempotency_hash for new in wanted if new.idempotency_hash]
    # SQLite reads the whole table for "in (nothing)".
    same = or_(_row.id.in_(ids), _row.idempotency_hash.in_(hashes)) if hashes else _row.id.in_(ids)
    query = select(_row.idempotency_hash, _row.fingerprint, *RECORD).where(same)
    found = {}
    for row in (await transaction.connection.execute(query)).mappings():
        fields = dict(row)
        key, fingerprint = fields.pop("idempotency_hash"), fields.pop("fingerprint")
        found[fields["id"]] = found[key or ""] = fingerprint, Record(**fields)
    found.pop("", None)
    return found
