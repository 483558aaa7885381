"""The ledger's tables, and the version that says which code may use them.

A ledger of an older version is brought to this one when it is opened, under the lock. Steps only add (columns that
may be empty, indexes), so that processes of the older version that are running go on; while a step builds its indexes
they and their clients wait, or are told `ledger_unavailable`, for as long as that takes. One of the older version
that starts afterwards refuses, with one line. Alembic would need a second place that says what the tables are, and
its own table and command; a step here is a function.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
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
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn
from sqlalchemy.sql.expression import FunctionElement

from ...config import ConfigurationError
from ...research.contract import TERMINAL

VERSION = 4
IN_FLIGHT = ("submitting", "awaiting")
ACTIVE = (*IN_FLIGHT, "running")
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
    Column("cost_usd", Float),
    Column("tags", Text),
    # True from the claim until just before the request leaves. No state of its own: processes of an older version, who
    # know nothing of it, take such a row for one that was perhaps sent.
    Column("unsent", Boolean),
    # See tokens.py; empty for what a process of an older version accepted, or this one beside such a process.
    Column("token_hash", String),
    # Seconds that processes have worked on it since its first claim, each by its own clock that only runs forward: the
    # time limit goes by them. Empty as long as none has written them down.
    Column("followed", Float),
    # The error code that it is to end with once the gateway confirms that it has stopped it. A client's wish is
    # `cancel_requested`.
    Column("stop_reason", String),
)


def in_state(row: Any, states: Iterable[str]) -> ColumnElement[bool]:
    """Written out, not as parameters: only so are the indexes below of use, which hold the rows of some states."""
    names = [literal_column(f"'{state}'", String) for state in states]
    return row.state == names[0] if len(names) == 1 else row.state.in_(names)  # type: ignore[no-any-return]


IS_QUEUED = in_state(invocations.c, ["queued"])
IS_ACTIVE = in_state(invocations.c, ACTIVE)
IS_ENDED = in_state(invocations.c, sorted(TERMINAL))

# What is looked for again and again is in few rows; the many that have ended cost nothing.
for _name, _column, _where in (
    ("queued", invocations.c.created_at, IS_QUEUED),
    ("active", invocations.c.owner, IS_ACTIVE),
    ("ended", invocations.c.updated_at, IS_ENDED),
):
    Index(f"relay_invocations_{_name}", _column, postgresql_where=_where, sqlite_where=_where)

# The text of a streamed invocation as it came.
pieces = Table(
    "relay_pieces",
    metadata,
    Column("invocation_id", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("start", Integer, nullable=False),
    Column("text", Text, nullable=False),
)

# A lease per process: what it owns is its own until `expires_at`, by the database's clock. On SQLite all processes are
# on one machine, whose clock may be set or may have slept: there `ticks` counts, the end of the lease by the clock that
# only runs forward while the machine runs. It is empty for processes of version 1, and on PostgreSQL.
workers = Table(
    "relay_workers",
    metadata,
    Column("id", String, primary_key=True),
    Column("expires_at", Float, nullable=False),
    Column("ticks", Float),
    # The schema version that the process knows; empty for processes before version 4.
    Column("version", Integer),
    # Seconds for which the process was told to keep results; the longest holds.
    Column("retention", Float),
    # Written to prove that the database takes as much as a start is; nobody reads it. The last one, as it is long.
    Column("proof", Text),
)


class db_now(FunctionElement[float]):
    """The database's clock, seconds since 1970: the one clock that all processes share."""

    type = Float()
    inherit_cache = True
    name = "db_now"


@compiles(db_now, "sqlite")
def _sqlite_now(_element: db_now, _compiler: object, **_: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(_element: db_now, _compiler: object, **_: object) -> str:
    # Not now(): that stands still within a transaction.
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def prepare(connection: Connection) -> bytes:
    """Create the tables if there are none, bring them to this version, and return the ledger's secret.

    Runs in one transaction that no other process can share.

    Raises:
        ConfigurationError: the tables are of a newer version or another program, or the database cannot hold a ledger.
    """
    if connection.dialect.name == "postgresql":
        _check_encoding(connection)
        # Another process may be moving a large ledger: however long that takes, it is no reason to give up.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    inspector = inspect(connection)
    if not inspector.has_table(meta.name):
        refuse_foreign(name for name in metadata.tables if inspector.has_table(name))
        metadata.create_all(connection)
        values = {"version": str(VERSION), "secret": secrets.token_hex(32)}
        connection.execute(insert(meta), [{"key": key, "value": value} for key, value in values.items()])
    stored = {row.key: row.value for row in connection.execute(select(meta))}
    version = stored.get("version", "")
    if version != str(VERSION):
        if not (version.isascii() and version.isdigit() and int(version) in range(1, VERSION)):
            raise ConfigurationError(
                f"the ledger has schema version {version or 'None'}, this relay needs {VERSION}: "
                "use the release that wrote it, or another RELAY_DATABASE_URL"
            )
        for step in _STEPS[int(version) - 1 :]:
            step(connection)
        connection.execute(update(meta).where(meta.c.key == "version").values(value=str(VERSION)))
    if connection.dialect.name == "postgresql":
        _check_rows_visible(connection)
    return bytes.fromhex(stored["secret"])


def refuse_foreign(tables: Iterable[str]) -> None:
    """Raise ConfigurationError if a database holds some of these tables, and no ledger."""
    names = set(tables)
    if names and meta.name not in names:
        raise ConfigurationError(
            "the database of RELAY_DATABASE_URL belongs to another program: it holds tables, and no ledger among them"
        )


def _check_encoding(connection: Connection) -> None:
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise ConfigurationError(
            f"the encoding of the ledger's database is {encoding}, but must be UTF8, which holds every answer: "
            "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )


def _check_rows_visible(connection: Connection) -> None:
    for table in metadata.tables:
        if connection.scalar(text("SELECT row_security_active(CAST(:name AS text))"), {"name": table}):
            raise ConfigurationError(
                f"row-level security hides rows of {table} from the relay's role: make the role the table's owner"
            )


NO_LEDGER = "that database holds no ledger: a relay makes one when it starts"


def check_version(connection: Connection) -> None:
    """Raises ConfigurationError unless there is a ledger, and of this version. Changes nothing."""
    if not inspect(connection).has_table(meta.name):
        raise ConfigurationError(NO_LEDGER)
    version = connection.scalar(select(meta.c.value).where(meta.c.key == "version"))
    if version != str(VERSION):
        raise ConfigurationError(
            f"the ledger has schema version {version}, this release reads {VERSION}: an older one is brought to it "
            "when a relay of this release starts"
        )


def _to_2(connection: Connection) -> None:
    """Cost and tags; leases that no clock step ends; indexes over the rows that are looked for."""
    row = invocations.c
    _add_columns(connection, row.cost_usd, row.tags, workers.c.ticks)
    for index in invocations.indexes:
        index.create(connection)
    connection.execute(text("DROP INDEX relay_invocations_by_state"))


def _to_3(connection: Connection) -> None:
    """What was claimed and not sent."""
    _add_columns(connection, invocations.c.unsent)


def _to_4(connection: Connection) -> None:
    """Add hashed tokens, what a process knows, keeps and can write, monotonic time limits, and wishes to stop."""
    row, lease = invocations.c, workers.c
    _add_columns(connection, row.token_hash, row.followed, row.stop_reason, lease.version, lease.retention, lease.proof)


def _add_columns(connection: Connection, *columns: Column[Any]) -> None:
    for column in columns:
        definition = CreateColumn(column).compile(dialect=connection.dialect)
        connection.execute(text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}"))


_STEPS: list[Callable[[Connection], None]] = [_to_2, _to_3, _to_4]
