"""Visiting a ledger: a command reads or changes what is there, but neither creates nor migrates anything."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from ...config import ConfigurationError
from .database import Database
from .engines import quiet_drivers
from .failures import LedgerUnavailable, Unstorable, why_not_opened
from .schema import NO_LEDGER, check_version, meta

T = TypeVar("T")


def visit(url: URL, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run `work` on an existing ledger of this version, and return its result.

    Raises:
        ConfigurationError: the ledger cannot be used.
    """
    quiet_drivers()
    # Without a handler, Python prints warnings and tracebacks of all libraries. The command reports a failure, once.
    logging.getLogger().addHandler(logging.NullHandler())
    if url.get_backend_name() == "sqlite":
        _check_file(Path(str(url.database)))

    async def visiting() -> T:
        database = Database(url, "visitor")
        try:
            await database.read(lambda connection: connection.run_sync(check_version))
            return await work(database)
        finally:
            await database.close()

    try:
        return asyncio.run(visiting())
    except (LedgerUnavailable, Unstorable) as error:
        cause = error.__context__ if isinstance(error.__context__, Exception) else error
        raise ConfigurationError(f"the ledger cannot be used: {why_not_opened(cause)}") from None
    except (DBAPIError, OSError) as error:
        raise ConfigurationError(f"the ledger cannot be used: {why_not_opened(error)}") from None


def _check_file(path: Path) -> None:
    """Raise ConfigurationError for a file that is not a ledger: opening it as one would change it."""
    if not path.exists():
        raise ConfigurationError(f"no ledger at {path} (set RELAY_DATABASE_URL to another place)")
    query = "SELECT count(*) FROM sqlite_master WHERE name = ?"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            (found,) = connection.execute(query, (meta.name,)).fetchone()
    except sqlite3.Error:
        return  # locked, or not a database: opening it gives the reason
    if not found:
        raise ConfigurationError(NO_LEDGER)
