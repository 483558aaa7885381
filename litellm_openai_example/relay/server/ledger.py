"""The ledger: what was promised to clients, as a state machine in SQL.

Every change of state is one conditional UPDATE, so that any number of processes may share the ledger: the first one
whose condition holds has made it, the others change nothing and see so.

=============  ===============  ====================================================  ==================
from           to               when                                                  method
=============  ===============  ====================================================  ==================
(nothing)      queued           accepted                                              accept
queued         submitting       a process is about to send it: the intent             claim
queued         awaiting         the same, for a model known to answer at the end      claim
submitting     queued           certainly not sent; tried again later                 put_back
awaiting       queued           the same                                              put_back
submitting     awaiting         no answer for some seconds                            leave_gate
submitting     running          the gateway gave its id                               submitted
awaiting       running          the same                                              submitted
submitting     failed           its process died: whether it was paid is unknown      bury
awaiting       failed           the same                                              bury
running        running          its process died or stopped: another owner            take_over
any of these   completed        settled by the gateway's answer                       settle
any of these   incomplete       the same                                              settle
any of these   failed           the same, or refused, or out of time                  settle
any of these   cancelled        the same, or on request                               settle
queued         cancelled        on request                                            request_cancel
=============  ===============  ====================================================  ==================

submitting, awaiting and running rows have an owner: the process that has a lease in `relay_workers`. Readers see
submitting as queued and awaiting as running. Ended rows never change again, and are deleted when they are old.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Update, delete, func, insert, or_, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from ...config import ConfigurationError
from ..contract import TERMINAL
from .acceptance import RECORD, insert_new
from .batch import Batch
from .database import Database, LedgerUnavailable, Transaction
from .records import NewInvocation, Outcome, Piece, Record
from .schema import db_now, invocations, pieces, prepare, workers

IN_FLIGHT = ("submitting", "awaiting")
ACTIVE = ("submitting", "awaiting", "running")
INDETERMINATE = Outcome("failed", "submission_indeterminate")
_PURGED_AT_ONCE = 500
_ACCEPTED_AT_ONCE = 200
_READ_AT_ONCE = 500

_row = invocations.c


class Ledger:
    """The invocations in one database, as one process sees and changes them.

    Args:
        database: not started yet.
        worker: the name of this process, never used before.
        lease: seconds that this process may be silent before others take its work.
        max_queued: invocations that may wait to be submitted.

    Attributes:
        accept: write an invocation down, or find the one that was accepted under its idempotency key; raises
            QueueFull, IdempotencyConflict or LedgerUnavailable.
        get: the record of an id, None if there is none; raises LedgerUnavailable.
    """

    def __init__(self, database: Database, worker: str, *, lease: float, max_queued: int) -> None:
        self.database = database
        self.worker = worker
        self._lease = lease
        self._max_queued = max_queued
        self._secret = b""
        self.accept = Batch(self._accept, largest=_ACCEPTED_AT_ONCE)
        self.get = Batch(self._get, largest=_READ_AT_ONCE)

    async def open(self) -> None:
        """Create or check the tables. Raises ConfigurationError in words for a person."""
        try:
            self._secret = await self.database.run(prepare)
        except (LedgerUnavailable, DBAPIError, OSError) as error:
            raise ConfigurationError(
                f"the ledger cannot be opened ({type(getattr(error, 'orig', None) or error).__name__})"
            ) from None
        self.database.start()

    def token(self, invocation_id: str) -> str:
        """The token that reads and cancels an invocation. It is derived, so that no copy has to be kept."""
        digest = hmac.digest(self._secret, invocation_id.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return urlsafe_b64encode(digest).rstrip(b"=").decode()

    async def _accept(self, wanted: Sequence[NewInvocation]) -> list[Record | Exception]:
        async def work(transaction: Transaction) -> list[Record | Exception]:
            return await insert_new(transaction, wanted, self._max_queued)

        try:
            return await self.database.write(work)
        except IntegrityError:  # another process was faster with one of the keys: now it can be seen
            return await self.database.write(work)

    # Reading

    async def _get(self, ids: Sequence[str]) -> list[Record | None]:
        records = await self.get_many(ids)
        return [records.get(one) for one in ids]

    async def get_many(self, ids: Sequence[str]) -> dict[str, Record]:
        query = select(*RECORD).where(_row.id.in_(ids))
        return {record.id: record for record in await self._records(query)}

    async def pieces(self, invocation_id: str, after: int = 0) -> list[Piece]:
        """Streamed text, from the piece that follows the `after`-th."""
        query = (
            select(pieces.c.seq, pieces.c.start, pieces.c.text)
            .where(pieces.c.invocation_id == invocation_id, pieces.c.seq > after)
            .order_by(pieces.c.seq)
        )
        rows = await self.database.read(lambda connection: connection.execute(query))
        return [Piece(*row) for row in rows]

    async def pending(self, *, judge: bool) -> tuple[bool, bool]:
        """Whether there is something to claim, and whether there is work that nobody does.

        With `judge`, a process whose lease is over counts as dead.
        """
        queued = select(_row.id).where(_row.state == "queued", _row.not_before <= db_now()).exists()
        orphaned = select(_row.id).where(_row.state.in_(ACTIVE), _is_orphan(_row, judge)).exists()
        row = (await self.database.read(lambda connection: connection.execute(select(queued, orphaned)))).one()
        return bool(row[0]), bool(row[1])

    async def cancel_requests(self) -> list[str]:
        """Invocations of this process that somebody wants cancelled."""
        query = select(_row.id).where(_row.state.in_(ACTIVE), _row.owner == self.worker, _row.cancel_requested)
        return [row.id for row in await self.database.read(lambda connection: connection.execute(query))]

    async def _records(self, query: Select[Any]) -> list[Record]:
        rows = await self.database.read(lambda connection: connection.execute(query))
        return [Record(**row) for row in rows.mappings()]

    # Leases

    async def heartbeat(self) -> None:
        """Renew this process's lease."""

        async def work(transaction: Transaction) -> None:
            lease = {"id": self.worker, "expires_at": db_now() + self._lease}
            renewed = update(workers).where(workers.c.id == self.worker).values(lease)
            if (await transaction.connection.execute(renewed)).rowcount == 0:
                await transaction.connection.execute(insert(workers).values(lease))

        await self.database.write(work)

    async def owned(self) -> list[str]:
        """What this process owns, by its name: what a commit did whose answer was lost can be seen here."""
        query = select(_row.id).where(_row.owner == self.worker, _row.state.in_(ACTIVE))
        return [row.id for row in await self.database.read(lambda connection: connection.execute(query))]

    async def take_over(self, *, judge: bool, limit: int) -> list[Record]:
        """Make up to `limit` orphaned running invocations this process's own."""
        mine = _pick(lambda row: (row.state == "running", _is_orphan(row, judge)), limit)
        return await self._change(update(invocations).where(mine).values(owner=self.worker))

    async def bury(self, *, judge: bool) -> list[Record]:
        """Fail the submissions in flight of processes that are no more."""
        lost = _pick(lambda row: (row.state.in_(IN_FLIGHT), _is_orphan(row, judge)))
        return await self._change(update(invocations).where(lost).values(_settled(INDETERMINATE)))

    async def leave(self) -> None:
        """This process stops: others may take over its work at once."""
        in_flight = (_row.owner == self.worker, _row.state.in_(IN_FLIGHT))
        await self._change(update(invocations).where(*in_flight).values(_settled(INDETERMINATE)))

        async def work(transaction: Transaction) -> None:
            await transaction.connection.execute(delete(workers).where(workers.c.id == self.worker))
            await transaction.connection.execute(
                update(invocations).where(_row.owner == self.worker, _row.state == "running").values(owner=None)
            )

        await self.database.write(work)

    # Submitting

    async def claim(self, limit: int, *, blocks: bool) -> list[Record]:
        """Commit the intent to submit up to `limit` queued invocations."""
        due = _pick(lambda row: (row.state == "queued", row.not_before <= db_now()), limit)
        values = {
            "state": "awaiting" if blocks else "submitting",
            "owner": self.worker,
            "attempts": _row.attempts + 1,
            "started_at": func.coalesce(_row.started_at, db_now()),
            "updated_at": db_now(),
        }
        return await self._change(update(invocations).where(due).values(values))

    async def put_back(self, invocation_id: str, delay: float) -> bool:
        """It was certainly not sent: try again in `delay` seconds."""
        values = {"state": "queued", "owner": None, "not_before": db_now() + delay, "updated_at": db_now()}
        return await self._change_mine(invocation_id, IN_FLIGHT, values)

    async def leave_gate(self, invocation_id: str) -> bool:
        return await self._change_mine(invocation_id, ("submitting",), {"state": "awaiting", "updated_at": db_now()})

    async def submitted(self, invocation_id: str, upstream_id: str) -> bool:
        """Keep the gateway's id. False if the invocation is no longer this process's."""
        values = {"state": "running", "upstream_id": upstream_id, "updated_at": db_now()}
        return await self._change_mine(invocation_id, (*IN_FLIGHT, "running"), values)

    # Running and ending

    async def append(self, invocation_id: str, piece: Piece) -> bool:
        """Add a piece of streamed text; False if the invocation is no longer this process's."""

        async def work(transaction: Transaction) -> bool:
            mine = select(_row.id).where(_row.id == invocation_id, _row.owner == self.worker, _row.state.in_(ACTIVE))
            if (await transaction.connection.execute(mine.with_for_update())).first() is None:
                return False
            key = {"invocation_id": invocation_id, "seq": piece.seq}
            await transaction.connection.execute(delete(pieces).filter_by(**key))
            await transaction.connection.execute(insert(pieces).values(**key, start=piece.start, text=piece.text))
            transaction.changed.add(invocation_id)
            return True

        return await self.database.write(work)

    async def settle(self, invocation_id: str, outcome: Outcome, upstream_id: str | None = None) -> bool:
        """End an invocation, and keep the gateway's id if it came with the outcome.

        Returns:
            False if it has ended already or is no longer this process's.
        """
        upstream = {} if upstream_id is None else {"upstream_id": upstream_id}
        return await self._change_mine(invocation_id, ACTIVE, _settled(outcome) | upstream)

    async def request_cancel(self, invocation_id: str) -> None:
        """Cancel an invocation that is queued; ask the owner of one that runs to do it."""

        async def work(transaction: Transaction) -> None:
            cancelled = _settled(Outcome("cancelled", "cancelled_by_client"))
            queued = update(invocations).where(_row.id == invocation_id, _row.state == "queued").values(cancelled)
            if (await transaction.connection.execute(queued)).rowcount == 0:
                active = (_row.id == invocation_id, _row.state.in_(ACTIVE))
                await transaction.connection.execute(update(invocations).where(*active).values(cancel_requested=True))
            transaction.changed.add(invocation_id)

        await self.database.write(work)

    async def purge(self, retention: float) -> int:
        """Delete what ended more than `retention` seconds ago, and leases that are long over; returns how many."""

        async def work(transaction: Transaction) -> int:
            cutoff = db_now() - retention
            old = (
                select(_row.id)
                .where(_row.state.in_(sorted(TERMINAL)), _row.created_at < cutoff, _row.updated_at < cutoff)
                .limit(_PURGED_AT_ONCE)
            )
            ids = [row.id for row in await transaction.connection.execute(old)]
            await transaction.connection.execute(delete(pieces).where(pieces.c.invocation_id.in_(ids)))
            await transaction.connection.execute(delete(invocations).where(_row.id.in_(ids)))
            dead = (
                workers.c.expires_at < db_now() - 3600,
                workers.c.id.not_in(select(_row.owner).where(_row.state.in_(ACTIVE), _row.owner.is_not(None))),
            )
            await transaction.connection.execute(delete(workers).where(*dead))
            return len(ids)

        return await self.database.write(work)

    async def _change_mine(self, invocation_id: str, states: Iterable[str], values: dict[str, Any]) -> bool:
        mine = (_row.id == invocation_id, _row.owner == self.worker, _row.state.in_(list(states)))

        async def work(transaction: Transaction) -> bool:
            made = await transaction.connection.execute(update(invocations).where(*mine).values(values))
            if made.rowcount == 0:
                return False
            transaction.changed.add(invocation_id)
            return True

        return await self.database.write(work)

    async def _change(self, statement: Update) -> list[Record]:
        async def work(transaction: Transaction) -> list[Record]:
            rows = await transaction.connection.execute(statement.returning(*RECORD))
            records = [Record(**row) for row in rows.mappings()]
            transaction.changed.update(record.id for record in records)
            return records

        return await self.database.write(work)


def _settled(outcome: Outcome) -> dict[str, Any]:
    return {
        "state": outcome.state,
        "error_code": outcome.error_code,
        "output_text": outcome.output_text,
        "response": None if outcome.response is None else json.dumps(outcome.response),
        "owner": None,
        "updated_at": db_now(),
    }


def _is_orphan(row: Any, judge: bool) -> ColumnElement[bool]:
    """Nobody does it: its owner has left, or (with `judge`) let its lease run out."""
    left: ColumnElement[bool] = row.owner.is_(None)
    if not judge:
        return left
    alive = select(workers.c.id).where(workers.c.id == row.owner, workers.c.expires_at > db_now())
    return or_(left, ~alive.exists())


def _pick(
    conditions: Callable[[Any], tuple[ColumnElement[bool], ...]], limit: int | None = None
) -> ColumnElement[bool]:
    """Rows that fulfil `conditions`, oldest first, and that no other process is just about to change."""
    picked = invocations.alias()
    query = select(picked.c.id).where(*conditions(picked.c)).order_by(picked.c.created_at).limit(limit)
    return _row.id.in_(query.with_for_update(skip_locked=True))
