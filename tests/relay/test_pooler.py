"""The relay on PostgreSQL behind PgBouncer with transaction pooling, without special settings."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from ..fakes.gateway import Gateway
from ..fakes.postgresql import PostgreSQL
from ..fakes.scripted import eventually, free_port
from .running import environment, relay_process

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs PgBouncer (Debian: pgbouncer)")

CONFIGURATION = """[databases]
ledger = host={host} port={port} dbname={database} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
auth_type = any
pool_mode = transaction
default_pool_size = 4
unix_socket_dir =
logfile = {folder}/log
"""


@pytest.fixture
def pooled(postgresql: PostgreSQL, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database behind PgBouncer with four server connections."""
    url, port = make_url(postgresql.new_database()), free_port()
    (tmp_path / "ini").write_text(
        CONFIGURATION.format(
            host=url.host or url.query["host"],
            port=url.port or 5432,
            database=url.database,
            user=url.username,
            listen=port,
            folder=tmp_path,
        )
    )
    command = [str(PGBOUNCER), "-q"]
    if os.getuid() == 0:  # PgBouncer refuses to run as root; the server's user may use the server's socket
        user = Path(str(url.query["host"])).owner()
        command += ["-u", user]
        for path in (tmp_path, tmp_path / "ini"):
            shutil.chown(path, user)
        for folder in tmp_path.parents:
            if folder.name.startswith(("pytest-", "popen-")):
                folder.chmod(0o755)
    process = subprocess.Popen([*command, str(tmp_path / "ini")])
    pooled = f"postgresql://any@127.0.0.1:{port}/ledger"
    try:
        assert eventually(lambda: _answers(pooled)), (tmp_path / "log").read_text()
        yield pooled
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=3) as connection:
            return connection.execute("SELECT 1").fetchone() is not None
    except psycopg.OperationalError:
        return False


def test_the_relay_works_behind_a_pooler(pooled: str, upstream: Gateway) -> None:
    upstream.seconds = 0.5
    with ExitStack() as stack, ThreadPoolExecutor(12) as pool:
        relays = [stack.enter_context(relay_process(environment(pooled, upstream))) for _ in range(2)]

        def run(number: int) -> str:
            api = relays[number % 2].api
            return str(api.wait(api.start(f"question {number}"))["status"])

        assert set(pool.map(run, range(36))) == {"completed"}
        assert [relay.api.call("GET", "/readyz").status_code for relay in relays] == [200, 200]
        assert list(upstream.paid.values()) == [1] * 36
        for relay in relays:  # notifications do not pass such a pooler, which is logged once
            assert len([line for line in relay.lines if "WARNING" in line]) == 1, relay.log
            assert "ERROR" not in relay.log
