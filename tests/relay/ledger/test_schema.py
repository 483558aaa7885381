"""Migration of an older release's ledger, with a replica of that version still running."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from litellm_openai_example.config import ConfigurationError
from litellm_openai_example.relay.ledger.records import Outcome, Piece

from .ledgers import OWNED, STATES, new, old_row, opened, run, write_old


def test_migration_from_version_1(database_url: str) -> None:
    async def work() -> None:
        from sqlalchemy.engine import make_url

        from litellm_openai_example.relay.ledger.database import Database

        old = Database(make_url(database_url), "old")
        await old.run(write_old)
        async with opened(database_url) as ledger, opened(database_url, "another"):
            records = await ledger.get_many([f"{w}_{s}" for w in ("alive", "dead") for s in STATES])
            assert sorted(record.state for record in records.values()) == sorted(2 * STATES)
            # The old replica carries on: accepts, renews its lease, ends its runs.
            await old.run(lambda connection: connection.execute(text(old_row("late", "queued", None))))
            renew = text(f"UPDATE relay_workers SET expires_at = {time.time() + 900} WHERE id = 'alive'")
            await old.run(lambda connection: connection.execute(renew))
            lost = await ledger.fail_orphans(may_declare_dead=True, limit=9)
            assert {record.id for record in lost} == {"dead_submitting", "dead_awaiting"}
            assert [record.id for record in await ledger.reclaim(may_declare_dead=True, limit=9)] == ["dead_running"]
            claimed = await ledger.claim(9, blocks=False)
            assert {record.id for record in claimed} == {"alive_queued", "dead_queued", "late"}
            await ledger.accept(new("fresh"))
        await old.close()

    run(work)


def test_migration_from_version_4(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url, "before") as ledger:
            await ledger.accept(new("old"))
            for statement in (
                "ALTER TABLE relay_invocations DROP COLUMN completion_window",
                "ALTER TABLE relay_workers DROP COLUMN drain",
                "UPDATE relay_meta SET value = '4' WHERE key = 'version'",
            ):
                await ledger.database.run(lambda connection, one=statement: connection.execute(text(one)))  # type: ignore[misc]
        async with opened(database_url, "first") as ledger, opened(database_url, "second") as other:
            await ledger.accept(replace(new("fresh"), completion_window="8h"))
            claimed = {record.id: record for record in await other.claim(9, blocks=False)}
            assert {name: record.window for name, record in claimed.items()} == {"old": None, "fresh": "8h"}
            assert claimed["old"].view.may_take_until is None
            assert claimed["fresh"].view.may_take_until is not None

    run(work)


def test_a_newer_ledger_is_refused(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            await ledger.database.run(
                lambda connection: connection.execute(text("UPDATE relay_meta SET value = '99' WHERE key = 'version'"))
            )
        async with opened(database_url):
            pass

    with pytest.raises(ConfigurationError, match="schema version 99"):
        run(work)


async def _filled(url: str, states: tuple[str, ...]) -> dict[str, str]:
    """Fill a ledger with a run in each state; return their tokens."""
    async with opened(url) as ledger:
        records = {}
        for state in states:
            records[state] = await ledger.accept(ledger.tokens.protect(new(state), f"seed of {state}"))
            if state == "queued":  # last, so that nobody claims it
                continue
            await ledger.claim(9, blocks=state == "awaiting")
            if state in ("running", "completed", "incomplete"):
                await ledger.submitted(state, f"resp_{state}")
            if state not in OWNED:
                await ledger.settle(state, Outcome(state, None, "the text", {"cost_usd": 0.25, "model": "m"}))
        await ledger.append("running", Piece(1, 0, "begun"))
        return {state: ledger.tokens.given(records[state], f"seed of {state}") for state in states}


def test_a_backup_of_a_running_relay_is_complete(
    database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    states = (*STATES[1:], STATES[0])
    restored = ""

    async def back_up() -> dict[str, str]:
        nonlocal restored
        tokens = await _filled(database_url, states)
        async with opened(database_url, "running"):  # the backup is taken while the ledger is in use
            restored = await asyncio.to_thread(_backup, database_url, tmp_path, request)
        async with opened(database_url) as ledger:
            await ledger.accept(new("after the backup"))
        return tokens

    async def check(tokens: dict[str, str]) -> None:
        async with opened(restored, "another") as ledger:
            records = await ledger.get_many([*states, "after the backup"])
            assert {name: record.state for name, record in records.items()} == {state: state for state in states}
            assert records["completed"].view.cost_usd == 0.25
            assert records["running"].upstream_id == "resp_running"
            assert [piece.text for piece in await ledger.pieces("running")] == ["begun"]
            assert all(ledger.tokens.opens(tokens[state], records[state]) for state in states)
            await ledger.accept(new("fresh"))

    tokens = asyncio.run(asyncio.wait_for(back_up(), 60))
    asyncio.run(asyncio.wait_for(check(tokens), 60))


def _backup(url: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Back up with the database's own tools, restore, and return the URL of the copy."""
    if url.startswith("sqlite"):
        source, target = Path(url.removeprefix("sqlite+aiosqlite:///")), folder / "restored.sqlite3"
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as copy:
            old.backup(copy)  # as the command's `.backup` does
        return f"sqlite+aiosqlite:///{target}"
    restored: str = request.getfixturevalue("postgresql").copy(url)
    return restored
