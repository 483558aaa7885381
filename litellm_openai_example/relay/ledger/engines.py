"""How the ledger's database is reached: the options of its drivers.

Everything that depends on SQLite's or PostgreSQL's driver stands here, in `failures.py` and in `schema.py`.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import event, func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ...config import ConfigurationError
from .schema import refuse_foreign

SQLITE_BUSY = 2.0  # seconds that a statement waits for another process's transaction
_READERS_POSTGRESQL = 8
_READERS_SQLITE = 2
_POSTGRESQL_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "litellm-relay",
    "client_encoding": "UTF8",  # a role may have another default, which cannot hold every answer
}
# Defaults of a role or a database under which a change would not be durable, or would be cut short; see `ordinary`.
_ORDINARY = {
    "synchronous_commit": "on",
    "statement_timeout": "10s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
}
_SHORTEST = 10_000  # milliseconds
_SETTINGS = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")


def engines(url: URL) -> tuple[AsyncEngine, AsyncEngine]:
    """What writes (one connection) and what reads; nothing is opened yet, but SQLite's file is made.

    Raises:
        ConfigurationError: the file cannot be made, or the URL holds a setting that cannot be obeyed.
    """
    postgresql = url.get_backend_name() == "postgresql"
    options: dict[str, Any] = {"pool_reset_on_return": None, "pool_timeout": 5}
    if postgresql:
        url, options["connect_args"] = _postgresql_options(url)
    else:
        url = _sqlite_file(url)
    readers = _READERS_POSTGRESQL if postgresql else _READERS_SQLITE
    # A database may have SERIALIZABLE as its default, whose transactions fail when two replicas accept at once. Each
    # change here is one conditional statement, for which READ COMMITTED is enough.
    isolation = {"isolation_level": "READ COMMITTED"} if postgresql else {}
    writer = create_async_engine(url, pool_size=1, max_overflow=0, **isolation, **options)
    reader = create_async_engine(url, pool_size=readers, max_overflow=0, isolation_level="AUTOCOMMIT", **options)
    if not postgresql:
        _prepare_sqlite(writer, writes=True)
        _prepare_sqlite(reader, writes=False)
    return writer, reader


async def ordinary(connection: AsyncConnection) -> None:
    """Make a PostgreSQL transaction durable and give it time, if the defaults of its role or database do not.

    The settings hold for this transaction alone, so a pooler may give the session to another program afterwards. They
    are read once a connection.
    """
    wanted: dict[str, str] | None = connection.info.get("ordinary")
    if wanted is None:
        rows = await connection.execute(_SETTINGS, {"names": list(_ORDINARY)})
        wanted = {name: _ORDINARY[name] for name, value in rows if _is_odd(value)}
        connection.info["ordinary"] = wanted
    if wanted:
        await connection.execute(select(*(func.set_config(name, value, True) for name, value in wanted.items())))


def _is_odd(value: str) -> bool:
    return 0 < int(value) < _SHORTEST if value.isdigit() else value == "off"


def quiet_drivers() -> None:
    """Keep the drivers' own warnings out of the log: they name host, port and database."""
    for name in ("psycopg", "sqlalchemy", "aiosqlite"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")


def _connection_class() -> type[Any]:
    """Connections that are given up at once when their statement is cancelled.

    The driver would ask the server to cancel it, and wait up to 10 s: for a silent one that is how long a request that
    is bounded, or the end of the process, would be held up. A cancelled session is not used again in any case.
    """
    from psycopg import AsyncConnection

    class Connection(AsyncConnection[Any]):
        async def cancel_safe(self, *, timeout: float = 0.0) -> None:  # noqa: ARG002
            self.pgconn.finish()

    return Connection


def _postgresql_options(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL without what is for the driver itself, and the driver's arguments.

    Statements are not prepared unless the URL asks for it: a pooler that gives each transaction another session
    (PgBouncer) would lose them, and PostgreSQL plans a statement that it has prepared without looking at its values.
    """
    threshold: int | None = None
    if "prepare_threshold" in url.query:
        given = url.query["prepare_threshold"]
        if given != "None":
            if not (isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 10):
                raise ConfigurationError(
                    "prepare_threshold in RELAY_DATABASE_URL must be a whole number, or None (the default)"
                )
            threshold = int(given)
        url = url.difference_update_query(["prepare_threshold"])
    _check_postgresql_settings(url)
    ours = {name: value for name, value in _POSTGRESQL_OPTIONS.items() if name not in url.query}
    return url, {**ours, "prepare_threshold": threshold, "async_creator_fn": _connection_class().connect}


def _check_postgresql_settings(url: URL) -> None:
    from psycopg.pq import Conninfo

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name in url.query:
        if name not in known:
            raise ConfigurationError(f"RELAY_DATABASE_URL has a setting that PostgreSQL does not know: {name[:40]!r}")


def _sqlite_file(url: URL) -> URL:
    """Make the file before SQLite does, readable by its user alone (its side files take over the mode), and name it
    so that SQLite never makes another one in its place: what is in an empty ledger was never promised."""
    path = Path(str(url.database))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigurationError(
            f"the ledger cannot be opened: {reason} (RELAY_DATABASE_URL names another place)"
        ) from None
    return url.set(database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"})


def _all(cursor: Any, query: str) -> list[Any]:
    cursor.execute(query)
    return list(cursor.fetchall())


def _prepare_sqlite(engine: AsyncEngine, *, writes: bool) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        cursor = connection.cursor()
        if writes:  # before the file is changed in any way
            refuse_foreign(row[0] for row in _all(cursor, "SELECT name FROM sqlite_master WHERE type = 'table'"))
        for pragma in (f"busy_timeout={SQLITE_BUSY * 1000:.0f}", "journal_mode=WAL", "synchronous=FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if writes:

        @event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: Any) -> None:
            # A transaction that begins as a reader and writes later fails when another process wrote in between.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
