"""The connections to the database: how its drivers connect, under which settings, and for how long.

Each connection is held for a bounded time, then cut under the statement that waits for a silent database. One that
failed is not used again: the server behind it may be gone, silent, or read-only by now.

Everything that depends on SQLite's or PostgreSQL's driver stands here, in `failures` and in `schema`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import event, func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ...config import ConfigurationError
from .failures import is_outage
from .schema import refuse_foreign

_SQLITE_BUSY = 2.0  # seconds that a statement waits for another process's transaction
_LONGEST_READ, _LONGEST_WRITE, _LONGEST_MIGRATION = 5.0, 10.0, 3600.0  # seconds
_READERS_POSTGRESQL = 8
_READERS_SQLITE = 2
_POSTGRESQL_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "litellm-relay",
    "client_encoding": "UTF8",  # a role may default to another encoding, which cannot hold every answer
}
# Values for transactions that write. The defaults of a role or a database may make a change not durable, cut it short,
# or round the numbers that it is decided on.
_ORDINARY = {
    "synchronous_commit": "on",
    "statement_timeout": "10s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
    "extra_float_digits": "3",  # PostgreSQL 11's default rounds a lease: it would read differently than written
}
_SHORTEST = 10_000  # milliseconds
_SETTINGS = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")


class Connections:
    """All connections of this process to one database: one writer and a few readers.

    Args:
        url: SQLAlchemy URL with an asynchronous driver.

    Raises:
        ConfigurationError: SQLite's file cannot be created, or the URL holds an invalid setting.
    """

    def __init__(self, url: URL) -> None:
        self.postgresql = url.get_backend_name() == "postgresql"
        self.writer, self.reader = engines(url)
        self._path = None if self.postgresql else Path(str(url.database))
        self._file: tuple[int, int] | None = None  # SQLite's file, as it was opened
        self._in_use: set[object] = set()

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[AsyncConnection]:
        """Provide the connection that opens the ledger. SQLite's file is known from then on."""
        async with self._session(self.writer, _LONGEST_MIGRATION) as connection:
            yield connection
        if self._path is not None:
            self._file = _identity(self._path)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Provide a connection for SELECTs."""
        await self._follow_file()
        async with self._session(self.reader, _LONGEST_READ) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Provide the connection for changes. Raises FileNotFoundError if SQLite's file is gone."""
        if not await self._follow_file():
            raise FileNotFoundError  # SQLite would write to the deleted file, and the changes would be lost
        async with self._session(self.writer, _LONGEST_WRITE) as connection:
            if self.postgresql:
                await _set_ordinary(connection)
            yield connection

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Any]:
        """Provide a connection of the PostgreSQL driver, without a time limit."""
        async with self.reader.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            self._in_use.add(driver)
            try:
                yield driver
            finally:
                self._in_use.discard(driver)
                self._cut(driver)
                await connection.invalidate()

    def cut(self) -> None:
        """Cut all connections in use."""
        for driver in list(self._in_use):
            self._cut(driver)

    async def dispose(self) -> None:
        """Close the idle connections."""
        for engine in (self.writer, self.reader):
            await engine.dispose()

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine, longest: float) -> AsyncIterator[AsyncConnection]:
        cancellations = _cancellations()
        async with engine.connect() as connection:
            if _cancellations() > cancellations:
                # SQLAlchemy 2.0 connects under `asyncio.wait_for`, which can swallow a cancellation before Python 3.12.
                raise asyncio.CancelledError
            driver: Any = (await connection.get_raw_connection()).driver_connection
            self._in_use.add(driver)
            alarm = asyncio.get_running_loop().call_later(longest, self._cut, driver)
            try:
                yield connection
            except BaseException as error:
                if not isinstance(error, Exception) or is_outage(error):
                    self._cut(driver)
                    await connection.invalidate()
                    if engine is self.writer:
                        await self.reader.dispose()
                raise
            finally:
                alarm.cancel()
                self._in_use.discard(driver)

    def _cut(self, driver: Any) -> None:
        """Close a connection under the statement that waits on it. SQLite needs no cut: see `_SQLITE_BUSY`."""
        if self.postgresql:
            driver.pgconn.finish()

    async def _follow_file(self) -> bool:
        """Reconnect if SQLite's file was replaced, because open connections use the old one. False if it is gone."""
        if self._path is None:
            return True
        file = _identity(self._path)
        if file is not None and self._file is not None and file != self._file:
            await self.dispose()
            self._file = file
        return file is not None


def engines(url: URL) -> tuple[AsyncEngine, AsyncEngine]:
    """Return the writer (one connection) and the reader. Create SQLite's file, but connect to nothing yet.

    Raises:
        ConfigurationError: the file cannot be created, or the URL holds an invalid setting.
    """
    postgresql = url.get_backend_name() == "postgresql"
    options: dict[str, Any] = {"pool_reset_on_return": None, "pool_timeout": 5}
    if postgresql:
        url, options["connect_args"] = _postgresql_options(url)
    else:
        url = _sqlite_file(url)
    readers = _READERS_POSTGRESQL if postgresql else _READERS_SQLITE
    # A database may default to SERIALIZABLE, under which one of two replicas that accept at once fails. Each change
    # here is one conditional statement, for which READ COMMITTED is enough.
    isolation = {"isolation_level": "READ COMMITTED"} if postgresql else {}
    writer = create_async_engine(url, pool_size=1, max_overflow=0, **isolation, **options)
    reader = create_async_engine(url, pool_size=readers, max_overflow=0, isolation_level="AUTOCOMMIT", **options)
    if not postgresql:
        _prepare_sqlite(writer, writes=True)
        _prepare_sqlite(reader, writes=False)
    return writer, reader


async def _set_ordinary(connection: AsyncConnection) -> None:
    """Override defaults of the role or database that would make a transaction less durable, shorter or less exact.

    The settings hold for this transaction alone, because a pooler may give the session to another program afterwards.
    The defaults are read once per connection.
    """
    wanted: dict[str, str] | None = connection.info.get("ordinary")
    if wanted is None:
        rows = await connection.execute(_SETTINGS, {"names": list(_ORDINARY)})
        wanted = {name: _ORDINARY[name] for name, value in rows if _is_odd(name, value)}
        connection.info["ordinary"] = wanted
    if wanted:
        await connection.execute(select(*(func.set_config(name, value, True) for name, value in wanted.items())))


def _is_odd(name: str, value: str) -> bool:
    if name == "extra_float_digits":
        return int(value) < 1
    return 0 < int(value) < _SHORTEST if value.isdigit() else value == "off"


def quiet_drivers() -> None:
    """Keep the drivers' warnings out of the log: they name host, port and database."""
    for name in ("psycopg", "sqlalchemy", "aiosqlite"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")


def _connection_class() -> type[Any]:
    """Return a psycopg connection that closes at once when its statement is cancelled.

    Psycopg itself asks the server to cancel the statement, and waits up to 10 s. A silent server would hold up a
    bounded request, or the end of the process, for that long. A cancelled session is not used again in any case.
    """
    from psycopg import AsyncConnection

    class Connection(AsyncConnection[Any]):
        async def cancel_safe(self, *, timeout: float = 0.0) -> None:  # noqa: ARG002
            self.pgconn.finish()

    return Connection


def _postgresql_options(url: URL) -> tuple[URL, dict[str, Any]]:
    """Return the URL without the driver's own settings, and the driver's arguments.

    Statements are not prepared unless the URL asks for it. A pooler that gives each transaction another session
    (PgBouncer) would lose them, and PostgreSQL plans a prepared statement without looking at its values.
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
    encoding = url.query.get("client_encoding", "UTF8")
    if not isinstance(encoding, str) or encoding.upper() not in ("UTF8", "UTF-8"):
        raise ConfigurationError(
            "client_encoding in RELAY_DATABASE_URL must be UTF8 (the default): no other encoding holds every answer"
        )
    for name, value in url.query.items():
        if not isinstance(value, str) and name not in ("host", "port"):
            raise ConfigurationError(f"RELAY_DATABASE_URL has a setting twice: {name!r}")
    try:
        url.get_dialect()().create_connect_args(url)
    except ArgumentError:
        raise ConfigurationError(
            "RELAY_DATABASE_URL has several hosts in another form than host=first:5432&host=second:5432"
        ) from None


def _sqlite_file(url: URL) -> URL:
    """Create the file before SQLite does, readable by its user alone; SQLite's side files inherit the mode.

    Return a URL that keeps SQLite from creating another file in its place: an empty one would break promises.
    """
    path = Path(str(url.database))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigurationError(
            f"the ledger cannot be opened: {reason} (set RELAY_DATABASE_URL to another place)"
        ) from None
    return url.set(database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"})


def _prepare_sqlite(engine: AsyncEngine, *, writes: bool) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions
        cursor = connection.cursor()
        if writes:  # before anything changes the file
            cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            refuse_foreign([row[0] for row in cursor.fetchall()])
        for pragma in (f"busy_timeout={_SQLITE_BUSY * 1000:.0f}", "journal_mode=WAL", "synchronous=FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if writes:

        @event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: Any) -> None:
            # A transaction that begins as a reader and writes later fails if another process wrote in between.
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _cancellations() -> int:
    """Return the number of pending cancellations of the current task."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, None if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
