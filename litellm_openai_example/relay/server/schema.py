"""The ledger's tables, and the version that says which code may use them."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from ...config import ConfigurationError

VERSION = 1
_ADVISORY_LOCK = 0x6C69_7465_6C6C_6D72  # any number that no other program is likely to use

metadata = MetaData()

meta = Table(
    "relay_meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

# One row per invocation; see ledger.py for what `state` means and how it changes. Times are seconds since 1970.
invocations = Table(
    "relay_invocations",
    metadata,
    Column("id", String, primary_key=True),
    Column("idempotency_hash", String, unique=True),
    Column("fingerprint", String, nullable=False),
    Column("mode", String, nullable=False),
    Column("deliverable_format", String, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("owner", String),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("upstream_id", Text),
    Column("output_text", Text),
    Column("response", Text),
    Column("error_code", String),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("updated_at", Float, nullable=False),
    Index("relay_invocations_by_state", "state", "created_at"),
)

# The text of a streamed invocation as it came.
pieces = Table(
    "relay_pieces",
    metadata,
    Column("invocation_id", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("start", Integer, nullable=False),
    Column("text", Text, nullable=False),
)

# A lease per process: what it owns is its own until `expires_at`.
workers = Table(
    "relay_workers",
    metadata,
    Column("id", String, primary_key=True),
    Column("expires_at", Float, nullable=False),
)


class db_now(FunctionElement[float]):
    """The database's clock, seconds since 1970: the one clock that all processes share."""

    type = Float()
    inherit_cache = True
    name = "db_now"


@compiles(db_now, "sqlite")
def _sqlite_now(_element: db_now, _compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(_element: db_now, _compiler: Any, **_: Any) -> str:
    # Not now(): that stands still within a transaction.
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def prepare(connection: Connection) -> bytes:
    """Create the tables if there are none, check their version, and return the ledger's secret.

    Runs in one transaction that no other process can share.

    Raises:
        ConfigurationError: the tables are of another version.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    if not inspect(connection).has_table(meta.name):
        metadata.create_all(connection)
        values = {"version": str(VERSION), "secret": secrets.token_hex(32)}
        connection.execute(insert(meta), [{"key": key, "value": value} for key, value in values.items()])
    stored = {row.key: row.value for row in connection.execute(select(meta))}
    if stored.get("version") != str(VERSION):
        raise ConfigurationError(
            f"the ledger has schema version {stored.get('version')}, this relay needs {VERSION}: "
            "use the release that wrote it, or another RELAY_DATABASE_URL"
        )
    return bytes.fromhex(stored["secret"])
