"""A relay process whose PostgreSQL fails in odd ways: it says so once, loses nothing, and ends when it is told to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy.engine import make_url

from ..fakes.gateway import Gateway
from ..fakes.postgresql import PostgreSQL
from ..fakes.scripted import eventually
from .conftest import assert_clean
from .proxied import proxied_in_thread
from .running import RelayProcess, body, environment, relay_process

ROLE = "relay_that_owns_no_server"


class TestLostCommits:
    """The answer to one COMMIT is lost: it was made, and the process finds out."""

    @pytest.mark.parametrize(
        "statement",
        [b"INSERT INTO relay_invocations", b"attempts +", b"SET unsent=", b"SET state", b"output_text="],
        ids=["accept", "claim", "intent", "submitted", "settle"],
    )
    def test_of_a_run(self, postgresql: PostgreSQL, upstream: Gateway, statement: bytes) -> None:
        with proxied_in_thread(postgresql.new_database()) as (proxy, url):
            with relay_process(environment(url, upstream)) as relay:
                proxy.lose_commit = statement
                started = relay.api.start("lost")
                assert relay.api.wait(started, 25)["status"] == "completed"
                assert not proxy.lose_commit
                assert len(upstream.posts) == 1
                upstream.seconds = 3600.0
                proxy.lose_commit = statement
                started = relay.api.start("to be cancelled")
                relay.api.until(started, "running")
                proxy.lose_commit = b"cancel_requested="
                assert relay.api.cancel(started)["status"] == "cancelled"
                assert len(upstream.posts) == 2
            assert_clean(relay.log, upstream)


class TestOddOutages:
    """What an operator may do by hand. It is no outage of the server, and no loop may end by it."""

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
    def test_everything_goes_on(
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
                time.sleep(0.3)
                sql.execute(break_it)
                began = time.monotonic()
                refused = relay.api.post(body("meanwhile", background=True))
                if refused.status_code == 202:
                    started.append(refused.json())
                else:
                    assert refused.status_code == 503
                assert eventually(lambda: relay.api.call("GET", "/readyz").status_code == 503, 3)
                time.sleep(max(0.0, began + seconds - time.monotonic()))
                sql.execute(mend_it)
                assert eventually(lambda: relay.api.call("GET", "/readyz").status_code == 200, 20)
                started.append(relay.api.start("after"))
                for one in started:
                    assert relay.api.wait(one, 25)["status"] == "completed"
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
def test_it_ends_in_time_while_the_database_is_silent(postgresql: PostgreSQL, upstream: Gateway, running: int) -> None:
    upstream.seconds = 3600.0
    with (
        proxied_in_thread(postgresql.new_database()) as (proxy, url),
        relay_process(environment(url, upstream)) as relay,
    ):
        for started in [relay.api.start(f"question {n}") for n in range(running)]:
            relay.api.until(started, "running")
        proxy.silent = True
        began = time.monotonic()
        assert relay.terminate() == 0
        assert time.monotonic() - began < 5.0
