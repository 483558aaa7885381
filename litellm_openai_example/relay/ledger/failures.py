"""What a failure of the database means: whether the same may be asked again, and in words why it cannot be opened."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ...config import ConfigurationError

T = TypeVar("T")

# What an operator may do by hand, and undo: a right revoked, a table or a schema renamed.
_ODD_OUTAGES = ("42501", "42P01", "3F000")
# In the words of libpq, of the server and of PgBouncer; they come without an error code. The first that fits.
_POSTGRESQL_REASONS = (
    (
        r"translate host name|resolve host|name or service not known|nodename nor servname|name resolution",
        "no such host",
    ),
    (r"connection refused|no such file or directory", "connection refused, nobody listens at that host and port"),
    (r"timeout expired|timed out", "no answer from that host and port"),
    (r"no route to host|network is unreachable", "that host cannot be reached"),
    (
        r"invalid response|unexpected response|closed the connection unexpectedly",
        "what listens there is not PostgreSQL",
    ),
    (r"does not support ssl", "the server offers no TLS, but sslmode asks for it"),
    (r"no encryption|ssl off|ssl required", "the server wants TLS or does not admit this user from here"),
    (r"certificate|ssl|tls", "TLS with the server failed"),
    (r"password|sasl", "the user (role) or the password is wrong"),
    (r"database \S+ does not exist|no such database", "no such database"),
    (r"role \S+ does not exist|no such user|user \S+ does not exist", "no such role (user)"),
    (r"authentication|pg_hba", "the server does not admit this user (role) to this database from here"),
    (r"too many|connection slots", "the server has no connection free"),
    (r"starting up|shutting down|recovery", "the server is just starting or stopping"),
)
# By error code; {name} is the schema or table that the server's message names.
_POSTGRESQL_CODES = {
    "25006": "the database only reads: it is a standby, or default_transaction_read_only is on",
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
    """The database does not answer; what was asked of it may be asked again."""


class Unstorable(Exception):
    """The database can never hold a value that it was given."""


class NotAnnounced(LedgerUnavailable):
    """Listening works, but nothing is heard: there is a pooler in between."""


def is_outage(error: Exception) -> bool:
    """Whether the database is to blame: the same may succeed later."""
    if isinstance(error, ProgrammingError):
        return getattr(error.orig, "sqlstate", None) in _ODD_OUTAGES
    if isinstance(error, DBAPIError):
        return not isinstance(error, IntegrityError | DataError)
    return isinstance(error, PoolTimeout | TimeoutError | OSError)


def kind(error: BaseException) -> str:
    """The error by its code or its class: a driver's message may hold the address of the database."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlite_errorname", None) or type(cause).__name__


def why_not_opened(error: Exception) -> str:
    """Why the database cannot be opened, in words of our own."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):
        name = kind(cause)
        return next((words for code, words in _SQLITE_REASONS.items() if name.startswith(code)), name)
    code = getattr(cause, "sqlstate", None)
    if code in _POSTGRESQL_CODES:
        named = re.search(r'\b(schema|table)\s+[»"]?([^\s"«]+)', str(cause), re.IGNORECASE)
        name = f"{named[1]} {named[2]}".lower() if named else "the schema or its tables"
        return _POSTGRESQL_CODES[code].format(name=name)
    if code is None:  # the connection was not made: there are only words
        for pattern, words in _POSTGRESQL_REASONS:
            if re.search(pattern, str(cause), re.IGNORECASE):
                return words
    return kind(cause)


async def twice(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`, and once more if the database went away: the pool may hold connections to one that restarted."""
    try:
        return await work()
    except Exception as error:
        if not is_outage(error):
            raise unavailable(error) from None
    try:
        return await work()
    except Exception as error:
        raise unavailable(error) from None


def unavailable(error: Exception) -> Exception:
    """An error of the driver as one of those above, where it is one. A `ConfigurationError` speaks for itself."""
    if isinstance(error, LedgerUnavailable | ConfigurationError):
        return error
    if isinstance(error, DataError | ValueError | OverflowError | RecursionError):  # a value is to blame
        return Unstorable(kind(error))
    return LedgerUnavailable(kind(error)) if is_outage(error) else error
