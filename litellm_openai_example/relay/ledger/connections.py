"""Connections to the ledger's database.

Each connection is held for a bounded time, then cut under the statement that waits for a silent database. One that
failed is not used again: the server behind it may be gone, silent, or read-only by now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .engines import engines, set_ordinary
from .failures import is_outage

_LONGEST_READ = 5.0
_LONGEST_WRITE = 10.0
_LONGEST_MIGRATION = 3600.0


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
                await set_ordinary(connection)
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
