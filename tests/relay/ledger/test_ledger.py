"""The ledger on both databases: queries independent of ended runs, starts abandoned by clients, set-backs, clocks."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import Pool

from litellm_openai_example.config import ConfigurationError
from litellm_openai_example.relay.ledger.database import Database
from litellm_openai_example.relay.ledger.failures import LedgerUnavailable
from litellm_openai_example.relay.ledger.records import Outcome
from litellm_openai_example.relay.ledger.schema import ACTIVE
from litellm_openai_example.relay.ledger.states import Ledger
from litellm_openai_example.relay.report import listed, spent

from ...fakes.postgresql import PostgreSQL
from .ledgers import fill, new, opened, run

FINISHED = 3000
FORGET_LEASE = "DELETE FROM relay_workers WHERE id = 'first'"
# A commit that accepts a run waits for advisory lock 7, which the test holds.
HELD_COMMIT = (
    "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER held AFTER INSERT ON relay_invocations DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION held()",
)


class Clock:
    """A settable clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_no_recurring_query_reads_ended_runs(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            await fill(ledger, FINISHED)
            asked: list[tuple[str, Any]] = []
            writer, reader = ledger.database.connections.writer, ledger.database.connections.reader
            for engine in (writer, reader):

                @event.listens_for(engine.sync_engine, "before_cursor_execute")
                def note(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
                    if re.match("SELECT|UPDATE|DELETE", statement) and "pg_catalog" not in statement and not many:
                        asked.append((statement, parameters))

            for name in "abcdef":
                await ledger.accept(new(name))
            await ledger.claim(2, blocks=False)
            await ledger.claim(2, blocks=True)
            await ledger.submitted("a", "resp_1")
            await ledger.requeue("b", 1.0, attempt=1)
            await ledger.leave_gate("b")
            for may in (False, True):
                await ledger.pending(may_declare_dead=may)
                await ledger.fail_orphans(may_declare_dead=may, limit=10)
                await ledger.reclaim(may_declare_dead=may, limit=10)
            await ledger.keep_followed({"a": 1.0})
            await ledger.owned()
            await ledger.cancel_requests()
            await ledger.request_cancel("a")
            await ledger.settle("c", Outcome("completed"))
            await ledger.heartbeat()
            await ledger.check()
            await ledger.get("a")
            await ledger.purge(FINISHED / 2)
            await ledger.unfinished()
            queries = [query for state in (None, "queued", *ACTIVE) for query in listed(state)]
            for query in (*queries, spent(time.time() - 60, postgresql=ledger.database.postgresql)):
                await ledger.database.read(partial(AsyncConnection.execute, statement=query))
            await ledger.leave()
            explain = "EXPLAIN " if ledger.database.postgresql else "EXPLAIN QUERY PLAN "
            assert len(asked) > 20
            async with reader.connect() as connection:
                for statement, parameters in list(asked):
                    rows = (await connection.exec_driver_sql(explain + statement, parameters)).all()
                    plan = "\n".join(str(row[-1]) for row in rows)
                    full = r"Seq Scan on relay_invocations|SCAN relay_invocations(?! USING (COVERING )?INDEX relay_inv)"
                    assert not re.search(full, plan), f"{statement}\n{plan}"

    run(work)


def test_a_start_takes_two_statements(database_url: str) -> None:
    """A replica among several commits few starts together, so each statement is dear. Announcing would be worse still:
    it wakes all replicas, and PostgreSQL commits only one announcing transaction at a time."""

    async def work() -> None:
        async with opened(database_url) as ledger:
            await ledger.accept(new("a"))
            executed: list[str] = []

            @event.listens_for(ledger.database.connections.writer.sync_engine, "before_cursor_execute")
            def note(_c: Any, _k: Any, statement: str, *_: Any) -> None:
                executed.append(statement.split()[0])

            await ledger.accept(new("b"))
            assert [word for word in executed if word != "BEGIN"] == ["SELECT", "INSERT"]

    run(work)


async def expire_lease(ledger: Ledger, clock: Clock) -> None:
    """Let the lease of a process run out, by either database's clock."""
    clock.now += 100
    expired = text("UPDATE relay_workers SET expires_at = expires_at - 100 WHERE id = :id")
    await ledger.database.run(lambda connection: connection.execute(expired, {"id": ledger.worker}))


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[None]:
    """Hold the lock that every change waits for, in another session."""
    database = Database(make_url(url), "other")
    try:
        async with database.connections.writer.connect() as connection:
            if database.postgresql:
                await connection.execute(text("LOCK TABLE relay_invocations IN ACCESS EXCLUSIVE MODE"))
            else:
                await connection.execute(text("UPDATE relay_workers SET id = id"))
            yield
            await connection.rollback()
    finally:
        await database.connections.dispose()


@asynccontextmanager
async def held_commits(url: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold the commits of accepts within the block; yield a function that waits for the first of them to begin."""
    database = Database(make_url(url), "other")
    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    try:
        async with database.connections.writer.connect() as connection:
            await connection.execute(text("SELECT pg_advisory_lock(7)"))

            async def begun() -> None:
                while not (await connection.execute(waiting)).scalar():
                    await asyncio.sleep(0.01)

            yield begun
            await connection.execute(text("SELECT pg_advisory_unlock(7)"))
    finally:
        await database.connections.dispose()


def test_no_cancellation_is_swallowed(sqlite_url: str) -> None:
    """Cancel at every step: a loop that survives its cancellation would delay the end of the process."""

    async def read(ledger: Ledger) -> None:
        while True:
            await ledger.owned()

    async def work() -> None:
        async with opened(sqlite_url) as ledger:
            for n in range(400):
                reading = asyncio.create_task(read(ledger))
                # Delays of 0 to 5 ms, so that the cancellations hit different steps of a read.
                await asyncio.sleep(n % 40 / 8000)
                reading.cancel()
                await asyncio.wait([reading], timeout=60)
                assert reading.cancelled()

    run(work)


def test_a_failed_start_is_not_accepted_later(database_url: str) -> None:
    """A client that gave up repeats the start, and both would be paid for."""

    async def work() -> None:
        async with opened(database_url) as ledger:
            async with locked(database_url):
                accepting = [asyncio.create_task(ledger.accept(new("before")))]
                await asyncio.sleep(0.2)  # its transaction waits for the lock
                # These two wait for the next batch; one is cancelled before it begins.
                accepting += [asyncio.create_task(ledger.accept(new(name))) for name in ("gone", "stays")]
                await asyncio.sleep(0.1)
                for task in accepting[:2]:
                    task.cancel()
                await asyncio.wait(accepting[:2])
            assert (await accepting[2]).id == "stays"
            assert list(await ledger.get_many(["before", "gone", "stays"])) == ["stays"]

    run(work)


def test_a_start_abandoned_during_its_commit_is_cancelled(postgresql: PostgreSQL) -> None:
    """A commit in progress cannot be undone, and without a key nobody would find the run."""

    async def work() -> None:
        url = postgresql.new_database()
        async with opened(url) as ledger:
            await ledger.database.run(lambda connection: [connection.execute(text(one)) for one in HELD_COMMIT])
            keyed = replace(new("keyed"), idempotency_hash="key")
            async with held_commits(url) as begun:
                accepting = [asyncio.create_task(ledger.accept(one)) for one in (new("keyless"), keyed)]
                await begun()
                for task in accepting:
                    task.cancel()
            await asyncio.wait(accepting)
            await ledger.accept(new("next"))
            # Nobody can find the keyless run again; the client of the other one may repeat its start under the key.
            states = {name: one.state for name, one in (await ledger.get_many(["keyless", "keyed", "next"])).items()}
            assert states == {"keyless": "cancelled", "keyed": "queued", "next": "queued"}
            assert (await ledger.accept(replace(keyed, id="again"))).id == "keyed"

    run(work)


def test_an_abandoned_start_delays_no_other(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other starts in the same commit were accepted: after an error their clients would repeat them."""

    async def work() -> None:
        url = postgresql.new_database()
        async with opened(url) as ledger:
            await ledger.database.run(lambda connection: [connection.execute(text(one)) for one in HELD_COMMIT])
            asked: list[str] = []

            async def away(invocation_id: str) -> None:
                asked.append(invocation_id)
                raise LedgerUnavailable

            monkeypatch.setattr(ledger, "request_cancel", away)
            async with held_commits(url) as begun:
                gone, stays = (asyncio.create_task(ledger.accept(new(name))) for name in ("gone", "stays"))
                await begun()
                gone.cancel()
            assert (await stays).id == "stays"
            while not asked:
                await asyncio.sleep(0)
            assert asked == ["gone"]

    run(work)


def test_an_abandoned_start_is_withdrawn_once_the_ledger_is_back(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        url = postgresql.new_database()
        async with opened(url) as ledger:
            await ledger.database.run(lambda connection: [connection.execute(text(one)) for one in HELD_COMMIT])
            request_cancel = ledger.request_cancel
            asked: list[str] = []

            async def away_twice(invocation_id: str) -> None:
                asked.append(invocation_id)
                if len(asked) < 3:
                    raise LedgerUnavailable
                await request_cancel(invocation_id)

            monkeypatch.setattr(ledger, "request_cancel", away_twice)
            async with held_commits(url) as begun:
                gone = asyncio.create_task(ledger.accept(new("gone")))
                await begun()
                gone.cancel()
            await asyncio.wait([gone])
            while [one.state for one in (await ledger.get_many(["gone"])).values()] != ["cancelled"]:
                await asyncio.sleep(0.05)
            assert asked == ["gone"] * 3

    run(work)


def test_followed_time_and_stop_reason_outlive_a_process(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url, "first") as first, opened(database_url, "second") as second:
            for name in "abc":
                await first.accept(new(name))
            await first.claim(3, blocks=False)
            for name in "ab":
                assert await first.submitted(name, f"resp_{name}")
            await first.keep_followed({"a": 12.5, "b": 1.0, "unknown": 3.0})
            assert await first.keep_wish("a", "research_timeout")
            assert await first.requeue("c", 0.0, attempt=1, followed=7.0)
            # A process cannot change the runs of another one.
            await second.keep_followed({"a": 99.0})
            assert not await second.keep_wish("b", "research_timeout")
            await first.leave({"b": 2.0})
            taken = {one.id: one for one in await second.reclaim(may_declare_dead=False, limit=9)}
            assert {name: (one.followed, one.stop_reason) for name, one in taken.items()} == {
                "a": (12.5, "research_timeout"),
                "b": (2.0, None),
            }
            assert [record.followed for record in await second.claim(1, blocks=False)] == [7.0]

    run(work)


@pytest.mark.parametrize(
    "lease", ["UPDATE relay_workers SET expires_at = expires_at - 0.5", "DELETE FROM relay_workers"]
)
def test_nothing_is_claimed_before_a_set_back_is_noticed(database_url: str, lease: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            await ledger.accept(new("a"))
            assert not await ledger.heartbeat()
            await ledger.database.run(lambda connection: connection.execute(text(lease)))
            assert await ledger.claim(1, blocks=False) == []
            assert await ledger.heartbeat()
            assert not await ledger.heartbeat()
            # The others first get the length of a lease to restore the runs that they sent.
            while not (claimed := await ledger.claim(1, blocks=False)):
                await asyncio.sleep(0.1)
                await ledger.heartbeat()
            assert len(claimed) == 1

    run(work)


@pytest.mark.parametrize("older", ["id = 'second'", "id <> 'third'", "true"])
def test_a_process_that_notices_a_set_back_makes_all_others_notice_once(database_url: str, older: str) -> None:
    async def work() -> None:
        async with (
            opened(database_url, "first") as first,
            opened(database_url, "second") as second,
            opened(database_url, "third") as third,
        ):
            all_three = (first, second, third)

            async def beat() -> list[bool]:
                # All heartbeats come first, so a process notified by another one notices in the next round, and once.
                noticed = await asyncio.gather(*(ledger.heartbeat() for ledger in all_three))
                await asyncio.gather(*(ledger.tell_others() for ledger in all_three))
                return list(noticed)

            assert await beat() == [False] * 3
            back = text(f"UPDATE relay_workers SET expires_at = expires_at - 600 WHERE {older}")
            await second.database.run(lambda connection: connection.execute(back))
            rounds = [await beat() for _ in range(3)]
            assert [any(noticed) for noticed in zip(*rounds, strict=True)] == [True] * 3
            assert await beat() == [False] * 3

    run(work)


def test_nothing_is_claimed_right_after_a_set_back_is_noticed(database_url: str) -> None:
    """By then the renewal has hidden the set-back: the lease looks fresh again."""

    async def work() -> None:
        async with opened(database_url) as ledger:
            await ledger.accept(new("a"))
            await ledger.heartbeat()
            back = text("UPDATE relay_workers SET expires_at = expires_at - 600")
            await ledger.database.run(lambda connection: connection.execute(back))
            noticed, *claimed = await asyncio.gather(
                ledger.heartbeat(), *(ledger.claim(1, blocks=False) for _ in range(3))
            )
            assert (noticed, claimed) == (True, [[], [], []])
            assert await ledger.claim(1, blocks=False) == []

    run(work)


def test_only_the_process_that_sent_a_run_restores_it(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url, "first") as first, opened(database_url, "second") as second:
            for name in "abc":
                await first.accept(new(name))
            assert await first.restore("a", "resp_a")
            assert await first.restore("b", None)
            assert not await second.restore("a", "resp_other")
            assert await second.claim(9, blocks=False)
            assert not await first.restore("c", "resp_c")
            found = await first.get_many(list("abc"))
            assert [(one.state, one.owner, one.upstream_id) for one in (found[name] for name in "abc")] == [
                ("running", "first", "resp_a"),
                ("awaiting", "first", None),
                ("submitting", "second", None),
            ]

    run(work)


def test_a_purge_deletes_one_block_at_a_time(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            await fill(ledger, 500)
            deleted: list[int] = []
            while not deleted or deleted[-1]:
                deleted.append(await ledger.purge(-10.0))
            assert max(deleted) <= 200
            assert sum(deleted) == 500

    run(work)


def test_a_take_over_obeys_its_limit(database_url: str) -> None:
    async def work() -> None:
        clock = Clock()
        at = partial(opened, database_url, clock=clock)
        async with at("first") as first, at("second") as second:
            for n in range(27):
                await first.accept(new(f"i{n}"))
            claimed = await first.claim(27, blocks=False)
            for record in claimed[:9]:
                await first.submitted(record.id, "resp_" + record.id)
            for record in claimed[9:18]:
                await first.commit_intent(record.id)
            await expire_lease(first, clock)
            await second.heartbeat()
            for take in (second.reclaim, second.fail_orphans, second.requeue_orphans):
                taken = [len(await take(may_declare_dead=True, limit=limit)) for limit in (4, 9, 9)]
                assert taken == [4, 5, 0]

    run(work)


def test_an_owner_without_a_lease_is_dead(database_url: str) -> None:
    """Found by a look at all active runs, which is taken only now and then; the steps after it must know of it too."""

    async def work() -> None:
        async with opened(database_url, "first") as first, opened(database_url, "second") as second:
            for name in "ab":
                await first.accept(new(name))
            await first.claim(2, blocks=False)
            await first.submitted("a", "resp_a")
            await first.commit_intent("b")
            await first.database.run(lambda connection: connection.execute(text(FORGET_LEASE)))
            assert await second.pending(may_declare_dead=True) == (False, True)
            assert [one.id for one in await second.fail_orphans(may_declare_dead=True, limit=9)] == ["b"]
            await first.heartbeat()  # it lives
            assert await second.reclaim(may_declare_dead=True, limit=9) == []

    run(work)


@pytest.mark.parametrize("keep", [Ledger.keep_followed, Ledger.hand_over, Ledger.leave])
def test_the_followed_time_of_all_runs_takes_one_statement(
    database_url: str, keep: Callable[[Ledger, dict[str, float]], Awaitable[None]]
) -> None:
    """A transaction with a statement for each of thousands of runs would hold up all starts."""

    async def work() -> None:
        executed = [0, 0]
        for n, runs in enumerate((1, 20)):
            async with opened(database_url, f"worker{n}") as ledger:
                for i in range(runs):
                    await ledger.accept(new(f"i{n}_{i}"))
                    await ledger.claim(1, blocks=False)
                    await ledger.submitted(f"i{n}_{i}", "resp")

                @event.listens_for(ledger.database.connections.writer.sync_engine, "before_cursor_execute")
                def count(_c: Any, _k: Any, _s: str, parameters: Any, _x: Any, many: bool, n: int = n) -> None:
                    executed[n] += len(parameters) if many else 1

                await keep(ledger, {f"i{n}_{i}": 0.5 + i for i in range(runs)})
                records = await ledger.get_many([f"i{n}_{i}" for i in range(runs)])
                assert {id: one.followed for id, one in records.items()} == {f"i{n}_{i}": 0.5 + i for i in range(runs)}
        assert executed[0] == executed[1]

    run(work)


def test_nothing_is_claimed_without_a_lease(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            await ledger.accept(new("a"))
            await ledger.leave()
            assert await ledger.claim(1, blocks=False) == []
            await ledger.heartbeat()
            assert [record.id for record in await ledger.claim(1, blocks=False)] == ["a"]

    run(work)


def test_a_process_never_declares_itself_dead(tmp_path: Path) -> None:
    """However late its heartbeat: on a starved machine it would fail its own submissions."""

    async def work() -> None:
        clock = Clock()
        url = f"sqlite+aiosqlite:///{tmp_path}/ledger.sqlite3"
        async with opened(url, clock=clock) as ledger, opened(url, "other", clock=clock) as other:
            await ledger.accept(new("a"))
            await ledger.claim(1, blocks=False)
            assert await ledger.commit_intent("a")
            clock.now += 100
            await other.heartbeat()
            assert await ledger.pending(may_declare_dead=True) == (False, False)
            assert await ledger.fail_orphans(may_declare_dead=True, limit=9) == []
            assert [record.id for record in await other.fail_orphans(may_declare_dead=True, limit=9)] == ["a"]

    run(work)


def test_a_repeated_requeue_leaves_the_next_attempt_alone(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            await ledger.accept(new("a"))
            await ledger.claim(1, blocks=False)
            assert await ledger.requeue("a", 0.0, attempt=1)
            assert len(await ledger.claim(1, blocks=False)) == 1
            assert not await ledger.requeue("a", 0.0, attempt=1)
            assert await ledger.owned() == ["a"]

    run(work)


class TestClockSteps:
    """Steps of the machine's clock on SQLite, while relays run and after one has died."""

    @pytest.fixture
    def wall(self) -> Iterator[Clock]:
        wall = Clock()
        wall.now = time.time()

        def set_clock(connection: Any, _: object) -> None:
            connection.create_function("julianday", 1, lambda _: wall.now / 86400 + 2440587.5)

        event.listen(Pool, "connect", set_clock)
        yield wall
        event.remove(Pool, "connect", set_clock)

    @pytest.mark.parametrize("step", [3600.0, -3600.0])
    def test_a_living_relay_keeps_its_runs(self, sqlite_url: str, wall: Clock, step: float) -> None:
        async def work() -> None:
            clock = Clock()
            async with opened(sqlite_url, "a", clock=clock) as first, opened(sqlite_url, "b", clock=clock) as second:
                await first.accept(new("i"))
                await first.claim(1, blocks=False)
                wall.now += step
                assert await second.pending(may_declare_dead=True) == (False, False)
                assert await second.fail_orphans(may_declare_dead=True, limit=9) == []
                assert await first.submitted("i", "resp_1")

        run(work)

    @pytest.mark.parametrize("step", [3600.0, -3600.0])
    def test_the_runs_of_a_dead_relay_are_reclaimed(self, sqlite_url: str, wall: Clock, step: float) -> None:
        async def work() -> None:
            clock = Clock()
            async with opened(sqlite_url, "a", clock=clock) as first, opened(sqlite_url, "b", clock=clock) as second:
                for name in "ij":
                    await first.accept(new(name))
                await first.claim(1, blocks=False)
                await first.submitted("i", "resp_1")
                wall.now += step
                clock.now += 7.0
                await second.heartbeat()
                assert await second.pending(may_declare_dead=True) == (True, True)
                assert [record.id for record in await second.reclaim(may_declare_dead=True, limit=5)] == ["i"]
                assert [record.id for record in await second.claim(1, blocks=False)] == ["j"]

        run(work)

    def test_a_clock_set_forward_deletes_no_result(self, sqlite_url: str, wall: Clock) -> None:
        async def work() -> None:
            clock = Clock()
            async with opened(sqlite_url, clock=clock) as ledger:
                await ledger.accept(new("i"))
                await ledger.claim(1, blocks=False)
                await ledger.settle("i", Outcome("completed"))
                wall.now += 4 * 86400
                assert await ledger.purge(3 * 86400.0) == 0
                clock.now += 4 * 86400
                assert await ledger.purge(3 * 86400.0) == 1

        run(work)

    def test_after_a_reboot(self, sqlite_url: str, wall: Clock) -> None:
        async def work() -> None:
            old, now = Clock(), Clock()
            now.now = 5.0
            async with opened(sqlite_url, "a", clock=old) as first, opened(sqlite_url, "b", clock=now) as second:
                await first.accept(new("i"))
                await first.claim(1, blocks=False)
                assert (await second.pending(may_declare_dead=True))[1]

        run(work)

    def test_a_clock_set_back_does_not_delay_a_retry_by_an_hour(self, sqlite_url: str, wall: Clock) -> None:
        async def work() -> None:
            async with opened(sqlite_url) as ledger:
                await ledger.accept(new("i"))
                await ledger.claim(1, blocks=False)
                await ledger.requeue("i", 5.0, attempt=1)
                assert await ledger.claim(1, blocks=False) == []
                wall.now -= 3600
                assert len(await ledger.claim(1, blocks=False)) == 1

        run(work)


class TestFile:
    """SQLite's file, deleted, replaced or locked while it is open."""

    def test_deleted(self, sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
        path = Path(sqlite_url.removeprefix("sqlite+aiosqlite:///"))

        async def work() -> None:
            async with opened(sqlite_url) as ledger:
                await ledger.accept(new("a"))
                backup = path.with_suffix(".backup")
                with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
                    source.backup(target)
                for end in ("", "-wal", "-shm"):
                    Path(f"{path}{end}").unlink(missing_ok=True)
                with pytest.raises(LedgerUnavailable):
                    await ledger.accept(new("b"))
                with pytest.raises(LedgerUnavailable):
                    await ledger.check()
                assert not path.exists()
                shutil.move(backup, path)
                await ledger.check()
                assert await ledger.get("a") is not None
                await ledger.accept(new("c"))

        run(work)
        said = [record.getMessage() for record in caplog.records if "ledger" in record.getMessage()]
        assert len(said) == 2
        assert "again" in said[1]

    def test_read_only(self, sqlite_url: str) -> None:
        async def work() -> None:
            async with opened(sqlite_url) as ledger:
                await ledger.accept(new("a"))
                await ledger.database.write(lambda t: t.connection.execute(text("PRAGMA query_only=1")))
                await ledger.check()  # another connection is taken

        run(work)

    def test_locked(self, sqlite_url: str) -> None:
        async def work() -> None:
            async with opened(sqlite_url) as ledger:
                await asyncio.sleep(0.6)
                holder = sqlite3.connect(sqlite_url.removeprefix("sqlite+aiosqlite:///"), isolation_level=None)
                holder.execute("BEGIN IMMEDIATE")
                with pytest.raises(LedgerUnavailable):  # while the lock is held
                    await ledger.check()
                holder.execute("ROLLBACK")
                holder.close()
                async with asyncio.timeout(60):
                    while True:
                        try:
                            return await ledger.check()
                        except LedgerUnavailable:
                            await asyncio.sleep(0.1)

        run(work)

    @pytest.mark.parametrize(
        ("content", "words"), [(b"no database, but long enough to be read as one" * 9, "not a SQLite database")]
    )
    def test_replaced_by_garbage(self, sqlite_url: str, content: bytes, words: str) -> None:
        Path(sqlite_url.removeprefix("sqlite+aiosqlite:///")).write_bytes(content)

        async def work() -> None:
            async with opened(sqlite_url):
                pass

        with pytest.raises(ConfigurationError, match=words):
            run(work)

    def test_replaced_by_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="directory"):
            Database(make_url(f"sqlite+aiosqlite:///{tmp_path}"), "me")
