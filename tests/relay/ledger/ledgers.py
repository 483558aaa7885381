"""Ledgers for tests: an open one, one full of finished runs, and one in the format of version 1."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, insert, text
from sqlalchemy.engine import make_url

from litellm_openai_example.relay.ledger.database import Database
from litellm_openai_example.relay.ledger.records import NewInvocation
from litellm_openai_example.relay.ledger.schema import invocations
from litellm_openai_example.relay.ledger.states import Ledger


@asynccontextmanager
async def opened(url: str, name: str = "me", **more: Any) -> AsyncIterator[Ledger]:
    database = Database(make_url(url), name)
    ledger = Ledger(database, name, lease=6.0, max_queued=100, **more)
    await ledger.open()
    try:
        await ledger.heartbeat()
        yield ledger
    finally:
        await database.close()


def new(name: str) -> NewInvocation:
    return NewInvocation(name, None, "f", "background", "markdown_brief", "{}")


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def finished_rows(count: int) -> list[dict[str, Any]]:
    row = {
        "fingerprint": "f", "mode": "background", "deliverable_format": "x", "arguments": "{}", "state": "completed",
        "cancel_requested": False, "attempts": 1, "not_before": 0.0, "output_text": "x" * 200,
    }  # fmt: skip
    now = time.time()
    return [row | {"id": f"inv_{n}", "created_at": now - n, "updated_at": now - n} for n in range(count)]


async def fill(ledger: Ledger, count: int) -> None:
    def work(connection: Connection) -> None:
        connection.execute(insert(invocations), finished_rows(count))
        connection.execute(text("ANALYZE"))

    await ledger.database.run(work)


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
