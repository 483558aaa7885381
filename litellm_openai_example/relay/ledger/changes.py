"""Changes of state: one conditional UPDATE each, and what it sets. The first process whose condition holds makes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, select, update

from .acceptance import RECORD
from .database import Transaction
from .records import Outcome, Record
from .schema import db_now, invocations

_row = invocations.c

NOW: dict[str, object] = {"updated_at": db_now()}
REQUEUED: dict[str, object] = {"state": "queued", "unsent": None, "owner": None, **NOW}


async def change(
    transaction: Transaction,
    conditions: Sequence[ColumnElement[bool]],
    values: Mapping[str, object],
    limit: int | None = None,
) -> list[Record]:
    """Change those that fulfil `conditions`, oldest first, and that no other process is just about to change."""
    ids = await pick(transaction, conditions, _row.created_at, limit)
    if not ids:
        return []
    changed = update(invocations).where(_row.id.in_(ids)).values(values).returning(*RECORD)
    rows = await transaction.connection.execute(changed)
    transaction.changed.update(ids)
    return sorted((Record(*row) for row in rows), key=lambda record: record.created_at)


async def pick(
    transaction: Transaction, conditions: Sequence[ColumnElement[bool]], order: ColumnElement[float], limit: int | None
) -> list[str]:
    """The ids first, then what happens to them: in one statement the planner may read the whole table for them."""
    query = select(_row.id).where(*conditions).order_by(order).limit(limit).with_for_update(skip_locked=True)
    return [row.id for row in await transaction.connection.execute(query)]


def settled(outcome: Outcome) -> dict[str, object]:
    """What an end sets, beside the time."""
    return {
        "state": outcome.state,
        "error_code": outcome.error_code,
        "output_text": outcome.output_text,
        "response": None if outcome.response is None else json.dumps(outcome.response),
        "cost_usd": (outcome.response or {}).get("cost_usd"),
        "owner": None,
    }
