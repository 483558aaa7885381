"""PostgreSQL behind a proxy that loses the answer to a COMMIT, or falls silent."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy.engine import make_url

from litellm_openai_example.config import ConfigurationError
from litellm_openai_example.relay.ledger import connections, engines
from litellm_openai_example.relay.ledger.failures import LedgerUnavailable, why_not_opened
from litellm_openai_example.relay.ledger.records import Outcome

from ..fakes.postgresql import PostgreSQL
from .proxied import proxied
from .test_ledger import new, opened, run


def test_the_answer_to_a_commit_is_lost(postgresql: PostgreSQL) -> None:
    async def work() -> None:
        async with proxied(postgresql.new_database()) as (proxy, url), opened(url) as ledger:
            proxy.lose_commit = True
            assert (await ledger.accept(new("a"))).id == "a"
            assert not proxy.lose_commit
            await ledger.accept(new("b"))
            proxy.lose_commit = True
            assert [record.id for record in await ledger.claim(1, blocks=False)] == ["a"]
            assert not proxy.lose_commit
            assert await ledger.owned() == ["a"]
            proxy.lose_commit = True
            assert await ledger.submitted("a", "resp_1")
            proxy.lose_commit = True
            await ledger.request_cancel("a")
            assert await ledger.cancel_requests() == ["a"]
            proxy.lose_commit = True
            assert await ledger.settle("a", Outcome("completed", output_text="x"))
            proxy.lose_commit = True
            await ledger.request_cancel("b")
            records = await ledger.get_many(["a", "b"])
            assert (records["a"].state, records["b"].state) == ("completed", "cancelled")

    run(work)


def test_a_silent_database_holds_nobody_up(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LONGEST_WRITE", 2.0)

    async def work() -> None:
        async with proxied(postgresql.new_database()) as (proxy, url):
            async with opened(url) as ledger:
                await asyncio.sleep(0.6)
                proxy.silent = True
                for _ in range(2):
                    began = time.monotonic()
                    with pytest.raises(LedgerUnavailable):
                        await ledger.check()
                    assert time.monotonic() - began < 2
                began = time.monotonic()
            assert time.monotonic() - began < 1
            proxy.silent = False

    run(work)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('connection failed: FATAL:  password authentication failed for user "pg"', "password"),
        ('FATAL:  database "nope" does not exist', "no such database"),
        ('FATAL:  role "stranger" does not exist', "no such role"),
        ("server does not support SSL, but SSL was required", "no TLS"),
        ("[Errno -2] Name or service not known", "no such host"),
        ("connection to server at 127.0.0.1 failed: Connection refused", "nobody listens"),
        ("connection timeout expired", "no answer"),
    ],
)
def test_why_it_cannot_be_opened(words: str, reason: str) -> None:
    assert reason in why_not_opened(OSError(words))


@pytest.mark.parametrize("query", ["prepare_threshold=soon", "autocommit=1", "row_factory=x"])
def test_a_setting_that_cannot_be_obeyed(query: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        engines.engines(make_url(f"postgresql+psycopg://u:hushhush@h/d?{query}"))
    assert "hushhush" not in str(caught.value)
    assert query.partition("=")[0] in str(caught.value)


def test_settings_that_are_obeyed() -> None:
    url = make_url("postgresql+psycopg://h/d?prepare_threshold=3&connect_timeout=9")
    rest, options = engines._postgresql_options(url)
    assert options["prepare_threshold"] == 3
    assert "connect_timeout" not in options
    assert rest.query == {"connect_timeout": "9"}
