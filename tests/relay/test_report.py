"""`litellm-relay --list` and `--cost`: on both databases, without a gateway."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from litellm_openai_example.relay.ledger.records import NewInvocation, Outcome

from .ledger.ledgers import new, opened, run


def report(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {"RELAY_DATABASE_URL": url, "PATH": "/usr/bin"}
    command = [sys.executable, "-m", "litellm_openai_example.relay", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def told(url: str, *options: str) -> Any:
    done = report(url, *options, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_runs_and_costs(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            tags = json.dumps({"x-litellm-tags": "team-a"})
            await ledger.accept(NewInvocation("a", None, "f", "background", "markdown_brief", "{}", tags))
            for name in "bcd":
                await ledger.accept(new(name))
            await ledger.claim(3, blocks=False)
            await ledger.submitted("a", "resp_1")
            await ledger.settle("b", Outcome("completed", None, "x", {"model": "m-1", "cost_usd": 0.25}))
            await ledger.settle("c", Outcome("failed", "research_timeout"))

    run(work)
    assert [(one["id"], one["state"]) for one in told(database_url, "--list")] == [("a", "running"), ("d", "queued")]
    assert told(database_url, "--list")[0]["payer"] == {"x-litellm-tags": "team-a"}
    (ended,) = told(database_url, "--list", "--state", "completed")
    assert (ended["id"], ended["cost_usd"]) == ("b", 0.25)
    assert 0 <= ended["seconds"] < 60
    costs = {one["model"]: (one["runs"], one["cost_usd"], one["cost_unknown"]) for one in told(database_url, "--cost")}
    assert costs == {"m-1": (1, 0.25, 0), None: (1, 0, 1)}
    assert told(database_url, "--cost", "--since", "2999-01-01") == []
    lines = report(database_url, "--list").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["a", "running"], ["d", "queued"]]


def test_runs_in_a_window(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            for name, window in (("a", "8h"), ("b", "2h"), ("c", None)):
                await ledger.accept(replace(new(name), completion_window=window))
            await ledger.claim(3, blocks=False)
            for name in "bc":
                await ledger.settle(name, Outcome("completed", None, "x", {"model": "m", "cost_usd": 0.25}))
            assert (await ledger.unfinished())[1] == {"2h": 0, "8h": 1}

    run(work)
    assert [(one["id"], one["window"]) for one in told(database_url, "--list")] == [("a", "8h")]
    assert report(database_url, "--list").stdout.splitlines()[0].endswith("window 8h")
    ended = {one["id"]: one["window"] for one in told(database_url, "--list", "--state", "completed")}
    assert ended == {"b": "2h", "c": None}
    lines = report(database_url, "--list", "--state", "completed").stdout.splitlines()
    assert [line.endswith("without the window's discount)") for line in sorted(lines)] == [True, False]
    (cost,) = told(database_url, "--cost")
    assert (cost["runs"], cost["cost_usd"], cost["in_window"]) == (2, 0.5, 1)
    assert "(1 in a window: LiteLLM's price, without the window's discount)" in report(database_url, "--cost").stdout


def test_odd_models_and_costs_of_a_gateway(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            for name in "ab":
                await ledger.accept(new(name))
            await ledger.claim(2, blocks=False)
            for name in "ab":
                response = {"model": 'm"\n\x1b[31m', "cost_usd": 1e308}
                await ledger.settle(name, Outcome("completed", None, "x", response))

    run(work)
    (one,) = told(database_url, "--cost")
    assert (one["runs"], one["cost_usd"], one["cost_unknown"]) == (2, 0, 2)
    (line,) = report(database_url, "--cost").stdout.splitlines()
    assert "\x1b" not in line


def test_an_unreadable_ledger_is_one_line(tmp_path: Path) -> None:
    missing = report(f"sqlite:///{tmp_path}/none.sqlite3", "--list")
    assert missing.returncode == 2
    assert "no ledger at" in missing.stderr
    assert not list(tmp_path.iterdir())
    (tmp_path / "text").write_text("no database, but a text that is long enough " * 20)
    for url in (f"sqlite:///{tmp_path}/text", "postgresql://user:sk-secret@127.0.0.1:1/none"):
        done = report(url, "--cost")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "sk-secret" not in done.stderr
    assert "must be one of" in report(f"sqlite:///{tmp_path}/text", "--list", "--state", "x").stderr


@pytest.mark.parametrize(
    "options",
    ["--state failed", "--since 2026-01-01", "--json", "--list --cost", "--list --since 2026-01-01", "--port 0 --list"],
)
def test_report_options_never_start_a_relay(options: str, tmp_path: Path) -> None:
    done = report(f"sqlite:///{tmp_path}/ledger.sqlite3", *options.split())
    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_ledger_of_another_release_is_named(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            newer = text("UPDATE relay_meta SET value = '99' WHERE key = 'version'")
            await ledger.database.write(lambda transaction: transaction.connection.execute(newer))

    run(work)
    done = report(database_url, "--list")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("[relay] Error: the ledger has schema version 99")
    assert len(done.stderr.splitlines()) == 1


def test_a_database_without_a_ledger_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with closing(sqlite3.connect(tmp_path / "another's")) as connection:
        connection.execute("CREATE TABLE t (x)")
    for path in sorted(tmp_path.iterdir()):
        before = path.read_bytes()
        done = report(f"sqlite:///{path}", "--cost")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "holds no ledger" in done.stderr
        assert path.read_bytes() == before


def test_an_unwritable_stdout_is_an_error(sqlite_url: str) -> None:
    async def work() -> None:
        async with opened(sqlite_url):
            pass

    run(work)
    environment = {"RELAY_DATABASE_URL": sqlite_url, "PATH": "/usr/bin"}
    command = [sys.executable, "-m", "litellm_openai_example.relay", "--list"]
    read, write = os.pipe()
    os.close(read)
    gone = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (gone.returncode, gone.stderr) == (141, "")
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    lost = subprocess.run(closed, env=environment, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (lost.returncode, lost.stderr) == (2, "[relay] Error: stdout is closed: the report would be lost\n")
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith("[relay] Error: cannot write to stdout")
        assert len(done.stderr.splitlines()) == 1
