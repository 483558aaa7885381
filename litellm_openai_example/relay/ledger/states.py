"""The ledger: the promises to clients, as a state machine in SQL.

Every change of state is one conditional UPDATE. Any number of processes may share the ledger: the first one whose
condition holds makes the change; the others change nothing, and see that.

=============  ===============  ====================================================  ==================
from           to               when                                                  method
=============  ===============  ====================================================  ==================
(nothing)      queued           accepted                                              accept
queued         submitting       a process is going to submit it                       claim
queued         awaiting         the same, for a model known to answer at the end      claim
submitting     awaiting         no answer for a few seconds                           leave_gate
in flight      queued           certainly not sent; retried later                     requeue
in flight      queued           its process died before sending it                    requeue_orphans
in flight      running          the gateway gave its id                               submitted
in flight      failed           its process died; unknown whether it was paid for     fail_orphans
running        running          its process is drained: nobody's until reclaimed      hand_over
running        running          its process died, stopped or gave it up: new owner    reclaim
active         completed        settled by the gateway's answer                       settle
active         incomplete       the same                                              settle
active         failed           the same, or refused, or out of time                  settle
active         cancelled        the same, or on request                               settle
queued         cancelled        on request                                            request_cancel
queued         active           the ledger was set back; its process says so          restore, submitted
queued         (ended)          the same                                              settle
=============  ===============  ====================================================  ==================

In flight means submitting or awaiting; active means in flight or running. Active rows have an owner: a process with a
lease in `relay_workers`. Readers see submitting as queued and awaiting as running. Ended rows never change again (but
for the gateway's id of a submission that was answered too late, see `answered_late`), and are deleted when they are
old.

A request to stop an active row is `cancel_requested` (a client's) or `stop_reason` (the relay's). It stays until the
row ends, for whichever process owns the row by then.

A submission may have been executed once its intent is committed, right before it is sent (`commit_intent`). Until then
its row is marked `unsent`, and nothing is lost with its process.

Longer than other files: the table and the methods that it names are one thing, and are read side by side. Liveness is
in `leases`, the insert in `acceptance`, transactions in `database`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import (
    JSON,
    ColumnElement,
    Float,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from ...config import ConfigurationError
from ...window import WINDOWS
from ..log import log
from ..tasks import Batch
from .acceptance import RECORD, RECORDS_BY_ID, Acceptance
from .database import Database, Transaction
from .failures import why_not_opened
from .leases import DRAINED, REQUESTED, Leases, Renewal
from .records import NewInvocation, Outcome, Piece, Record
from .schema import (
    ACTIVE,
    IN_FLIGHT,
    IS_ACTIVE,
    IS_ENDED,
    IS_IN_FLIGHT,
    IS_QUEUED,
    IS_RUNNING,
    db_now,
    in_state,
    invocations,
    pieces,
    prepare,
    workers,
)
from .tokens import Tokens

INDETERMINATE = Outcome("failed", "submission_indeterminate")
CANCELLED = Outcome("cancelled", "cancelled_by_client")
_PURGED_AT_ONCE = 200
_READ_AT_ONCE = 500
_LONGEST_DELAY = 600.0  # a later `not_before` was written before the clock was set back
_PROBE = 1.5  # seconds
_PROOF = 2**14  # characters: a question, and room for its index entries
_LARGEST_PROOF = 2**20  # the largest body of a start

_row = invocations.c
_NOW: dict[str, object] = {"updated_at": db_now()}
REQUEUED: dict[str, object] = {"state": "queued", "unsent": None, "owner": None, **_NOW}
_DUE = (IS_QUEUED, or_(_row.not_before <= db_now(), _row.not_before > db_now() + _LONGEST_DELAY))


class Ledger:
    """The invocations in one database, as one process sees and changes them.

    Every method raises LedgerUnavailable if the database does not answer.

    Args:
        database: not opened yet.
        worker: the name of this process, never used before.
        lease: seconds that this process may be silent before others take its work.
        max_queued: invocations that may wait to be submitted.
        retention: seconds for which ended invocations are kept, unless another process keeps them longer.
        clock: monotonic seconds, the same for all processes of this machine; `time.monotonic` by default.
        public_url: the relay's address for people, which the records for readers carry.
    """

    def __init__(
        self,
        database: Database,
        worker: str,
        *,
        lease: float,
        max_queued: int,
        retention: float | None = None,
        clock: Callable[[], float] | None = None,
        public_url: str | None = None,
    ) -> None:
        self._public_url = public_url
        self.database = database
        self.worker = worker
        clock = clock or time.monotonic
        self._leases = Leases(worker, lease, clock, postgresql=database.postgresql, retention=retention)
        self._retention = retention
        self._kept = retention  # the retention that was logged last
        self._older_alive = True  # until a heartbeat has checked
        self._accept = Acceptance(database, max_queued, lambda one: self.request_cancel(one))
        self._getting = Batch(self._get, largest=_READ_AT_ONCE)
        # Changes that every run goes through are built once: SQLAlchemy takes longer to build one than the database to
        # make it. Owner and state are all that an intent needs: other processes change them before they take over.
        self._to_sent = self._mine(IN_FLIGHT).values(unsent=None)
        self._to_running = self._sent_by_me((*IN_FLIGHT, "running")).values(_NOW | {"owner": worker, "unsent": None})
        self._to_end = self._sent_by_me(ACTIVE).values(_NOW)

    async def open(self) -> None:
        """Create or check the tables. If that fails, close all connections and raise ConfigurationError."""
        try:
            self.tokens = Tokens(await self.database.run(prepare))
        except Exception as error:
            await self.database.close()
            if isinstance(error, DBAPIError | PoolTimeout | OSError):
                raise ConfigurationError(f"the ledger cannot be opened: {why_not_opened(error)}") from None
            raise

    async def check(self) -> None:
        """Raise LedgerUnavailable unless a start could be written now; takes two seconds at most."""
        await self.database.check(self._prove, _PROBE)

    async def _prove(self, transaction: Transaction) -> None:
        """Change the tables that all work depends on, and write as much as a start does.

        An UPDATE of no row needs no room on the disk. After a failed write, the largest start must fit: smaller ones
        may well succeed in the room that is left.
        """
        size = _LARGEST_PROOF if self.database.away else _PROOF
        mine = update(workers).where(workers.c.id == self.worker)
        await transaction.connection.execute(mine.values(proof=secrets.token_hex(size // 2)))
        await transaction.connection.execute(update(invocations).where(_row.id == "").values(id=_row.id))

    async def accept(self, new: NewInvocation) -> Record:
        """Store an invocation, or find the one that its idempotency key started; see `Acceptance`.

        Its token is hashed only if no process of an older version is alive, which could not check it.

        Raises:
            QueueFull, IdempotencyConflict
        """
        record = await self._accept(replace(new, token_hash=None) if self._older_alive else new)
        return replace(record, public_url=self._public_url)

    # Reading

    async def get(self, invocation_id: str) -> Record | None:
        """Return the record of an id, None if it does not exist."""
        return await self._getting(invocation_id)

    async def _get(self, ids: Sequence[str]) -> list[Record | None]:
        records = await self.get_many(ids)
        return [records.get(one) for one in ids]

    async def get_many(self, ids: Sequence[str]) -> dict[str, Record]:
        rows = await self.database.read(lambda connection: connection.execute(RECORDS_BY_ID, {"ids": ids}))
        return {row.id: Record(*row, public_url=self._public_url) for row in rows}

    async def pieces(self, invocation_id: str, after: int = 0) -> list[Piece]:
        """Return the streamed text, from the piece behind the `after`-th."""
        query = (
            select(pieces.c.seq, pieces.c.start, pieces.c.text)
            .where(pieces.c.invocation_id == invocation_id, pieces.c.seq > after)
            .order_by(pieces.c.seq)
        )
        rows = await self.database.read(lambda connection: connection.execute(query))
        return [Piece(*row) for row in rows]

    async def pending(self, *, may_declare_dead: bool) -> tuple[bool, bool]:
        """Return whether there is something to claim, and whether there are orphans.

        With `may_declare_dead`, a process whose lease has run out counts as dead.
        """

        async def work(connection: AsyncConnection) -> tuple[bool, bool]:
            queued = select(_row.id).where(*_DUE).exists()
            orphan = await self._leases.is_orphan(connection, may_declare_dead=may_declare_dead)
            orphaned = select(_row.id).where(IS_ACTIVE, orphan).exists()
            row = (await connection.execute(select(queued, orphaned))).one()
            return bool(row[0]), bool(row[1])

        return await self.database.read(work)

    async def owned(self, *conditions: ColumnElement[bool]) -> list[str]:
        """Return the ids of this process's active invocations, those that fulfil `conditions`."""
        query = select(_row.id).where(IS_ACTIVE, _row.owner == self.worker, *conditions)
        return [row.id for row in await self.database.read(lambda connection: connection.execute(query))]

    async def cancel_requests(self) -> list[str]:
        """Return the ids of this process's invocations that a client wants cancelled."""
        return await self.owned(_row.cancel_requested)

    async def unfinished(self) -> tuple[dict[str, tuple[int, float]], dict[str, int]]:
        """Return, by state, the number of unfinished invocations and the age of the oldest in seconds; then the number
        of those in each discount window.

        Those that have ended are not counted: that would read all of them.
        """
        groups = (_row.state, _row.completion_window)
        found = select(*groups, func.count(), db_now() - func.min(_row.created_at)).group_by(*groups)

        async def work(connection: AsyncConnection) -> tuple[dict[str, tuple[int, float]], dict[str, int]]:
            rows = [row for where in (IS_QUEUED, IS_ACTIVE) for row in await connection.execute(found.where(where))]
            runs, windows = dict.fromkeys(("queued", *ACTIVE), (0, 0.0)), dict.fromkeys(map(str, WINDOWS), 0)
            for state, window, count, age in rows:
                runs[state] = runs[state][0] + count, max(runs[state][1], age)
                if window in windows:
                    windows[window] += count
            return runs, windows

        return await self.database.read(work)

    # Leases and orphans

    async def heartbeat(self) -> bool:
        """Renew this process's lease; check whether a ledger that was away accepts starts again.

        Returns:
            True if the ledger may have been set back since the last heartbeat.
        """

        async def work(transaction: Transaction) -> tuple[Renewal, float | None]:
            renewed = await self._leases.renew(transaction.connection)
            if self._older_alive:
                self._older_alive = await self._leases.is_older_alive(transaction.connection)
            return renewed, await self._leases.longest_retention(transaction.connection)

        renewal, longest = await self.database.write(work)
        self._leases.renewed(renewal)
        if self._retention is not None and longest is not None:
            self._log_retention(self._retention, longest)
        if self.database.away:
            self.database.probe(self._prove)
        return renewal.set_back

    async def tell_others(self) -> None:
        """Make all other processes notice if this one has found the ledger set back."""
        if self._leases.untold:
            await self.database.write(lambda transaction: self._leases.tell_others(transaction.connection))
            self._leases.untold = False

    async def reclaim(self, *, may_declare_dead: bool, limit: int) -> list[Record]:
        """Take over up to `limit` orphaned running invocations."""
        return await self._change_orphans(IS_RUNNING, {"owner": self.worker}, may_declare_dead, limit)

    async def requeue_orphans(self, *, may_declare_dead: bool, limit: int) -> list[Record]:
        """Return to the queue up to `limit` invocations that dead processes had claimed, but not sent."""
        return await self._change_orphans(IS_IN_FLIGHT & _row.unsent.is_(True), REQUEUED, may_declare_dead, limit)

    async def fail_orphans(self, *, may_declare_dead: bool, limit: int) -> list[Record]:
        """Fail up to `limit` submissions in flight of dead processes."""
        lost = INDETERMINATE.columns | _NOW
        return await self._change_orphans(IS_IN_FLIGHT & _row.unsent.is_not(True), lost, may_declare_dead, limit)

    async def _change_orphans(
        self, which: ColumnElement[bool], values: Mapping[str, object], may_declare_dead: bool, limit: int
    ) -> list[Record]:
        async def work(transaction: Transaction) -> list[Record]:
            orphan = await self._leases.is_orphan(transaction.connection, may_declare_dead=may_declare_dead)
            return await _change_oldest(transaction, (which, orphan, self._leases.trusted), values, limit)

        return await self.database.write(work)

    async def leave(self, followed: Mapping[str, float] | None = None) -> None:
        """Leave this process's work to the others, as it stops. `followed` as for `keep_followed`."""
        mine = _row.owner == self.worker

        async def work(transaction: Transaction) -> None:
            if followed:
                await transaction.connection.execute(self._followed(followed))
            # The unsent first: the next statement fails everything that is still in flight.
            await _change_oldest(transaction, (mine, IS_IN_FLIGHT, _row.unsent.is_(True)), REQUEUED)
            await _change_oldest(transaction, (mine, IS_IN_FLIGHT), INDETERMINATE.columns | _NOW)
            await transaction.connection.execute(update(invocations).where(mine, IS_RUNNING).values(owner=None))
            await self._leases.end(transaction.connection)

        await self.database.write(work)

    # Draining

    @property
    def drain_wanted(self) -> bool:
        """Does an operator want this process drained, as of the last heartbeat?"""
        return self._leases.drain is not None

    async def others_take_work(self) -> bool:
        """Return True if another process would take over the work of this one."""
        return await self.database.read(self._leases.is_another)

    async def hand_over(self, followed: Mapping[str, float]) -> None:
        """Give up these running invocations for others to reclaim. `followed` as for `keep_followed`."""
        given_up = self._followed(followed, ["running"], owner=None)
        await self.database.write(lambda transaction: transaction.connection.execute(given_up))

    async def report_drain(self, *, done: bool) -> None:
        """Record whether this process, which is being drained, still has work."""
        state = DRAINED if done else REQUESTED
        if self._leases.drain != state:
            await self.database.write(lambda transaction: self._leases.report_drain(transaction.connection, state))
            self._leases.drain = state

    # Submitting

    async def claim(self, limit: int, *, blocks: bool) -> list[Record]:
        """Claim up to `limit` queued invocations, to be submitted by this process."""
        values = {
            "state": "awaiting" if blocks else "submitting",
            "unsent": True,
            "owner": self.worker,
            "attempts": _row.attempts + 1,
            "started_at": func.coalesce(_row.started_at, db_now()),
            **_NOW,
        }
        wanted = (*_DUE, self._leases.trusted)
        return await self.database.write(lambda transaction: _change_oldest(transaction, wanted, values, limit))

    async def requeue(
        self, invocation_id: str, delay: float, *, attempt: int | None = None, followed: float | None = None
    ) -> bool:
        """Return an invocation that was certainly not sent to the queue, for `delay` seconds, 300 at most.

        Args:
            attempt: its number, from 1. Once another attempt is claimed, repeating this does nothing.
            followed: seconds since the first attempt, including the delay.
        """
        values = REQUEUED | {"not_before": db_now() + min(delay, _LONGEST_DELAY / 2)}
        if followed is not None:
            values["followed"] = followed
        this_one = () if attempt is None else (_row.attempts == attempt,)
        return await self._change(invocation_id, self._mine(IN_FLIGHT, *this_one).values(values))

    async def commit_intent(self, invocation_id: str) -> bool:
        """Record that it may have been sent from here on. False if another process owns it by now: do not send it."""
        # Readers see no change, so none is announced; and a commit whose answer was lost may be repeated.
        return await self._change(invocation_id, self._to_sent, announce=False)

    async def leave_gate(self, invocation_id: str) -> bool:
        return await self._change(invocation_id, self._mine(("submitting",)).values({"state": "awaiting", **_NOW}))

    async def submitted(self, invocation_id: str, upstream_id: str) -> bool:
        """Keep the gateway's id. False if another process owns it by now."""
        return await self._change(invocation_id, self._to_running, {"state": "running", "upstream_id": upstream_id})

    async def restore(self, invocation_id: str, upstream_id: str | None) -> bool:
        """Tell a ledger that was set back that this process has sent an invocation.

        Args:
            upstream_id: the gateway's id, None if it has not answered.

        Returns:
            False if the ledger knows better.
        """
        wanted = self._sent_by_me(IN_FLIGHT, self._leases.valid)
        values = {"state": "awaiting" if upstream_id is None else "running", "upstream_id": upstream_id}
        return await self._change(invocation_id, wanted.values(values | {"owner": self.worker, "unsent": None, **_NOW}))

    async def answered_late(self, invocation_id: str, upstream_id: str) -> None:
        """Keep the gateway's id of a submission that was answered after it was called indeterminate."""
        given_up = (_row.state == INDETERMINATE.state, _row.error_code == INDETERMINATE.error_code)
        wanted = update(invocations).where(_row.id == bindparam("the_id"), *given_up, _row.upstream_id.is_(None))
        await self._change(invocation_id, wanted.values(upstream_id=upstream_id))

    # Running and ending

    async def keep_followed(self, seconds: Mapping[str, float]) -> None:
        """Store for how many seconds each of this process's invocations has been followed."""
        if seconds:
            await self.database.write(lambda transaction: transaction.connection.execute(self._followed(seconds)))

    def _followed(self, seconds: Mapping[str, float], states: Iterable[str] = ACTIVE, **more: object) -> Update:
        # One statement for all of them: with one each, thousands of runs hold up the starts behind this transaction.
        given = func.json_each(bindparam(None, dict(seconds), type_=JSON)).table_valued("key", "value")
        mine = (_row.id == given.c.key, _row.owner == self.worker, in_state(_row, states))
        return update(invocations).where(*mine).values(followed=cast(cast(given.c.value, Text), Float), **more)

    async def keep_wish(self, invocation_id: str, reason: str) -> bool:
        """Store that it must be stopped, and the error code why. False if another process owns it by now."""
        return await self._change(invocation_id, self._mine(["running"]).values(stop_reason=reason), announce=False)

    async def append(self, invocation_id: str, piece: Piece) -> bool:
        """Add a piece of streamed text; False if another process owns it by now."""

        async def work(transaction: Transaction) -> bool:
            mine = select(_row.id).where(_row.id == invocation_id, _row.owner == self.worker, _row.state.in_(ACTIVE))
            if (await transaction.connection.execute(mine.with_for_update())).first() is None:
                return False
            key = {"invocation_id": invocation_id, "seq": piece.seq}
            # A repeat after a lost answer finds its own piece: the same text replaces it.
            await transaction.connection.execute(delete(pieces).filter_by(**key))
            await transaction.connection.execute(insert(pieces).values(**key, start=piece.start, text=piece.text))
            transaction.changed.add(invocation_id)
            return True

        return await self.database.write(work)

    async def settle(self, invocation_id: str, outcome: Outcome, upstream_id: str | None = None) -> bool:
        """End an invocation, and keep the gateway's id if one came with the outcome.

        Returns:
            False if it has ended already, or another process owns it by now.
        """
        upstream = {} if upstream_id is None else {"upstream_id": upstream_id}
        return await self._change(invocation_id, self._to_end, outcome.columns | upstream)

    async def request_cancel(self, invocation_id: str) -> None:
        """Cancel a queued invocation; ask the owner of an active one to cancel it."""

        async def work(transaction: Transaction) -> None:
            cancelled = CANCELLED.columns | _NOW
            queued = update(invocations).where(_row.id == invocation_id, _row.state == "queued").values(cancelled)
            # Queued means certainly not sent, so it ends here. An active run may be paid for: only its owner can tell.
            if (await transaction.connection.execute(queued)).rowcount == 0:
                active = (_row.id == invocation_id, _row.state.in_(ACTIVE))
                await transaction.connection.execute(update(invocations).where(*active).values(cancel_requested=True))
            transaction.changed.add(invocation_id)

        await self.database.write(work)

    async def cancel_queued(self) -> list[str]:
        """Cancel everything that is queued, and return the ids. Nothing that may have been sent is changed."""
        ids: list[str] = []
        while True:  # in blocks, because a database limits the parameters of a statement
            cancelled = await self.database.write(
                lambda transaction: _change_oldest(transaction, (IS_QUEUED,), CANCELLED.columns | _NOW, _READ_AT_ONCE)
            )
            if not cancelled:
                return ids
            ids += [record.id for record in cancelled]

    async def purge(self, retention: float) -> int:
        """Delete a block of what ended more than `retention` seconds ago, and leases that ended long ago.

        The longest retention of all processes of this ledger applies. Time goes by the database's clock, unless that
        is ahead of this process's: setting it forward by days under a running process deletes nothing early.

        Returns:
            the number of deleted invocations; 0 if nothing was left.
        """

        async def work(transaction: Transaction) -> int:
            longest = await self._leases.longest_retention(transaction.connection)
            kept = max(retention, retention if longest is None else longest)
            self._log_retention(retention, kept)
            now: float = await transaction.connection.scalar(select(db_now())) or 0.0
            cutoff = min(now, self._leases.latest_now) - kept
            ids = await _pick(transaction, (IS_ENDED, _row.updated_at < cutoff), _row.updated_at, _PURGED_AT_ONCE)
            if ids:
                await transaction.connection.execute(delete(pieces).where(pieces.c.invocation_id.in_(ids)))
                await transaction.connection.execute(delete(invocations).where(_row.id.in_(ids)))
            await self._leases.forget(transaction.connection)
            return len(ids)

        return await self.database.write(work)

    def _log_retention(self, own: float, kept: float) -> None:
        if kept != self._kept:
            self._kept = kept
            log.warning(
                "results are kept for %g h, the longest retention of all processes of this ledger; this one: %g h",
                kept / 3600,
                own / 3600,
            )

    def _mine(self, states: Iterable[str], *more: ColumnElement[bool]) -> Update:
        """Return an UPDATE of the invocation `the_id`, if this process owns it and it is in one of the states."""
        one = _row.id == bindparam("the_id")
        return update(invocations).where(one, _row.owner == self.worker, in_state(_row, states), *more)

    def _sent_by_me(self, states: Iterable[str], *more: ColumnElement[bool]) -> Update:
        """Return the same for one that this process has sent: also if the ledger was set back and calls it queued."""
        mine = and_(_row.owner == self.worker, in_state(_row, states))
        return update(invocations).where(_row.id == bindparam("the_id"), or_(mine, IS_QUEUED), *more)

    async def _change(
        self, invocation_id: str, wanted: Update, values: Mapping[str, object] | None = None, *, announce: bool = True
    ) -> bool:
        """Run an UPDATE of `_mine` or `_sent_by_me`, with these values too. False if its conditions do not hold."""
        parameters = {**(values or {}), "the_id": invocation_id}

        async def work(transaction: Transaction) -> bool:
            if (await transaction.connection.execute(wanted, parameters)).rowcount == 0:
                return False
            if announce:
                transaction.changed.add(invocation_id)
            return True

        return await self.database.write(work)


async def _change_oldest(
    transaction: Transaction,
    conditions: Sequence[ColumnElement[bool]],
    values: Mapping[str, object],
    limit: int | None = None,
) -> list[Record]:
    """Change up to `limit` rows that fulfil `conditions`, oldest first, skipping those that another process changes."""
    ids = await _pick(transaction, conditions, _row.created_at, limit)
    if not ids:
        return []
    changed = update(invocations).where(_row.id.in_(ids)).values(values).returning(*RECORD)
    rows = await transaction.connection.execute(changed)
    transaction.changed.update(ids)
    return sorted((Record(*row) for row in rows), key=lambda record: record.created_at)


async def _pick(
    transaction: Transaction, conditions: Sequence[ColumnElement[bool]], order: ColumnElement[float], limit: int | None
) -> list[str]:
    """Lock rows and return their ids. In one statement with the change, the planner may read the whole table."""
    query = select(_row.id).where(*conditions).order_by(order).limit(limit).with_for_update(skip_locked=True)
    return [row.id for row in await transaction.connection.execute(query)]
