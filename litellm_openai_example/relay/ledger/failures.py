"""Failures of the database: whether a retry may help, and the reason in plain words."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ...config import ConfigurationError

# An operator may cause these by hand, and undo them: a right revoked, a table or a schema renamed.
_ODD_OUTAGES = ("42501", "42P01", "3F000")
# By the words of libpq, the server and PgBouncer, which come without an error code. The first match counts.
_POSTGRESQL_REASONS = (
    (
        r"invalid \w+ value|bad value for|unrecognized configuration parameter|invalid value for parameter",
        "a setting in RELAY_DATABASE_URL has a name or a value that PostgreSQL does not know",
    ),
    (r"service .* not found|service file", "no such service in pg_service.conf"),
    (r"hot standby mode|session is (not )?read-only", "no server there matches target_session_attrs"),
    (r"channel binding", "the server offers no channel binding, but channel_binding asks for it"),
    (
        r"translate host name|resolve host|name or service not known|nodename nor servname|name resolution",
        "no such host",
    ),
    (r"connection refused|no such file or directory", "connection refused, nothing listens at that host and port"),
    (r"timeout expired|timed out", "no answer from that host and port"),
    (r"no route to host|network is unreachable", "that host cannot be reached"),
    (
        r"invalid response|unexpected response|closed the connection unexpectedly",
        "what listens there is not PostgreSQL",
    ),
    (r"does not support ssl", "the server offers no TLS, but sslmode asks for it"),
    (r"no encryption|ssl off|ssl required", "the server requires TLS or does not admit this user from here"),
    (r"certificate|ssl|tls", "TLS with the server failed"),
    (r"password|sasl", "the user (role) or the password is wrong"),
    (r"database \S+ does not exist|no such database", "no such database"),
    (r"role \S+ does not exist|no such user|user \S+ does not exist", "no such role (user)"),
    (r"authentication|pg_hba", "the server does not admit this user (role) to this database from here"),
    (
        r"permission denied for database",
        "the role may not connect to this database: GRANT CONNECT ON DATABASE ... TO the role",
    ),
    (
        r"not currently accepting connections",
        "the database accepts no connections (ALTER DATABASE ... ALLOW_CONNECTIONS)",
    ),
    (r"not permitted to log in", "the role may not log in: ALTER ROLE ... LOGIN"),
    (r"too many|connection slots", "the server has no connection free"),
    (r"starting up|shutting down|recovery", "the server is just starting or stopping"),
)
# By error code; {name} is the schema or table that the server's message names.
_POSTGRESQL_CODES = {
    "25006": "the database is read-only: it is a standby, or default_transaction_read_only is on",
    "3F000": "the role's search_path names no schema in which tables can be made: CREATE SCHEMA, or ALTER ROLE ... SET "
    "search_path",
    "42501": "the role has no permission for {name}: GRANT ALL ON {name} TO the role (PostgreSQL 15 and later give "
    "nobody CREATE ON SCHEMA public), or make it the owner",
    "53100": "the server's disk is full",
    "53300": "the server has no connection free",
    "55P03": "another session keeps the ledger locked",
    "57014": "the server cancelled a statement that took too long",
}
_SQLITE_REASONS = {
    "SQLITE_CANTOPEN": "the file cannot be opened",
    "SQLITE_NOTADB": "the file is not a SQLite database",
    "SQLITE_CORRUPT": "the file is damaged",
    "SQLITE_READONLY": "the file cannot be written",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_BUSY": "another program keeps the file locked",
    "SQLITE_IOERR": "the disk fails, or the file system cannot lock files",
}


class LedgerUnavailable(Exception):
    """The database does not answer; a retry may succeed."""


class Unstorable(Exception):
    """The database can never store a given value."""


class NotAnnounced(LedgerUnavailable):
    """LISTEN works, but no notification arrives: there is a pooler in between."""


def is_outage(error: Exception) -> bool:
    """Return True if the database is to blame, so that a retry may succeed."""
    if isinstance(error, ProgrammingError):
        return getattr(error.orig, "sqlstate", None) in _ODD_OUTAGES
    if isinstance(error, DBAPIError):
        return not isinstance(error, IntegrityError | DataError)
    return isinstance(error, PoolTimeout | TimeoutError | OSError)


def kind(error: BaseException) -> str:
    """Return the code or class of an error. Its message may hold the address of the database."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlite_errorname", None) or type(cause).__name__


def why_not_opened(error: Exception) -> str:
    """Return the reason why the database cannot be opened or used, without the driver's own message."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):
        name = kind(cause)
        return next((words for code, words in _SQLITE_REASONS.items() if name.startswith(code)), name)
    code = getattr(cause, "sqlstate", None)
    if code in _POSTGRESQL_CODES:
        named = re.search(r'\b(schema|table)\s+[»"]?([^\s"«]+)', str(cause), re.IGNORECASE)
        name = f"{named[1]} {named[2]}".lower() if named else "the schema or its tables"
        return _POSTGRESQL_CODES[code].format(name=name)
    if code is None:  # not connected: the message is all there is
        for pattern, words in _POSTGRESQL_REASONS:
            if re.search(pattern, str(cause), re.IGNORECASE):
                return words
    return kind(cause)


def unavailable(error: Exception) -> Exception:
    """Return an error of the driver as `LedgerUnavailable` or `Unstorable` if it is one of them, otherwise as it is."""
    if isinstance(error, LedgerUnavailable | ConfigurationError):
        return error
    if isinstance(error, DataError | ValueError | OverflowError | RecursionError):  # the value is to blame
        return Unstorable(kind(error))
    return LedgerUnavailable(why_not_opened(error)) if is_outage(error) else error
