"""A ledger set back under running relays: a restored backup, a standby that had not caught up.

Runs in flight become indeterminate, or are restored from a process's memory; they are never sent twice.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import Any

import psutil
import psycopg
import pytest

from ..fakes.gateway import Fault, Gateway
from ..fakes.postgresql import PostgreSQL
from ..fakes.scripted import eventually
from .conftest import StartRelay
from .running import FAST, ThreadedRelay, environment, finished, relay_process

QUEUED = "state = 'queued', owner = NULL, unsent = NULL, upstream_id = NULL"
CLAIMED = "state = 'submitting', unsent = 1, upstream_id = NULL"
SENT = "state = 'submitting', unsent = NULL, upstream_id = NULL"
AWAITING = "state = 'awaiting', unsent = NULL, upstream_id = NULL"
PATIENT = replace(FAST, lease=6.0)  # seconds; a relay that a busy machine stalls for as long counts as dead
UNENDED = "output_text = NULL, response = NULL, error_code = NULL"


class Ledger:
    """A relay's SQLite file, changed directly while the relay runs."""

    def __init__(self, relay: ThreadedRelay) -> None:
        self._path = str(relay.settings.database_url.database)

    def set_back(self, to: str, *, owner: str | None = None) -> None:
        """Overwrite columns of all rows, and their owner if one is given."""
        owned = f", owner = '{owner}'" if owner else ""
        with closing(sqlite3.connect(self._path, timeout=60)) as ledger, ledger:
            assert ledger.execute(f"UPDATE relay_invocations SET {to}{owned}").rowcount >= 1

    def set_leases_back(self, to: str, leases: str = "true") -> None:
        """Age the leases, all or some, as in an earlier backup."""
        with closing(sqlite3.connect(self._path, timeout=60)) as ledger, ledger:
            ledger.execute(f"UPDATE relay_invocations SET {to}")
            ledger.execute(
                f"UPDATE relay_workers SET expires_at = expires_at - 600, ticks = ticks - 600 WHERE {leases}"
            )

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path, timeout=60)) as ledger:
            return ledger.execute(f"SELECT {', '.join(columns)} FROM relay_invocations").fetchall()


def me(relay: ThreadedRelay) -> str:
    return relay.relay.ledger.worker


class TestWhileItRuns:
    @pytest.mark.parametrize("to", [QUEUED, CLAIMED, SENT], ids=["queued", "claimed", "sent"])
    def test_the_upstream_id_is_restored(self, relay: ThreadedRelay, upstream: Gateway, to: str) -> None:
        upstream.seconds = 3600.0
        started = relay.api.start()
        relay.api.submitted(started)
        ledger = Ledger(relay)
        ledger.set_back(to)
        assert eventually(lambda: ledger.rows("state", "upstream_id") == [("running", "resp_0")])
        finish(upstream)
        view = relay.api.wait(started)
        assert (view["status"], view["upstream_response_id"]) == ("completed", "resp_0")
        assert len(upstream.posts) == 1

    @pytest.mark.parametrize("to", [QUEUED, CLAIMED], ids=["queued", "claimed"])
    def test_a_run_awaiting_its_answer_is_completed(self, relay: ThreadedRelay, upstream: Gateway, to: str) -> None:
        upstream.accept = 3.0
        started = relay.api.start()
        assert eventually(lambda: upstream.posts)
        Ledger(relay).set_back(to)
        assert relay.api.wait(started)["status"] == "completed"
        assert len(upstream.posts) == 1

    @pytest.mark.parametrize("to", [QUEUED, CLAIMED], ids=["queued", "claimed"])
    def test_a_run_of_a_blocking_model_is_completed(self, relay: ThreadedRelay, upstream: Gateway, to: str) -> None:
        upstream.bridged, upstream.seconds = True, 3.0
        started = relay.api.start()
        assert eventually(lambda: upstream.posts)
        Ledger(relay).set_back(to)
        assert relay.api.wait(started)["status"] == "completed"
        assert len(upstream.posts) == 1

    def test_a_run_survives_a_later_kill(self, sqlite_url: str, upstream: Gateway) -> None:
        """By the time of the kill the ledger knows the upstream id again, or at least that the run was sent."""
        upstream.seconds = 3600.0
        env = environment(sqlite_url, upstream)
        path = sqlite_url.removeprefix("sqlite+aiosqlite:///")
        with relay_process(env) as relay:
            started = relay.api.start()
            relay.api.submitted(started)
            # The upstream id is now in the relay's memory only, until it writes it back.
            with closing(sqlite3.connect(path, timeout=60)) as ledger, ledger:
                ledger.execute(f"UPDATE relay_invocations SET {CLAIMED}")
            relay.api.submitted(started)
            relay.kill()
        finish(upstream)
        with relay_process(env) as relay:
            assert relay.api.wait(started)["status"] == "completed"
        assert len(upstream.posts) == 1


class TestAfterItEnded:
    @pytest.mark.parametrize("to", [QUEUED, SENT, CLAIMED, AWAITING], ids=["queued", "sent", "claimed", "awaiting"])
    def test_the_result_is_fetched_again(self, relay: ThreadedRelay, upstream: Gateway, to: str) -> None:
        started = relay.api.start()
        relay.api.wait(started)
        Ledger(relay).set_back(f"{to}, {UNENDED}", owner=None if to is QUEUED else me(relay))
        view = relay.api.wait(started)
        assert (view["status"], view["output_text"]) == ("completed", "The answer.")
        assert len(upstream.posts) == 1

    @pytest.mark.parametrize("to", [QUEUED, SENT, CLAIMED, AWAITING], ids=["queued", "sent", "claimed", "awaiting"])
    def test_a_run_without_an_id_is_indeterminate(self, relay: ThreadedRelay, upstream: Gateway, to: str) -> None:
        # A bridged model's response cannot be retrieved, so its result is lost with the ledger's.
        upstream.bridged = True
        started = relay.api.start()
        relay.api.wait(started)
        Ledger(relay).set_back(f"{to}, {UNENDED}", owner=None if to is QUEUED else me(relay))
        view = relay.api.wait(started)
        assert (view["status"], view["error_code"]) == ("failed", "submission_indeterminate")
        assert len(upstream.posts) == 1

    @pytest.mark.parametrize("to", [SENT, AWAITING], ids=["sent", "awaiting"])
    def test_a_run_remembered_by_no_process_is_indeterminate(
        self, relay: ThreadedRelay, upstream: Gateway, to: str
    ) -> None:
        started = relay.api.start()
        relay.api.wait(started)
        ledger = Ledger(relay)
        # Under another id the run is unknown to the relay's memory, as if its sender had died.
        ledger.set_back(f"id = 'inv_of_nobody', {to}, {UNENDED}", owner=me(relay))
        assert eventually(lambda: ledger.rows("error_code") == [("submission_indeterminate",)])
        assert len(upstream.posts) == 1

    def test_a_refused_run_may_be_sent_again(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        """The first submission was refused, so a second one cannot be paid twice."""
        upstream.on_post = lambda request, n: Fault("status", 400) if n == 1 else None
        started = relay.api.start()
        assert relay.api.wait(started)["status"] == "failed"
        Ledger(relay).set_back(f"{QUEUED}, {UNENDED}")
        assert relay.api.wait(started)["status"] == "completed"
        assert sum(upstream.paid.values()) == 1


class TestTwoRelays:
    @pytest.mark.parametrize("ended", [False, True])
    def test_a_restored_backup(self, start_relay: StartRelay, upstream: Gateway, ended: bool) -> None:
        upstream.seconds = 0.2 if ended else 3600.0
        relays = [start_relay(timings=PATIENT), start_relay(timings=PATIENT)]
        started = [relay.api.start(f"{n}") for relay in relays for n in range(6)]
        for one in started:
            relays[0].api.until(one, "completed" if ended else "running")
        Ledger(relays[0]).set_leases_back(f"{QUEUED}, attempts = 0, {UNENDED}")
        finish(upstream)
        views = [relays[1].api.wait(one) for one in started]
        assert Counter(view["status"] for view in views) == {"completed": 12}
        assert len(upstream.posts) == 12

    def test_an_ended_run_of_a_full_and_unaware_relay_is_restored(
        self, start_relay: StartRelay, upstream: Gateway
    ) -> None:
        """Its own lease is unchanged: only the other relay's shows the set-back."""
        first = start_relay(max_running=1, timings=PATIENT)
        started = first.api.start("ended")
        first.api.wait(started)
        upstream.seconds = 3600.0
        running = first.api.start("running")
        first.api.submitted(running)
        second = start_relay(timings=PATIENT)
        back = f"{QUEUED}, {UNENDED} WHERE id = '{started['invocation_id']}'"
        Ledger(first).set_leases_back(back, f"id = '{me(second)}'")
        assert second.api.wait(started)["status"] == "completed"
        assert len(upstream.posts) == 2


def finish(upstream: Gateway) -> None:
    for work in upstream.works.values():
        work.seconds = 0.0


def test_a_standby_without_the_last_commits(postgresql: PostgreSQL, upstream: Gateway) -> None:
    """One relay has submitted runs that the other may now claim, and no lease shows the loss."""
    upstream.seconds = 3600.0
    url = postgresql.new_database()
    env = environment(url, upstream)
    with relay_process(env) as first, relay_process(env) as second:
        started = [first.api.start(f"{n}") for n in range(4)]
        for one in started:
            first.api.submitted(one)
        processes = [psutil.Process(relay.process.pid) for relay in (first, second)]
        for process in processes:  # so that neither sees the change to the ledger
            process.suspend()
        with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
            connection.execute(f"UPDATE relay_invocations SET {QUEUED}")
        postgresql.stop()
        postgresql.start()
        for process in reversed(processes):  # the one that has sent nothing runs first
            process.resume()
        finish(upstream)
        assert eventually(lambda: all(finished(second.api.view(one)) for one in started)), first.log + second.log
        views = [second.api.view(one) for one in started]
    assert Counter(view["status"] for view in views) == {"completed": 4}
    assert len(upstream.posts) == 4
