"""PostgreSQL behind a proxy that loses commits or falls silent; databases with unusual defaults."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from litellm_openai_example.config import ConfigurationError
from litellm_openai_example.relay.ledger import engines
from litellm_openai_example.relay.ledger.database import Database, Transaction
from litellm_openai_example.relay.ledger.failures import LedgerUnavailable, why_not_opened
from litellm_openai_example.relay.ledger.records import Outcome
from litellm_openai_example.relay.settings import database_url as configured_url

from ...fakes.postgresql import PostgreSQL
from ..proxied import proxied
from .ledgers import new, opened, run


def test_a_lost_answer_to_a_commit(postgresql: PostgreSQL) -> None:
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


def test_a_silent_database_delays_no_request(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_LONGEST_WRITE", 2.0)

    async def work() -> None:
        async with proxied(postgresql.new_database()) as (proxy, url):
            async with opened(url) as ledger:
                await asyncio.sleep(0.6)
                proxy.silent = True
                for _ in range(2):
                    with pytest.raises(LedgerUnavailable):
                        await ledger.check()
            assert proxy.silent
            proxy.silent = False

    run(work)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('connection failed: FATAL:  password authentication failed for user "pg"', "password"),
        ('FATAL:  database "nope" does not exist', "no such database"),
        ('FATAL:  role "stranger" does not exist', "no such role"),
        ('FATAL:  permission denied for database "ledger"', "GRANT CONNECT"),
        ('FATAL:  role "app" is not permitted to log in', "LOGIN"),
        ('FATAL:  database "ledger" is not currently accepting connections', "accepts no connections"),
        ("server does not support SSL, but SSL was required", "no TLS"),
        ("[Errno -2] Name or service not known", "no such host"),
        ("connection to server at 127.0.0.1 failed: Connection refused", "nothing listens"),
        ("connection timeout expired", "no answer"),
        ('invalid sslmode value: "nonsense"', "name or a value"),
        ("bad value for connect_timeout: 'x'", "name or a value"),
        ('FATAL:  unrecognized configuration parameter "nosuch"', "name or a value"),
        ('definition of service "nosuch" not found', "no such service"),
        ("connection to server on socket failed: server is not in hot standby mode", "target_session_attrs"),
        ("channel binding required, but SSL not in use", "channel_binding"),
    ],
)
def test_reasons_in_plain_words(words: str, reason: str) -> None:
    assert reason in why_not_opened(OSError(words))


@pytest.mark.parametrize(
    "query",
    [
        "prepare_threshold=soon",
        "autocommit=1",
        "row_factory=x",
        "client_encoding=LATIN1",  # a report that it cannot store would be paid for and lost
        "client_encoding=SQL_ASCII",
        "connect_timeout=5&connect_timeout=6",
        "host=h:5432&host=i:port",
    ],
)
def test_invalid_settings(query: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        engines.engines(make_url(f"postgresql+psycopg://u:hushhush@h/d?{query}"))
    assert "hushhush" not in str(caught.value)
    assert query.partition("=")[0] in str(caught.value)


def test_valid_settings() -> None:
    url = make_url("postgresql+psycopg://h/d?prepare_threshold=3&connect_timeout=9")
    rest, options = engines._postgresql_options(url)
    assert options["prepare_threshold"] == 3
    assert "connect_timeout" not in options
    assert rest.query == {"connect_timeout": "9"}


def sql(url: str, *statements: str) -> None:
    """Execute statements as an administrator; `{db}` is the database's name."""
    plain = url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.format(db=connection.info.dbname).encode())


def as_role(url: str, role: str) -> str:
    """Return the URL of the same database for another role."""
    return make_url(url).set(username=role, password=None).render_as_string(hide_password=False)


EVERY_DEFAULT = (
    "default_transaction_isolation = 'serializable'",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_deferrable = on",
    "standard_conforming_strings = off",
    "statement_timeout = '1s'",
    "lock_timeout = '1s'",
    "idle_in_transaction_session_timeout = '1s'",
    "synchronous_commit = off",
    "client_encoding = 'LATIN1'",
    "client_encoding = 'SQL_ASCII'",
    "DateStyle = 'German, DMY'",
    "bytea_output = 'escape'",
    "timezone = 'Asia/Kathmandu'",
    "row_security = off",
    "intervalstyle = 'sql_standard'",
    "extra_float_digits = 0",
    "extra_float_digits = -2",
    "quote_all_identifiers = on",
    "transform_null_equals = on",
    "array_nulls = off",
    "enable_seqscan = off",
    "backslash_quote = off",
    "plan_cache_mode = 'force_generic_plan'",
    "search_path = other, public",
)


def test_unusual_defaults_of_a_database(postgresql: PostgreSQL) -> None:
    async def work() -> None:
        url = postgresql.new_database()
        sql(url, "CREATE SCHEMA other")
        for n, default in enumerate(EVERY_DEFAULT):
            sql(url, f"ALTER DATABASE {{db}} SET {default}")
            words = "It's a \\ back\\nslash, 짜장면 🍜"
            async with opened(url) as ledger:
                assert not await ledger.heartbeat(), default  # by the second, the first still reads as written
                await ledger.accept(new(f"a{n}"))
                assert await ledger.claim(1, blocks=False), default
                assert await ledger.submitted(f"a{n}", "resp_1")
                assert await ledger.settle(f"a{n}", Outcome("completed", output_text=words))
                record = await ledger.get(f"a{n}")
                assert record is not None
                assert record.output_text == words, default
                assert abs(record.updated_at - time.time()) < 60, default
            sql(url, f"ALTER DATABASE {{db}} RESET {default.partition(' ')[0]}")

    run(work)


def test_changes_are_durable_and_have_time_under_any_defaults(postgresql: PostgreSQL) -> None:
    wanted = {
        "synchronous_commit": "on",
        "statement_timeout": "10s",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "10s",
        "transaction_isolation": "read committed",
    }

    async def work() -> None:
        url = postgresql.new_database()
        for name, odd in (
            *((name, "3s") for name in wanted if name.endswith("timeout")),
            ("synchronous_commit", "off"),
        ):
            sql(url, f"ALTER DATABASE {{db}} SET {name} = '{odd}'")
        sql(url, "ALTER DATABASE {db} SET default_transaction_isolation = 'serializable'")
        async with opened(url) as ledger:
            for _ in range(2):

                async def look(transaction: Transaction) -> dict[str, str]:
                    connection = transaction.connection
                    return {name: str(await connection.scalar(text(f"SHOW {name}"))) for name in wanted}

                assert await ledger.database.write(look) == wanted

    run(work)


def test_a_stronger_default_is_kept(postgresql: PostgreSQL) -> None:
    async def work() -> None:
        url = postgresql.new_database()
        sql(url, "ALTER DATABASE {db} SET synchronous_commit = 'remote_apply'")
        sql(url, "ALTER DATABASE {db} SET statement_timeout = '30s'")
        async with opened(url) as ledger:

            async def look(transaction: Transaction) -> list[object]:
                return [
                    await transaction.connection.scalar(text(f"SHOW {name}"))
                    for name in ("synchronous_commit", "statement_timeout")
                ]

            assert await ledger.database.write(look) == ["remote_apply", "30s"]

    run(work)


def _encoding(encoding: str) -> Callable[[str], str]:
    def create(url: str) -> str:
        name = f"relay_{encoding.lower()}"
        locale = "LC_COLLATE 'C' LC_CTYPE 'C'"
        sql(url, f"CREATE DATABASE {name} ENCODING '{encoding}' {locale} TEMPLATE template0")
        return make_url(url).set(database=name).render_as_string(hide_password=False)

    return create


def _no_right_to_create(url: str) -> str:
    sql(url, "CREATE ROLE visitor LOGIN", "REVOKE CREATE ON SCHEMA public FROM public")
    return as_role(url, "visitor")


def _no_right_to_the_tables(url: str) -> str:
    _make_ledger(url)
    sql(url, "CREATE ROLE reader LOGIN")
    return as_role(url, "reader")


def _no_schema(url: str) -> str:
    sql(url, "CREATE ROLE nowhere LOGIN", "ALTER ROLE nowhere SET search_path = ''")
    return as_role(url, "nowhere")


def _rows_hidden(url: str) -> str:
    _make_ledger(url)
    tables = ("relay_meta", "relay_invocations", "relay_pieces", "relay_workers")
    sql(url, "CREATE ROLE filtered LOGIN", *(f"GRANT ALL ON {table} TO filtered" for table in tables))
    sql(url, "ALTER TABLE relay_invocations ENABLE ROW LEVEL SECURITY")
    return as_role(url, "filtered")


def _reads_only(url: str) -> str:
    sql(url, "ALTER DATABASE {db} SET default_transaction_read_only = on")
    return url


def _a_table_of_another(url: str) -> str:
    sql(url, "CREATE TABLE relay_workers (id integer)")
    return url


def _make_ledger(url: str) -> None:
    async def work() -> None:
        async with opened(url):
            pass

    asyncio.run(work())


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (_encoding("LATIN1"), "must be UTF8"),
        (_encoding("SQL_ASCII"), "must be UTF8"),
        (_encoding("EUC_KR"), "must be UTF8"),
        (_no_right_to_create, "GRANT ALL ON schema public TO"),
        (_no_right_to_the_tables, "GRANT ALL ON table relay_meta TO"),
        (_no_schema, "search_path"),
        (_rows_hidden, "row-level security"),
        (_reads_only, "default_transaction_read_only"),
        (_a_table_of_another, "another program"),
    ],
)
def test_a_database_that_cannot_hold_a_ledger(
    prepare: Callable[[str], str], words: str, postgresql: PostgreSQL
) -> None:
    url = prepare(postgresql.new_database())
    with pytest.raises(ConfigurationError, match=words) as caught:
        _make_ledger(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_sqlite_file_of_another_program_is_not_changed(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA journal_mode={mode}")
        other.execute("CREATE TABLE users (name TEXT)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        _make_ledger(f"sqlite+aiosqlite:///{path}")
    assert path.read_bytes() == before


def test_a_unix_socket_as_the_host(postgresql: PostgreSQL) -> None:
    url = make_url(postgresql.new_database())
    folder = str(url.query.get("host") or url.host)
    if not folder.startswith("/"):
        pytest.skip("the server has no Unix socket")
    written = f"postgresql://{url.username}@{folder.replace('/', '%2F')}:{url.port or 5432}/{url.database}"

    async def work() -> None:
        database = Database(configured_url({"RELAY_DATABASE_URL": written}), "me")
        try:
            assert await database.run(lambda connection: connection.scalar(text("SELECT 1"))) == 1
        finally:
            await database.close()

    run(work)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://pg:hush@secretpart@127.0.0.1:9/db",
        "postgresql://pg:hush@secretpart/x@127.0.0.1:9/db",
        "postgresql://pg:hush@secretpart:9@127.0.0.1:9/db",
        "postgresql://pg:hush@secretpart?x@127.0.0.1:9/db",
        "postgresql://pg:hush@secretpart#x@127.0.0.1:9/db",
        "postgresql://pg@host:hush@secretpart@127.0.0.1:9/db",
        "postgres://pg:@secretpart@127.0.0.1/db",
        "'postgresql://pg:secretpart@127.0.0.1/db'",
        '"postgresql://pg:secretpart@127.0.0.1/db"',
        "jdbc:postgresql://pg:secretpart@127.0.0.1/db",
        "sqlite://pg:secretpart@127.0.0.1/db",
        "postgresql://pg:secretpart@${PGHOST}/db",
        "postgresql://pg:${PASSWORD}@secretpart/db",
        "postgresql://pg:hush@secretpart@one:9,two:9/db",
    ],
)
def test_malformed_addresses(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"%40|quotes|must start|must name a file|a literal \$\{P") as caught:
        configured_url({"RELAY_DATABASE_URL": address})
    assert "secretpart" not in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "user", "host"),
    [
        ("postgresql://me@server:pw@db.example/x", "me@server", "db.example"),
        ("postgresql://me:p%40w@db.example/x", "me", "db.example"),
        ("postgresql://me@%2Frun%2Fpg/x?application_name=a@b", "me", "/run/pg"),
        ("postgresql:///x?host=/run/pg", None, None),
    ],
)
def test_valid_addresses_with_odd_characters(address: str, user: str | None, host: str | None) -> None:
    url = configured_url({"RELAY_DATABASE_URL": address})
    assert (url.username, url.host) == (user, host)


@pytest.mark.parametrize(
    ("address", "hosts", "ports"),
    [
        ("postgresql://me:pw@one:5432,two:5433/x", "one,two", "5432,5433"),
        ("postgresql://me:pw@one,two/x", "one,two", None),
        ("postgresql://one:1,two:2,three:3/x?target_session_attrs=read-write", "one,two,three", "1,2,3"),
        ("postgres://me:p,w@one:1,two:2", "one,two", "1,2"),
        ("postgresql://me:p,w@one:1/x", "one", 1),
    ],
)
def test_several_hosts(address: str, hosts: str, ports: str | int | None) -> None:
    url = configured_url({"RELAY_DATABASE_URL": address})
    given = url.get_dialect()().create_connect_args(url)[1]
    assert given["host"] == hosts
    assert (given.get("port") if ports or given.get("port") != "," else None) == ports
    assert given.get("dbname") == url.database


def test_a_read_only_ledger_is_reported_as_such(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    _make_ledger(url)
    sql(url, "ALTER DATABASE {db} SET default_transaction_read_only = on")
    with pytest.raises(LedgerUnavailable, match="the database is read-only"):
        _make_ledger(url)
