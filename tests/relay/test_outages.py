"""A relay whose PostgreSQL fails in odd ways: it logs the outage once, loses no run, and stops on SIGTERM."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy.engine import make_url

from litellm_openai_example.research.contract import INVOCATIONS_PATH

from ..fakes.gateway import Gateway
from ..fakes.postgresql import PostgreSQL
from ..fakes.scripted import eventually
from .conftest import assert_clean
from .proxied import proxied_in_thread
from .running import RelayProcess, body, environment, relay_process, token

ROLE = "relay_that_owns_no_server"


class TestLostCommits:
    """The answer to one COMMIT is lost: the change was made, and the process finds that out."""

    @pytest.mark.parametrize(
        "statement",
        [b"INSERT INTO relay_invocations", b"attempts +", b"SET unsent=", b"SET state", b"output_text="],
        ids=["accept", "claim", "intent", "submitted", "settle"],
    )
    def test_a_run_is_completed_or_cancelled_once(
        self, postgresql: PostgreSQL, upstream: Gateway, statement: bytes
    ) -> None:
        with proxied_in_thread(postgresql.new_database()) as (proxy, url):
            with relay_process(environment(url, upstream)) as relay:
                proxy.lose_commit = statement
                started = relay.api.start("lost")
                assert relay.api.wait(started)["status"] == "completed"
                assert not proxy.lose_commit
                assert len(upstream.posts) == 1
                upstream.seconds = 3600.0
                proxy.lose_commit = statement
                started = relay.api.start("to be cancelled")
                relay.api.submitted(started)
                # The cancel's own commit loses its answer as well: the request to stop must survive that.
                proxy.lose_commit = b"cancel_requested="
                assert relay.api.cancel(started)["status"] == "cancelled"
                assert len(upstream.posts) == 2
            assert_clean(relay.log, upstream)


class TestOddOutages:
    """Changes by an operator at work on the schema: the server is up, and no loop of the worker may end."""

    @pytest.mark.parametrize(
        ("break_it", "mend_it", "seconds"),
        [
            (
                "ALTER TABLE relay_invocations RENAME TO elsewhere",
                "ALTER TABLE elsewhere RENAME TO relay_invocations",
                3,
            ),
            (f"REVOKE UPDATE ON relay_invocations FROM {ROLE}", f"GRANT UPDATE ON relay_invocations TO {ROLE}", 4),
            (f"REVOKE UPDATE ON relay_workers FROM {ROLE}", f"GRANT UPDATE ON relay_workers TO {ROLE}", 4),
        ],
        ids=["renamed", "revoked", "no lease"],
    )
    def test_all_runs_complete_after_the_repair(
        self, postgresql: PostgreSQL, upstream: Gateway, break_it: str, mend_it: str, seconds: int
    ) -> None:
        upstream.seconds = 1.0
        owner = postgresql.new_database()
        with administrator(owner) as sql:
            sql.execute(f"DO $$ BEGIN CREATE ROLE {ROLE} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
            sql.execute(f"GRANT ALL ON SCHEMA public TO {ROLE}")
            url = make_url(owner).set(username=ROLE).render_as_string(hide_password=False)
            with relay_process(environment(url, upstream)) as relay:
                started = [relay.api.start(f"before {n}") for n in range(4)]
                assert eventually(lambda: len(upstream.posts) == len(started))
                sql.execute(break_it)
                began = time.monotonic()
                refused = relay.api.post(body("meanwhile", background=True))
                if refused.status_code == 202:
                    started.append(refused.json())
                else:
                    assert refused.status_code == 503
                assert eventually(lambda: relay.api.call("GET", "/readyz").status_code == 503)
                time.sleep(max(0.0, began + seconds - time.monotonic()))
                sql.execute(mend_it)
                assert eventually(lambda: relay.api.call("GET", "/readyz").status_code == 200)
                started.append(relay.api.start("after"))
                for one in started:
                    assert relay.api.wait(one)["status"] == "completed"
                assert_said_once(relay)
            assert_clean(relay.log, upstream)
        assert len(upstream.posts) == len(started)


def assert_said_once(relay: RelayProcess) -> None:
    said = [line for line in relay.lines if "ledger cannot be written" in line]
    assert len(said) == 1, relay.log
    for what in ("claiming failed", "keeping the lease failed", "looking after what was left behind failed"):
        assert len([line for line in relay.lines if what in line]) <= 1, relay.log


@contextmanager
def administrator(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("running", [0, 3])
def test_a_relay_stops_in_time_with_a_silent_database(postgresql: PostgreSQL, upstream: Gateway, running: int) -> None:
    upstream.seconds = 3600.0
    with (
        proxied_in_thread(postgresql.new_database()) as (proxy, url),
        relay_process(environment(url, upstream)) as relay,
    ):
        for started in [relay.api.start(f"question {n}") for n in range(running)]:
            relay.api.submitted(started)
        proxy.silent = True
        assert_ends(relay)


class TestFrozen:
    """All processes of PostgreSQL are suspended: connections stay open, and no statement is answered."""

    def test_an_idle_relay_stops_at_once(self, postgresql: PostgreSQL, upstream: Gateway) -> None:
        with relay_process(environment(postgresql.new_database(), upstream)) as relay, postgresql.frozen():
            time.sleep(1.2)  # by then its loops wait for answers
            assert_ends(relay)

    def test_a_starting_relay_stops(self, postgresql: PostgreSQL, upstream: Gateway) -> None:
        url = postgresql.new_database()
        with postgresql.frozen():
            relay = RelayProcess(environment(url, upstream))
            try:
                assert eventually(lambda: any(one.raddr or one.status for one in connections(relay)))
                time.sleep(0.3)
                assert_ends(relay)
            finally:
                relay.ensure_ended()

    def test_waiting_clients_are_answered_and_runs_continue_later(
        self, postgresql: PostgreSQL, upstream: Gateway
    ) -> None:
        url = postgresql.new_database()
        upstream.seconds = 3600.0
        with relay_process(environment(url, upstream)) as relay, ThreadPoolExecutor(16) as clients:
            started = [relay.api.start(f"question {n}", stream=n > 1) for n in range(4)]
            for one in started:
                relay.api.submitted(one)
            path = f"{INVOCATIONS_PATH}/{started[0]['invocation_id']}"
            waiting = clients.submit(relay.api.call, "GET", f"{path}/wait?timeout=60", headers=token(started[0]))
            streams = [relay.api.stream(one) for one in started]
            for events in streams:
                next(events)
            watching = [clients.submit(list, events) for events in streams]
            with postgresql.frozen():
                asking = [
                    *(clients.submit(relay.api.post, body(f"new {n}", background=True)) for n in range(2)),
                    clients.submit(relay.api.call, "GET", path, headers=token(started[0])),
                    clients.submit(relay.api.call, "POST", f"{path}/cancel", headers=token(started[0])),
                ]
                in_flight = 1 + len(streams) + len(asking)  # each on a separate connection
                assert eventually(lambda: served(relay) >= in_flight)
                time.sleep(0.5)  # for the last bytes of the requests
                assert_ends(relay)
                assert [one.result(60).status_code for one in asking] == [503] * 4
                assert waiting.result(60).status_code == 202
                for watched in watching:
                    assert {event.name for event in watched.result(60)} <= {"status", "output_text"}
        # The runs end while no relay follows them; the next relay must still find every result.
        for work in upstream.works.values():
            work.seconds = 0.0
        with relay_process(environment(url, upstream)) as relay:
            # The unconfirmed cancel may still have reached the gateway.
            assert relay.api.wait(started[0])["status"] in ("completed", "cancelled")
            for one in started[1:]:
                assert relay.api.wait(one)["status"] == "completed"
        assert all(count == 1 for count in upstream.paid.values())

    def test_a_refused_start_is_not_carried_out_later(self, postgresql: PostgreSQL, upstream: Gateway) -> None:
        with relay_process(environment(postgresql.new_database(), upstream)) as relay:
            with postgresql.frozen():
                answer = relay.api.post(body("while it is silent", background=True))
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
            assert relay.api.wait(relay.api.start("afterwards"))["status"] == "completed"
            assert len(upstream.posts) == 1
            assert relay.terminate() == 0

    @pytest.mark.parametrize("accept", [1.2, 2.6], ids=["in the gate", "after it"])
    def test_the_log_names_a_paid_response_that_could_not_be_recorded(
        self, postgresql: PostgreSQL, upstream: Gateway, accept: float
    ) -> None:
        upstream.accept = 3600.0
        with relay_process(environment(postgresql.new_database(), upstream)) as relay:
            started = relay.api.start("What cannot be kept?")
            assert eventually(lambda: upstream.posts)
            with postgresql.frozen():
                upstream.accept = accept  # counted from the arrival of the submission
                assert_ends(relay)
        (work,) = upstream.works
        assert any(started["invocation_id"] in line and work in line for line in relay.lines), relay.log


def assert_ends(relay: RelayProcess) -> None:
    """SIGTERM ends it although the database stays silent."""
    assert relay.terminate() == 0
    assert relay.lines[-1].endswith("stopped"), relay.log


def connections(relay: RelayProcess) -> list[Any]:
    return psutil.Process(relay.process.pid).net_connections("all")


def served(relay: RelayProcess) -> int:
    """Return how many clients are connected."""
    port = make_url(relay.api.base_url).port
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in connections(relay) if one.laddr
    )
