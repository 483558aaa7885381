"""Invocation tokens: the ones that open a run, and the secrecy of all against a reader of the ledger."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import sqlite3
import time
from base64 import urlsafe_b64encode
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from litellm_openai_example.relay.ledger.database import Database
from litellm_openai_example.relay.ledger.schema import metadata
from litellm_openai_example.relay.ledger.states import Ledger
from litellm_openai_example.relay.ledger.tokens import Tokens
from litellm_openai_example.research.contract import INVOCATIONS_PATH

from ...fakes.gateway import Gateway
from ..conftest import StartRelay
from ..running import Json, ThreadedRelay, body
from .ledgers import new, opened, run, write_old

COLUMNS_OF_3 = (
    "id idempotency_hash fingerprint mode deliverable_format arguments state owner cancel_requested attempts "
    "not_before upstream_id output_text response error_code created_at started_at updated_at cost_usd tags unsent"
)
KEY = "7f0e6a40b8a94c0f9f6c0c1a52c1d9a3"


def computed(secret: bytes, words: str) -> str:
    """Return the token that releases before schema version 4 make from an id, computed step by step."""
    return urlsafe_b64encode(hmac.digest(secret, words.encode(), hashlib.sha256)).rstrip(b"=").decode()


def sqlite_file(relay: ThreadedRelay) -> Path:
    return Path(str(relay.settings.database_url.database))


def status(relay: ThreadedRelay, id: str, token: str, suffix: str = "") -> int:
    method = "POST" if suffix == "/cancel" else "GET"
    headers = {"X-Invocation-Token": token}
    return relay.api.call(method, f"{INVOCATIONS_PATH}/{id}{suffix}", headers=headers).status_code


@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": KEY}], ids=["without a key", "with a key"])
def test_a_reader_of_a_backup_opens_nothing(relay: ThreadedRelay, upstream: Gateway, headers: dict[str, str]) -> None:
    upstream.seconds = 30
    started: Json = relay.api.post(body(background=True), **headers).json()
    id, token = started["invocation_id"], started["invocation_token"]
    relay.api.submitted(started)
    with closing(sqlite3.connect(sqlite_file(relay))) as connection:
        dump = "\n".join(connection.iterdump())
        row = dict(zip([c[1] for c in connection.execute("PRAGMA table_info(relay_invocations)")],
                       connection.execute("SELECT * FROM relay_invocations").fetchone(), strict=True))  # fmt: skip
        (secret,) = connection.execute("SELECT value FROM relay_meta WHERE key = 'secret'").fetchone()
    assert token not in dump
    assert token[43:] not in dump
    assert KEY not in dump
    first = computed(bytes.fromhex(secret), id)
    assert token.startswith(first)
    held = [str(value) for value in row.values() if value is not None]
    guesses = [first, *(first + value for value in held), *held]
    guesses += [first + computed(bytes.fromhex(secret), f"{id}\n{seed}") for seed in ("", "None", *held)]
    for guess in guesses:
        for suffix in ("", "/cancel", "/events", "/wait"):
            assert status(relay, id, guess[:500].encode("ascii", "replace").decode(), suffix) == 403
    assert relay.api.view(started)["status"] == "running"


def test_each_ledger_has_a_random_secret(tmp_path: Path) -> None:
    async def secret(name: str) -> bytes:
        async with opened(f"sqlite+aiosqlite:///{tmp_path}/{name}") as ledger:
            return ledger.tokens.secret

    secrets = {asyncio.run(secret(f"ledger-{n}")) for n in range(3)}
    assert len(secrets) == 3
    assert all(len(set(one)) > 8 and len(one) == 32 for one in secrets)


def test_a_repeated_start_gets_the_same_token_from_any_replica(database_url: str, start_relay: StartRelay) -> None:
    one, two = start_relay(database_url=database_url), start_relay(database_url=database_url)
    first = one.api.post(body(background=True), Idempotency_Key=KEY).json()
    again = two.api.post(body(background=True), Idempotency_Key=KEY).json()
    assert again["invocation_token"] == first["invocation_token"]
    two.api.wait(first)
    other = two.api.post(body(background=True), Idempotency_Key="another").json()
    assert other["invocation_token"][43:] != first["invocation_token"][43:]


def test_the_same_key_makes_different_tokens_for_different_runs() -> None:
    tokens = Tokens(b"\x01" * 32)
    one, two = (tokens.protect(new(id), KEY).token_hash for id in ("a", "b"))
    assert one != two


def test_a_token_of_an_older_release_opens_its_run(sqlite_url: str, start_relay: StartRelay) -> None:
    async def write() -> None:
        old = Database(make_url(sqlite_url), "old")
        await old.run(write_old)
        await old.close()

    asyncio.run(write())
    relay = start_relay(database_url=sqlite_url)
    token = computed(b"\x00\xff", "dead_completed")
    assert status(relay, "dead_completed", token) == 200
    for wrong in ("", token[:-1], token + "x", token + token, computed(b"\x00\xff", "alive_completed")):
        assert status(relay, "dead_completed", wrong) == 403


def back_to_3(connection: Connection) -> None:
    """Remove the columns that later versions have added."""
    kept = {"relay_invocations": COLUMNS_OF_3.split(), "relay_workers": ["id", "expires_at", "ticks"]}
    for table, columns in kept.items():
        for column in metadata.tables[table].columns:
            if column.name not in columns:
                connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column.name}"))
    connection.execute(text("UPDATE relay_meta SET value = '3' WHERE key = 'version'"))


def test_migration_from_version_3(database_url: str) -> None:
    """Migrate a ledger with a run that the older release accepted under a key."""

    async def work() -> None:
        async with opened(database_url) as ledger:
            await ledger.accept(replace(new("old"), idempotency_hash="hash of a key"))
            await ledger.database.run(back_to_3)
            secret = ledger.tokens.secret
        async with opened(database_url, "newer") as ledger:
            repeat = replace(new("repeat"), idempotency_hash="hash of a key")
            found = await ledger.accept(ledger.tokens.protect(repeat, KEY))
            assert found.id == "old"
            assert ledger.tokens.given(found, KEY) == computed(secret, "old")
            assert ledger.tokens.opens(computed(secret, "old"), found)

    run(work)


def test_tokens_have_the_old_form_beside_an_older_process(database_url: str) -> None:
    """An older process cannot check a new token, and would refuse its owner."""

    async def accepted(ledger: Ledger, id: str) -> str:
        return ledger.tokens.given(await ledger.accept(ledger.tokens.protect(new(id), KEY)), KEY)

    async def work() -> None:
        async with opened(database_url, "first") as ledger:
            lease = f"INSERT INTO relay_workers (id, expires_at) VALUES ('older', {time.time() + 600})"
            await ledger.database.run(lambda connection: connection.execute(text(lease)))
        async with opened(database_url) as ledger:
            assert await accepted(ledger, "beside") == ledger.tokens.derived("beside")
            gone = text("DELETE FROM relay_workers WHERE id = 'older'")
            await ledger.database.run(lambda connection: connection.execute(gone))
            await ledger.heartbeat()
            token = await accepted(ledger, "after")
            assert len(token) == 2 * len(ledger.tokens.derived("after"))
            records = await ledger.get_many(["beside", "after"])
            assert ledger.tokens.opens(ledger.tokens.derived("beside"), records["beside"])
            assert ledger.tokens.opens(token, records["after"])
            assert not ledger.tokens.opens(ledger.tokens.derived("after"), records["after"])

    run(work)
