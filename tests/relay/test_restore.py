"""From a backup to a started relay, with the commands of docs/runbook.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..fakes.gateway import Gateway
from ..fakes.postgresql import PostgreSQL
from ..fakes.scripted import eventually
from .running import RelayProcess, environment, relay_process, token

RUNBOOK = (Path(__file__).parents[2] / "docs/runbook.md").read_text()


def documented(name: str) -> str:
    (code,) = re.findall(rf"<!-- {name} -->\n```sh\n(.*?)```", RUNBOOK, re.DOTALL)
    return str(code)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The database's name in the runbook, and the environment of relays and commands."""
    env = {"HOME": str(tmp_path), "XDG_STATE_HOME": ""}
    if request.param == "sqlite":
        if shutil.which("sqlite3") is None:
            pytest.skip("needs sqlite3 (Debian: sqlite3)")
        yield request.param, env
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url = server.new_database().replace("postgresql+psycopg://", "postgresql://")
    yield request.param, env | {"RELAY_DATABASE_URL": url, "PATH": f"{server.programs}:{os.environ['PATH']}"}


def shell(code: str, env: dict[str, str], folder: Path) -> str:
    command = ["bash", "-eu", "-o", "pipefail", "-c", code]
    done = subprocess.run(command, env=os.environ | env, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_backup_is_restored_to_a_relay_that_completes_a_run(
    place: tuple[str, dict[str, str]], upstream: Gateway, tmp_path: Path
) -> None:
    database, env = place
    env = {**environment("", upstream, RELAY_MAX_RUNNING="1"), **env}
    if database == "sqlite":
        del env["RELAY_DATABASE_URL"]
    with relay_process(env) as relay:
        ended = relay.api.start("ended")
        relay.api.wait(ended)
        upstream.seconds = 3600.0
        running, queued = relay.api.start("running"), relay.api.start("queued")
        relay.api.submitted(running)
        shell(documented(f"backup-{database}"), env, tmp_path)
        # After the backup the queued run is submitted, and paid for.
        for work in upstream.works.values():
            work.seconds = 0.0
        relay.api.wait(running)
        assert eventually(lambda: len(upstream.posts) == 3)
        assert relay.terminate() == 0
    lost = RelayProcess(env).ready()
    later = lost.api.start("after the backup")
    lost.kill()
    shell(documented(f"restore-{database}"), env, tmp_path)
    for work in upstream.works.values():
        work.seconds = 0.0
    upstream.seconds = 0.0
    with relay_process(env) as relay:
        assert relay.api.wait(ended)["output_text"] == "The answer."
        assert relay.api.wait(running)["status"] == "completed"
        assert relay.api.wait(queued)["error_code"] == "submission_indeterminate"
        gone = relay.api.call("GET", f"/api/v1/tool-invocations/{later['invocation_id']}", headers=token(later))
        assert gone.status_code == 404
        assert relay.api.wait(relay.api.start("new"))["status"] == "completed"
        assert relay.terminate() == 0
    assert max(upstream.paid.values()) == 1


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs sqlite3 (Debian: sqlite3)")
def test_what_a_backup_calls_unsent_is_marked() -> None:
    """A run that was claimed, but not yet sent, may have been sent right after the backup."""
    statement = re.search(r"UPDATE .*?unsent\)", documented("restore-sqlite"), re.DOTALL)
    other = re.search(r"UPDATE .*?unsent\)", documented("restore-postgresql"), re.DOTALL)
    assert statement is not None
    assert other is not None
    assert statement[0].split() == other[0].split()
    rows = [
        ("queued", "NULL"), ("submitting", "1"), ("awaiting", "1"), ("submitting", "NULL"), ("running", "NULL"),
        ("cancelled", "1"), ("completed", "NULL"),
    ]  # fmt: skip
    values = ", ".join(f"('{state}', {unsent})" for state, unsent in rows)
    schema = "CREATE TABLE relay_invocations (state, unsent BOOLEAN, error_code, owner);"
    filled = f"{schema} INSERT INTO relay_invocations (state, unsent) VALUES {values};"
    code = f"{filled} {statement[0]}; SELECT state FROM relay_invocations"
    told = subprocess.run(["sqlite3", ":memory:", code], capture_output=True, text=True, timeout=60).stdout.split()
    assert told == ["failed", "failed", "failed", "submitting", "running", "cancelled", "completed"]
