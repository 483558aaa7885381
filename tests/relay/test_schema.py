"""A ledger of the release before is opened by this one, with a replica of the old version still running."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import Connection, text

from litellm_openai_example.config import ConfigurationError

from .test_ledger import new, opened, run

VERSION_1 = """
CREATE TABLE relay_meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);
CREATE TABLE relay_invocations (
    id VARCHAR PRIMARY KEY, idempotency_hash VARCHAR UNIQUE, fingerprint VARCHAR NOT NULL, mode VARCHAR NOT NULL,
    deliverable_format VARCHAR NOT NULL, arguments TEXT NOT NULL, state VARCHAR NOT NULL, owner VARCHAR,
    cancel_requested BOOLEAN NOT NULL, attempts INTEGER NOT NULL, not_before FLOAT NOT NULL, upstream_id TEXT,
    output_text TEXT, response TEXT, error_code VARCHAR, created_at FLOAT NOT NULL, started_at FLOAT,
    updated_at FLOAT NOT NULL);
CREATE INDEX relay_invocations_by_state ON relay_invocations (state, created_at);
CREATE TABLE relay_pieces (invocation_id VARCHAR, seq INTEGER, start INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (invocation_id, seq));
CREATE TABLE relay_workers (id VARCHAR PRIMARY KEY, expires_at FLOAT NOT NULL);
INSERT INTO relay_meta VALUES ('version', '1'), ('secret', '00ff')
"""
STATES = ("queued", "submitting", "awaiting", "running", "completed", "incomplete", "failed", "cancelled")
OWNED = ("submitting", "awaiting", "running")


def old_row(id: str, state: str, owner: str | None) -> str:
    return (
        "INSERT INTO relay_invocations (id, fingerprint, mode, deliverable_format, arguments, state, owner,"
        f" cancel_requested, attempts, not_before, created_at, updated_at) VALUES ('{id}', 'f', 'background', 'x', "
        f"'{{}}', '{state}', {'NULL' if owner is None else repr(owner)}, false, 1, 0, {time.time()}, {time.time()})"
    )


def write_old(connection: Connection) -> None:
    for statement in VERSION_1.split(";"):
        connection.execute(text(statement))
    for worker, left in (("alive", 600), ("dead", -600)):
        connection.execute(text(f"INSERT INTO relay_workers VALUES ('{worker}', {time.time() + left})"))
        for state in STATES:
            connection.execute(text(old_row(f"{worker}_{state}", state, worker if state in OWNED else None)))


def test_from_version_1(database_url: str) -> None:
    async def work() -> None:
        from sqlalchemy.engine import make_url

        from litellm_openai_example.relay.ledger.database import Database

        old = Database(make_url(database_url), "old")
        await old.run(write_old)
        async with opened(database_url) as ledger, opened(database_url, "another"):
            records = await ledger.get_many([f"{w}_{s}" for w in ("alive", "dead") for s in STATES])
            assert sorted(record.state for record in records.values()) == sorted(2 * STATES)
            # The old replica goes on: accepts, renews its lease, ends its runs.
            await old.run(lambda connection: connection.execute(text(old_row("late", "queued", None))))
            renew = text(f"UPDATE relay_workers SET expires_at = {time.time() + 900} WHERE id = 'alive'")
            await old.run(lambda connection: connection.execute(renew))
            lost = await ledger.bury(judge=True)
            assert {record.id for record in lost} == {"dead_submitting", "dead_awaiting"}
            assert [record.id for record in await ledger.take_over(judge=True, limit=9)] == ["dead_running"]
            claimed = await ledger.claim(9, blocks=False)
            assert {record.id for record in claimed} == {"alive_queued", "dead_queued", "late"}
            await ledger.accept(new("fresh"))
        await old.close()

    run(work)


def test_a_newer_one_is_refused(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as ledger:
            await ledger.database.run(
                lambda connection: connection.execute(text("UPDATE relay_meta SET value = '99' WHERE key = 'version'"))
            )
        async with opened(database_url):
            pass

    with pytest.raises(ConfigurationError, match="schema version 99"):
        run(work)
