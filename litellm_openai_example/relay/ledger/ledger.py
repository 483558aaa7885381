"""The ledger: what was promised to clients, as a state machine in SQL.

Every change of state is one conditional UPDATE: any number of processes may share the ledger, the first one
whose condition holds has made it, the others change nothing and see so.

=============  ===============  ====================================================  ==================
from           to               when                                                  method
=============  ===============  ====================================================  ==================
(nothing)      queued           accepted                                              accept
queued         submitting       a process is going to submit it                       claim
queued         awaiting         the same, for a model known to answer at the end      claim
submitting     awaiting         no answer for a few seconds                           leave_gate
in flight      queued           certainly not sent; tried again later                 requeue
in flight      queued           its process died before it was sent                   requeue_orphans
in flight      running          the gateway gave its id                               submitted
in flight      failed           its process died: whether it was paid is unknown      fail_orphans
running        running          its process died or stopped: another owner            reclaim
active         completed        settled by the gateway's answer                       settle
active         incomplete       the same                                              settle
active         failed           the same, or refused, or out of time                  settle
active         cancelled        the same, or on request                               settle
queued         cancelled        on request                                            request_cancel
queued         active           the ledger was set back; its process says so          restore, submitted
queued         (ended)          the same                                              settle
=============  ===============  ====================================================  ==================

In flight is submitting or awaiting; active is that or running. Active rows have an owner: the process that has a
lease in `relay_workers`. Readers see submitting as queued and awaiting as running. Ended rows never change again (but
for the gateway's id of a submission that was answered too late, see `answered_late`), and are deleted when they are
old.

A wish to stop an active row is `cancel_requested` (a client's) or `stop_reason` (the relay's). It stays until the row
ends, for whichever process owns the row by then.

A submission may have been executed once its intent is committed, in the last moment before it is sent (commit_intent).
Until then its row is marked `unsent`, and nothing is lost with its process.

Longer than other files: the table and the methods that it names are one thing, and are read side by side. What an
UPDATE is stands in `changes`, who lives in `leases`, what is asked of the database in `database`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, Update, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from ...config import ConfigurationError
from ..log import log
from .acceptance import RECORDS_BY_ID, insert_new
from .batch import Batch
from .changes import NOW, REQUEUED, change, pick, settled
from .database import Database, Transaction
from .failures import LedgerUnavailable, why_not_opened
from .leases import Leases, Renewal
from .records import NewInvocation, Outcome, Piece, Record
from .schema import ACTIVE, IS_ACTIVE, IS_ENDED, IS_QUEUED, db_now, in_state, invocations, pieces, prepare, workers
from .schema import IN_FLIGHT as IN_FLIGHT
from .tokens import Tokens

INDETERMINATE = Outcome("failed", "submission_indeterminate")
CANCELLED = Outcome("cancelled", "cancelled_by_client")
_PURGED_AT_ONCE = 200
_ACCEPTED_AT_ONCE = 200
_READ_AT_ONCE = 500
_LONGEST_DELAY = 600.0  # a later `not_before` was written before the clock was set back
_PROBE = 1.5
_PROOF = 2**14  # characters: a question, and what its indexes need
_LARGEST_PROOF = 2**20  # the longest body of a start
_WITHDRAW_AGAIN, _WITHDRAW_SELDOM = 0.5, 15.0

_row = invocations.c
_DUE = (IS_QUEUED, or_(_row.not_before <= db_now(), _row.not_before > db_now() + _LONGEST_DELAY))
IS_IN_FLIGHT = and_(IS_ACTIVE, in_state(_row, IN_FLIGHT))
_LOST = settled(INDETERMINATE) | NOW
_FOLLOWED = and_(IS_ACTIVE, in_state(_row, ["running"]))


class Ledger:
    """The invocations in one database, as one process sees and changes them.

    Args:
        database: not started yet.
        worker: the name of this process, never used before.
        lease: seconds that this process may be silent before others take its work.
        max_queued: invocations that may wait to be submitted.
        retention: seconds for which ended invocations are kept, unless another process keeps them longer.
        clock: seconds, the same for all processes of this machine, never set; `time.monotonic` by default.
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
    ) -> None:
        self.database = database
        self.worker = worker
        clock = clock or time.monotonic
        self._leases = Leases(worker, lease, clock, postgresql=database.postgresql, retention=retention)
        self._max_queued = max_queued
        self._retention = retention
        self._kept = retention  # what holds, as the log knows it
        self._older_alive = True  # until a heartbeat has looked
        self._wanted: set[str] = set()  # the invocations that somebody waits to have accepted
        self._withdrawing: set[asyncio.Task[None]] = set()
        self._accepting = Batch(self._accept, largest=_ACCEPTED_AT_ONCE)
        self._getting = Batch(self._get, largest=_READ_AT_ONCE)
        # What every run goes through is put together once: SQLAlchemy takes longer for it than the database.
        self._to_sent = self._mine(IN_FLIGHT, self._leases.held).values(unsent=None)
        self._to_running = self._sent_by_me((*IN_FLIGHT, "running")).values(NOW | {"owner": worker, "unsent": None})
        self._to_end = self._sent_by_me(ACTIVE).values(NOW)

    async def open(self) -> None:
        """Create or check the tables. Raises ConfigurationError in words for a person; no connection is left then."""
        try:
            self.tokens = Tokens(await self.database.run(prepare))
        except Exception as error:
            await self.database.close()
            if isinstance(error, DBAPIError | PoolTimeout | OSError):
                raise ConfigurationError(f"the ledger cannot be opened: {why_not_opened(error)}") from None
            raise
        self.database.start()

    async def check(self) -> None:
        """Raise LedgerUnavailable unless a start could be written now; answer in two seconds, whatever is wrong."""
        await self.database.check(self._prove, _PROBE)

    async def _prove(self, transaction: Transaction) -> None:
        """Change all tables that work depends on, and write as much as a start does.

        A change of no row needs no room on the disk. After a write has failed, the largest start is what has to go:
        smaller ones may well succeed in what room is left.
        """
        size = _LARGEST_PROOF if self.database.away else _PROOF
        mine = update(workers).where(workers.c.id == self.worker)
        await transaction.connection.execute(mine.values(proof=secrets.token_hex(size // 2)))
        await transaction.connection.execute(update(invocations).where(_row.id == "").values(id=_row.id))

    async def accept(self, new: NewInvocation) -> Record:
        """Write an invocation down, or find the one that was accepted under its idempotency key.

        Its token is hashed only if no process of an older version lives, which could not check it.

        Cancelling it calls it back: whoever was told that it failed asks again, and both would be paid for. Once its
        commit is under way, one with a key stays, to be found by the repeat; one without is cancelled after it.

        Raises:
            QueueFull, IdempotencyConflict, LedgerUnavailable
        """
        if self._older_alive:
            new = replace(new, token_hash=None)
        self._wanted.add(new.id)
        try:
            return await self._accepting(new)
        finally:
            self._wanted.discard(new.id)

    async def _accept(self, asked: Sequence[NewInvocation]) -> list[Record | Exception]:
        async def work(transaction: Transaction) -> dict[str, Record | Exception]:
            wanted = [new for new in asked if new.id in self._wanted]
            transaction.conditions.append(lambda: self._wanted.issuperset(new.id for new in wanted))
            answers = await insert_new(transaction, wanted, self._max_queued)
            return {new.id: answer for new, answer in zip(wanted, answers, strict=True)}

        answers = await self.database.write(work)
        for new in asked:
            if new.id in answers and new.id not in self._wanted and new.idempotency_hash is None:
                # Beside all else: the others of its commit were accepted, and are told so at once.
                task = asyncio.create_task(self._withdraw(new.id))
                self._withdrawing.add(task)
                task.add_done_callback(self._withdrawing.discard)
        return [answers.get(new.id) or LedgerUnavailable() for new in asked]

    async def _withdraw(self, invocation_id: str) -> None:
        pause = _WITHDRAW_AGAIN
        while True:
            try:
                return await self.request_cancel(invocation_id)
            except Exception as error:
                if pause == _WITHDRAW_AGAIN:
                    log.warning(
                        "%s: its client was told that the start failed, and it cannot be withdrawn (%s); tried again",
                        invocation_id,
                        type(error).__name__,
                    )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _WITHDRAW_SELDOM)

    # Reading

    async def get(self, invocation_id: str) -> Record | None:
        """The record of an id, None if there is none. Raises LedgerUnavailable."""
        return await self._getting(invocation_id)

    async def _get(self, ids: Sequence[str]) -> list[Record | None]:
        records = await self.get_many(ids)
        return [records.get(one) for one in ids]

    async def get_many(self, ids: Sequence[str]) -> dict[str, Record]:
        rows = await self.database.read(lambda connection: connection.execute(RECORDS_BY_ID, {"ids": ids}))
        return {row.id: Record(*row) for row in rows}

    async def pieces(self, invocation_id: str, after: int = 0) -> list[Piece]:
        """Streamed text, from the piece that follows the `after`-th."""
        query = (
            select(pieces.c.seq, pieces.c.start, pieces.c.text)
            .where(pieces.c.invocation_id == invocation_id, pieces.c.seq > after)
            .order_by(pieces.c.seq)
        )
        rows = await self.database.read(lambda connection: connection.execute(query))
        return [Piece(*row) for row in rows]

    async def pending(self, *, may_declare_dead: bool) -> tuple[bool, bool]:
        """Whether there is something to claim, and whether there is work that nobody does.

        With `may_declare_dead`, a process whose lease is over counts as dead.
        """

        async def work(connection: AsyncConnection) -> tuple[bool, bool]:
            queued = select(_row.id).where(*_DUE).exists()
            orphan = await self._leases.is_orphan(connection, may_declare_dead=may_declare_dead)
            orphaned = select(_row.id).where(IS_ACTIVE, orphan).exists()
            row = (await connection.execute(select(queued, orphaned))).one()
            return bool(row[0]), bool(row[1])

        return await self.database.read(work)

    async def owned(self, *conditions: ColumnElement[bool]) -> list[str]:
        """The invocations that are this process's, as the ledger has it; those alone that fulfil `conditions`."""
        query = select(_row.id).where(IS_ACTIVE, _row.owner == self.worker, *conditions)
        return [row.id for row in await self.database.read(lambda connection: connection.execute(query))]

    async def cancel_requests(self) -> list[str]:
        """Invocations of this process that somebody wants cancelled."""
        return await self.owned(_row.cancel_requested)

    # Leases, and what dead processes have left

    async def heartbeat(self) -> bool:
        """Renew this process's lease; look whether a ledger that was away takes starts again.

        Returns:
            whether the ledger may have been set back since the last time.
        """

        async def work(transaction: Transaction) -> tuple[Renewal, float | None]:
            renewed = await self._leases.renew(transaction.connection)
            if self._older_alive:
                self._older_alive = await self._leases.is_older_alive(transaction.connection)
            return renewed, await self._leases.longest_retention(transaction.connection)

        renewal, longest = await self.database.write(work)
        set_back = self._leases.renewed(renewal)
        if self._retention is not None and longest is not None:
            self._say_retention(self._retention, longest)
        if self.database.away:
            self.database.probe(self._prove)
        return set_back

    async def tell_others(self) -> None:
        """Tell all other processes of the ledger if this one has found it set back. Raises LedgerUnavailable."""
        if self._leases.untold:
            await self.database.write(lambda transaction: self._leases.tell_others(transaction.connection))
            self._leases.untold = False

    async def reclaim(self, *, may_declare_dead: bool, limit: int) -> list[Record]:
        """Make up to `limit` orphaned running invocations this process's own."""
        return await self._change_orphans(_FOLLOWED, {"owner": self.worker}, may_declare_dead, limit)

    async def requeue_orphans(self, *, may_declare_dead: bool) -> list[Record]:
        """Give back to the queue what processes that have died had claimed, but not sent."""
        return await self._change_orphans(IS_IN_FLIGHT & _row.unsent.is_(True), REQUEUED, may_declare_dead)

    async def fail_orphans(self, *, may_declare_dead: bool) -> list[Record]:
        """Fail the submissions in flight of processes that have died."""
        return await self._change_orphans(IS_IN_FLIGHT & _row.unsent.is_not(True), _LOST, may_declare_dead)

    async def _change_orphans(
        self, which: ColumnElement[bool], values: Mapping[str, object], may_declare_dead: bool, limit: int | None = None
    ) -> list[Record]:
        async def work(transaction: Transaction) -> list[Record]:
            orphan = await self._leases.is_orphan(transaction.connection, may_declare_dead=may_declare_dead)
            return await change(transaction, (which, orphan, self._leases.held), values, limit)

        return await self.database.write(work)

    async def leave(self, followed: Mapping[str, float] | None = None) -> None:
        """This process stops: others may take over its work at once. `followed` as for `keep_followed`."""
        mine = _row.owner == self.worker

        async def work(transaction: Transaction) -> None:
            if followed:
                await transaction.connection.execute(*self._followed(followed))
            await change(transaction, (mine, IS_IN_FLIGHT, _row.unsent.is_(True)), REQUEUED)
            await change(transaction, (mine, IS_IN_FLIGHT), _LOST)
            await transaction.connection.execute(update(invocations).where(mine, _FOLLOWED).values(owner=None))
            await self._leases.end(transaction.connection)

        await self.database.write(work)

    # Submitting

    async def claim(self, limit: int, *, blocks: bool) -> list[Record]:
        """Make up to `limit` queued invocations this process's own, to be submitted."""
        values = {
            "state": "awaiting" if blocks else "submitting",
            "unsent": True,
            "owner": self.worker,
            "attempts": _row.attempts + 1,
            "started_at": func.coalesce(_row.started_at, db_now()),
            **NOW,
        }
        wanted = (*_DUE, self._leases.held)
        return await self.database.write(lambda transaction: change(transaction, wanted, values, limit))

    async def requeue(
        self, invocation_id: str, delay: float, *, attempt: int | None = None, followed: float | None = None
    ) -> bool:
        """The `attempt`-th (from 1) was certainly not sent: try again in `delay` seconds, 300 at most.

        Repeating it does nothing once another attempt was claimed. `followed` is in seconds, the delay among them.
        """
        values = REQUEUED | {"not_before": db_now() + min(delay, _LONGEST_DELAY / 2)}
        if followed is not None:
            values["followed"] = followed
        this_one = () if attempt is None else (_row.attempts == attempt,)
        return await self._change(invocation_id, self._mine(IN_FLIGHT, *this_one).values(values))

    async def commit_intent(self, invocation_id: str) -> bool:
        """From here on it may have been sent. False, and it must not be, if it is no longer this process's."""
        # Nobody sees a change, so nobody is told; and a commit whose answer was lost may be repeated.
        return await self._change(invocation_id, self._to_sent, tell=False)

    async def leave_gate(self, invocation_id: str) -> bool:
        return await self._change(invocation_id, self._mine(("submitting",)).values({"state": "awaiting", **NOW}))

    async def submitted(self, invocation_id: str, upstream_id: str) -> bool:
        """Keep the gateway's id. False if the invocation is no longer this process's."""
        return await self._change(invocation_id, self._to_running, {"state": "running", "upstream_id": upstream_id})

    async def restore(self, invocation_id: str, upstream_id: str | None) -> bool:
        """Say again what a ledger that was set back has forgotten: this process has sent it.

        Args:
            upstream_id: the gateway's id, None if it has not answered.

        Returns:
            False if the ledger knows better.
        """
        wanted = self._sent_by_me(IN_FLIGHT, self._leases.there)
        values = {"state": "awaiting" if upstream_id is None else "running", "upstream_id": upstream_id}
        return await self._change(invocation_id, wanted.values(values | {"owner": self.worker, "unsent": None, **NOW}))

    async def answered_late(self, invocation_id: str, upstream_id: str) -> None:
        """Keep the gateway's id of a submission that was answered after it had been called indeterminate."""
        given_up = (_row.state == INDETERMINATE.state, _row.error_code == INDETERMINATE.error_code)
        wanted = update(invocations).where(_row.id == bindparam("the_id"), *given_up, _row.upstream_id.is_(None))
        await self._change(invocation_id, wanted.values(upstream_id=upstream_id))

    # Running and ending

    async def keep_followed(self, seconds: Mapping[str, float]) -> None:
        """Keep for how many seconds each of this process's invocations has been followed."""
        if seconds:
            await self.database.write(lambda transaction: transaction.connection.execute(*self._followed(seconds)))

    def _followed(self, seconds: Mapping[str, float]) -> tuple[Update, list[dict[str, object]]]:
        wanted = self._mine(ACTIVE).values(followed=bindparam("seconds"))
        return wanted, [{"the_id": one, "seconds": each} for one, each in seconds.items()]

    async def keep_wish(self, invocation_id: str, reason: str) -> bool:
        """Keep that it is to be stopped, and why (an error code). False if it is no longer this process's."""
        return await self._change(invocation_id, self._mine(["running"]).values(stop_reason=reason), tell=False)

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
        return await self._change(invocation_id, self._to_end, settled(outcome) | upstream)

    async def request_cancel(self, invocation_id: str) -> None:
        """Cancel an invocation that is queued; ask the owner of one that runs to do it."""

        async def work(transaction: Transaction) -> None:
            cancelled = settled(CANCELLED) | NOW
            queued = update(invocations).where(_row.id == invocation_id, _row.state == "queued").values(cancelled)
            if (await transaction.connection.execute(queued)).rowcount == 0:
                active = (_row.id == invocation_id, _row.state.in_(ACTIVE))
                await transaction.connection.execute(update(invocations).where(*active).values(cancel_requested=True))
            transaction.changed.add(invocation_id)

        await self.database.write(work)

    async def purge(self, retention: float) -> int:
        """Delete what ended more than `retention` seconds ago, a block of it, and leases that are long over.

        The longest of the times that the processes of this ledger were told holds. The database's clock counts, but
        cannot get ahead of this process's: set forward by days under a running process, it deletes nothing early.

        Returns:
            how many were deleted: 0 if nothing was left.
        """

        async def work(transaction: Transaction) -> int:
            longest = await self._leases.longest_retention(transaction.connection)
            held = max(retention, retention if longest is None else longest)
            self._say_retention(retention, held)
            now: float = await transaction.connection.scalar(select(db_now())) or 0.0
            cutoff = min(now, self._leases.latest_now) - held
            ids = await pick(transaction, (IS_ENDED, _row.updated_at < cutoff), _row.updated_at, _PURGED_AT_ONCE)
            if ids:
                await transaction.connection.execute(delete(pieces).where(pieces.c.invocation_id.in_(ids)))
                await transaction.connection.execute(delete(invocations).where(_row.id.in_(ids)))
            await self._leases.forget(transaction.connection)
            return len(ids)

        return await self.database.write(work)

    def _say_retention(self, own: float, held: float) -> None:
        if held != self._kept:
            self._kept = held
            log.warning(
                "results are kept for %g h, the longest time that a process of this ledger was told; this one: %g h",
                held / 3600,
                own / 3600,
            )

    def _mine(self, states: Iterable[str], *more: ColumnElement[bool]) -> Update:
        """A change of the invocation `the_id`, if it is this process's and in one of these states."""
        one = _row.id == bindparam("the_id")
        return update(invocations).where(one, _row.owner == self.worker, in_state(_row, states), *more)

    def _sent_by_me(self, states: Iterable[str], *more: ColumnElement[bool]) -> Update:
        """The same of one that this process has sent, also if the ledger was set back and calls it queued."""
        mine = and_(_row.owner == self.worker, in_state(_row, states))
        return update(invocations).where(_row.id == bindparam("the_id"), or_(mine, IS_QUEUED), *more)

    async def _change(
        self, invocation_id: str, wanted: Update, values: Mapping[str, object] | None = None, *, tell: bool = True
    ) -> bool:
        """Make a change of `_mine`, of these values too. False if nothing fulfilled its conditions."""
        parameters = {**(values or {}), "the_id": invocation_id}

        async def work(transaction: Transaction) -> bool:
            if (await transaction.connection.execute(wanted, parameters)).rowcount == 0:
                return False
            if tell:
                transaction.changed.add(invocation_id)
            return True

        return await self.database.write(work)
