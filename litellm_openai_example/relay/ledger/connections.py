"""Connections to the ledger's database: each is held for so long at most, and cut under whoever waits for a silent one.

One that failed is not used again: what is behind it may have gone, fallen silent, or become a server that only reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .engines import engines, ordinary
from .failures import is_outage

_LONGEST_READ = 5.0
_LONGEST_WRITE = 10.0
_LONGEST_MIGRATION = 3600.0


class Connections:
    """All connections of this process to one database: one that writes, and some that read.

    Args:
        url: of SQLAlchemy, with an asynchronous driver.

    Raises:
        ConfigurationError: see `engines`.
    """

    def __init__(self, url: URL) -> None:
        self.postgresql = url.get_backend_name() == "postgresql"
        self.writer, self.reader = engines(url)
        self._file = None if self.postgresql else _File(Path(str(url.database)))
        self._in_use: set[object] = set()

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[AsyncConnection]:
        """One to open the ledger with. From then on SQLite's file is known."""
        async with self._session(self.writer, _LONGEST_MIGRATION) as connection:
            yield connection
        if self._file is not None:
            self._file.opened()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One for SELECTs."""
        await self._follow_file()
        async with self._session(self.reader, _LONGEST_READ) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """The one for changes. Raises FileNotFoundError where SQLite's file is gone: changes to it would be lost."""
        if self._file is not None and not self._file.exists():
            raise FileNotFoundError
        await self._follow_file()
        async with self._session(self.writer, _LONGEST_WRITE) as connection:
            if self.postgresql:
                await ordinary(connection)
            yield connection

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Any]:
        """PostgreSQL's own connection, for as long as is wanted."""
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
        """Cut all that are in use."""
        for driver in list(self._in_use):
            self._cut(driver)

    async def dispose(self) -> None:
        """Close those that are not in use."""
        for engine in (self.writer, self.reader):
            await engine.dispose()

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine, longest: float) -> AsyncIterator[AsyncConnection]:
        cancellations = _cancellations()
        async with engine.connect() as connection:
            if _cancellations() > cancellations:
                # SQLAlchemy 2.0 waits for it by `asyncio.wait_for`, which can swallow one before Python 3.12.
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
        """Close a connection under whoever waits for its answer. (SQLite's answers by itself, see SQLITE_BUSY.)"""
        if self.postgresql:
            driver.pgconn.finish()

    async def _follow_file(self) -> None:
        """Leave a file that was replaced: its connections would go on with the old one."""
        if self._file is not None and self._file.replaced():
            await self.dispose()
            self._file.opened()


def _cancellations() -> int:
    """How often the current task was asked to end and has not."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class _File:
    """SQLite's file, which may be deleted or replaced while it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None

    def _now(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def opened(self) -> None:
        self._identity = self._now()

    def exists(self) -> bool:
        return self._now() is not None

    def replaced(self) -> bool:
        """Whether there is another file of that name now."""
        now = self._now()
        return now is not None and self._identity is not None and now != self._identity
