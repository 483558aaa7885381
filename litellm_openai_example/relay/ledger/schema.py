"""The ledger's tables, and their schema version.

Opening a ledger of an older version migrates it, under a lock. Steps only add (nullable columns, indexes), so running
processes of the older version carry on; while a step builds indexes, they and their clients wait or get
`ledger_unavailable`. A process of the older version that starts afterwards refuses with one line. A step is a function
here; Alembic would need a second description of the tables, a table and a command.
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
    and_,
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

VERSION = 5
IN_FLIGHT = ("submitting", "awaiting")
ACTIVE = (*IN_FLIGHT, "running")
_ADVISORY_LOCK = 0x6C69_7465_6C6C_6D72  # arbitrary; no other program is likely to use it

metadata = MetaData()

meta = Table(
    "relay_meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

# One row per invocation; states.py explains `state`. Times are seconds since 1970.
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
    # True from the claim until right before the request is sent. Not a state: processes of an older version, which do
    # not know the column, treat such a row as perhaps sent.
    Column("unsent", Boolean),
    # See tokens.py. Empty if accepted by a process of an older version, or beside one.
    Column("token_hash", String),
    # Seconds that processes have worked on it since its first claim, each by its monotonic clock. The time limit goes
    # by them. Empty until a process has stored them.
    Column("followed", Float),
    # The error code to end with once the gateway confirms the stop. A client's request is `cancel_requested`.
    Column("stop_reason", String),
    # The discount window, also that of the relay's default: a copy of `window` in the arguments, for reports.
    Column("completion_window", String),
)


def in_state(row: Any, states: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition with literal states: with parameters, the partial indexes below could not be used."""
    names = [literal_column(f"'{state}'", String) for state in states]
    return row.state == names[0] if len(names) == 1 else row.state.in_(names)  # type: ignore[no-any-return]


IS_QUEUED = in_state(invocations.c, ["queued"])
IS_ACTIVE = in_state(invocations.c, ACTIVE)
IS_IN_FLIGHT = and_(IS_ACTIVE, in_state(invocations.c, IN_FLIGHT))
IS_RUNNING = and_(IS_ACTIVE, in_state(invocations.c, ["running"]))
IS_ENDED = in_state(invocations.c, sorted(TERMINAL))

# Frequent queries look for few rows; the many ended ones must not slow them down.
for _name, _column, _where in (
    ("queued", invocations.c.created_at, IS_QUEUED),
    ("active", invocations.c.owner, IS_ACTIVE),
    ("ended", invocations.c.updated_at, IS_ENDED),
):
    Index(f"relay_invocations_{_name}", _column, postgresql_where=_where, sqlite_where=_where)

# The text of a streamed invocation, piece by piece.
pieces = Table(
    "relay_pieces",
    metadata,
    Column("invocation_id", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("start", Integer, nullable=False),
    Column("text", Text, nullable=False),
)

# A lease per process, until `expires_at` by the database's clock. On SQLite all processes are on one machine, whose
# clock may be set and which may sleep: there `ticks` counts, the end of the lease by the monotonic clock, which stands
# still while the machine sleeps. It is empty for processes of version 1, and on PostgreSQL.
workers = Table(
    "relay_workers",
    metadata,
    Column("id", String, primary_key=True),
    Column("expires_at", Float, nullable=False),
    Column("ticks", Float),
    # The schema version that the process knows; empty for processes before version 4.
    Column("version", Integer),
    # Seconds for which the process wants results kept; the longest applies.
    Column("retention", Float),
    # An operator's wish to drain the process, and how far it has come: see leases.py.
    Column("drain", String),
    # Written to prove that the database has room for a start; never read. Last, because it is long.
    Column("proof", Text),
)


class db_now(FunctionElement[float]):
    """The database's clock in seconds since 1970, which all processes share."""

    type = Float()
    inherit_cache = True
    name = "db_now"


@compiles(db_now, "sqlite")
def _sqlite_now(_element: db_now, _compiler: object, **_: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(_element: db_now, _compiler: object, **_: object) -> str:
    # Not now(), which stands still within a transaction.
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def prepare(connection: Connection) -> bytes:
    """Create the tables or migrate them to this version, and return the ledger's secret.

    Runs in one transaction, under a lock that excludes other processes.

    Raises:
        ConfigurationError: the tables belong to a newer version or another program, or the database cannot hold a
            ledger.
    """
    if connection.dialect.name == "postgresql":
        _check_encoding(connection)
        # Another process may be migrating a large ledger: wait for as long as that takes.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
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
    """Raise ConfigurationError if a database holds these tables, but no ledger."""
    names = set(tables)
    if names and meta.name not in names:
        raise ConfigurationError(
            "the database of RELAY_DATABASE_URL belongs to another program: it holds tables, but no ledger"
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


NO_LEDGER = "that database holds no ledger: a relay creates one when it starts"


def check_version(connection: Connection) -> None:
    """Raise ConfigurationError unless the database holds a ledger of this version. Change nothing."""
    if not inspect(connection).has_table(meta.name):
        raise ConfigurationError(NO_LEDGER)
    version = connection.scalar(select(meta.c.value).where(meta.c.key == "version"))
    if version != str(VERSION):
        raise ConfigurationError(
            f"the ledger has schema version {version}, this release reads {VERSION}: "
            "a relay of this release migrates an older ledger when it starts"
        )


def _to_2(connection: Connection) -> None:
    """Add cost and tags, leases by a monotonic clock, and partial indexes."""
    row = invocations.c
    _add_columns(connection, row.cost_usd, row.tags, workers.c.ticks)
    for index in invocations.indexes:
        index.create(connection)
    connection.execute(text("DROP INDEX relay_invocations_by_state"))


def _to_3(connection: Connection) -> None:
    """Add the mark of claimed, but unsent rows."""
    _add_columns(connection, invocations.c.unsent)


def _to_4(connection: Connection) -> None:
    """Add hashed tokens, the version, retention and proof of a process, monotonic time limits, and stop reasons."""
    row, lease = invocations.c, workers.c
    _add_columns(connection, row.token_hash, row.followed, row.stop_reason, lease.version, lease.retention, lease.proof)


def _to_5(connection: Connection) -> None:
    """Add the wish to drain a process, and discount windows."""
    _add_columns(connection, workers.c.drain)
    _add_columns(connection, invocations.c.completion_window)


def _add_columns(connection: Connection, *columns: Column[Any]) -> None:
    for column in columns:
        definition = CreateColumn(column).compile(dialect=connection.dialect)
        connection.execute(text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}"))


_STEPS: list[Callable[[Connection], None]] = [_to_2, _to_3, _to_4, _to_5]
