"""The relay's settings, checked before anything is opened or bound."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ..config import (
    ConfigurationError,
    GatewaySettings,
    check_url,
    gateway_settings,
    header_value,
    http_allowed,
    is_loopback,
)
from ..json_object import JsonObject, can_be_sent, strict_json
from ..state import state_dir
from ..window import LONGEST_PAUSE, USUAL_PAUSE, Window, window_of

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

DEFAULT_MODEL = "gpt-6.1-sol"

_OWN_FIELDS = frozenset({"model", "input", "background", "stream"})
_ESCAPES = (
    "it has the form postgresql://user:password@host:port/database, where special characters in the user and the "
    "password are written as %40 (@), %2F (/), %3A (:), %23 (#), %25 (%)"
)
_SEVERAL_HOSTS = re.compile(
    r"(?P<start>postgres(ql)?(\+psycopg)?://([^@]*@)?)(?P<hosts>[\w.:-]+(,[\w.:-]+)+)(?P<database>/[^?]*)?(?P<query>\?.+)?"
)
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


@dataclass(frozen=True)
class Timings:
    """Intervals and limits in seconds. Operators cannot set them, but tests use shorter ones.

    Attributes:
        first_poll, longest_poll: shortest and longest pause between two polls of an invocation; it grows with the age.
        window_poll, longest_window_poll: pauses of one in a discount window, after its first minute and in the end.
        poll_timeout: limit of one poll.
        polls_per_second: limit for all polls of this process.
        missing: a response is lost once the gateway has reported it as unknown for this long, without exception.
        gate: a submission that takes longer leaves the gate, and counts as running.
        lease: time that a silent process keeps its work; heartbeats come every third of it.
        tick: interval of the checks for orphans, and on SQLite for changes by other processes.
        flush: longest time that streamed text is gathered before it is stored.
        stall: silence of a stream after which the response is polled.
        retry: longest pause before an unsent submission is retried.
        keep_alive: interval of the comments in an event stream.
        body: limit for the body of a request to arrive.
        ledger: longest time that a request waits for a silent database.
        cancel: longest time that `POST .../cancel` waits for the outcome.
        drain: time for submissions in flight at shutdown.
        learned: time that a model's refusal of a field is remembered.
    """

    first_poll: float = 1.0
    longest_poll: float = 15.0
    window_poll: float = USUAL_PAUSE
    longest_window_poll: float = LONGEST_PAUSE
    poll_timeout: float = 20.0
    polls_per_second: float = 200.0
    missing: float = 120.0
    gate: float = 2.0
    lease: float = 6.0
    tick: float = 1.0
    flush: float = 0.15
    stall: float = 15.0
    retry: float = 15.0
    keep_alive: float = 15.0
    body: float = 10.0
    ledger: float = 5.0
    cancel: float = 5.0
    drain: float = 3.5
    learned: float = 600.0


@dataclass(frozen=True)
class Settings:
    """All settings of the relay. Secrets stay out of `repr`.

    Attributes:
        fd: descriptor of a bound socket that replaces host and port.
        previous_api_key: accepted beside `api_key`, while clients change from it.
        request: fields of `responses.create` that replace the default ones (see engine/request.py).
        window: the discount window of runs whose client asks for none.
        max_running, max_queued: invocations, per process and per ledger.
        research_timeout, wait, retention: seconds.
        submits: most submissions in flight at once, per process.
        max_output: characters of text kept of an answer.
        public_url: the relay's address for people and their browsers, without a slash at its end.
    """

    gateway: GatewaySettings
    database_url: URL = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 8080
    fd: int | None = None
    model: str = DEFAULT_MODEL
    api_key: str | None = field(default=None, repr=False)
    previous_api_key: str | None = field(default=None, repr=False)
    request: JsonObject = field(default_factory=dict, repr=False)
    window: Window | None = None
    max_running: int = 32
    max_queued: int = 1000
    research_timeout: float = 3600.0
    wait: float = 300.0
    retention: float = 72 * 3600.0
    submits: int = 200
    max_output: int = 2_000_000
    public_url: str | None = None
    timings: Timings = field(default_factory=Timings)

    @property
    def api_keys(self) -> list[str]:
        """The keys that start runs; none if everybody may."""
        return [key for key in (self.api_key, self.previous_api_key) if key is not None]

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def default_window(self) -> Window | None:
        """The discount window of runs whose client asks for none."""
        return self.window or window_of(self.request)

    @property
    def ledger_name(self) -> str:
        """The ledger's place for the operator, without credentials."""
        if self.database_url.get_backend_name() == "sqlite":
            return f"SQLite {self.database_url.database}"
        return f"PostgreSQL database {self.database_url.database or '(default)'}"


def make_settings(env: Mapping[str, str] = os.environ, **options: Any) -> Settings:
    """Build the settings from the command's options, and addresses and secrets from the environment.

    Args:
        env: holds `LITELLM_*`, `RELAY_API_KEY`, `RELAY_API_KEY_PREVIOUS`, `RELAY_DATABASE_URL` and `RELAY_PUBLIC_URL`.
        options: other fields of `Settings`, checked already.

    Raises:
        ConfigurationError: a setting is missing or unusable; one line, without secrets.
    """
    key, previous = (env.get(name, "").strip() for name in ("RELAY_API_KEY", "RELAY_API_KEY_PREVIOUS"))
    # Otherwise the old key, or none at all, would go on opening a relay that seems to have changed it.
    if previous and not key:
        raise ConfigurationError("RELAY_API_KEY_PREVIOUS is set without RELAY_API_KEY, the key that replaces it")
    settings = Settings(
        gateway=gateway_settings(env),
        database_url=database_url(env),
        api_key=header_value(key, "RELAY_API_KEY") if key else None,
        previous_api_key=header_value(previous, "RELAY_API_KEY_PREVIOUS") if previous else None,
        public_url=_public_url(env),
        **options,
    )
    if not settings.loopback and not settings.api_key:
        raise ConfigurationError("RELAY_API_KEY must be set to listen on anything but this machine's loopback address")
    return settings


def _public_url(env: Mapping[str, str]) -> str | None:
    text = env.get("RELAY_PUBLIC_URL", "").strip()
    return check_url(text, allow_http=http_allowed(env), name="RELAY_PUBLIC_URL").rstrip("/") if text else None


def request_fields(text: str) -> JsonObject:
    """Parse `RELAY_REQUEST`. Raises ValueError with a text for the operator that does not quote the value."""
    try:
        fields = strict_json(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or not can_be_sent(fields):
        raise ValueError('must be a JSON object, such as {"tools": [{"type": "web_search"}], "max_tool_calls": 40}')
    inner = {} if fields.get("extra_body") is None else fields["extra_body"]  # LiteLLM merges it into the body
    if not isinstance(inner, dict):
        raise ValueError('must hold extra_body as an object, such as {"extra_body": {"a_new_field": 1}}')
    # In both places: merged into the body, the inner ones would replace the relay's own fields.
    if taken := sorted(_OWN_FIELDS & (fields.keys() | inner.keys())):
        raise ValueError(f"must not hold {', '.join(taken)}: the relay sets that itself")
    tools = fields.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(t, dict) and isinstance(t.get("type"), str) for t in tools):
        raise ValueError('must hold tools as a list of objects with a type, such as [{"type": "web_search"}]')
    return fields


def database_url(env: Mapping[str, str] = os.environ) -> URL:
    """Return the address of the ledger: `RELAY_DATABASE_URL`, otherwise a file in the state directory.

    Raises:
        ConfigurationError: the address is unusable; the text never shows a password.
    """
    from sqlalchemy.engine import URL, make_url  # here: `--help` needs no SQLAlchemy
    from sqlalchemy.exc import ArgumentError

    text = env.get("RELAY_DATABASE_URL", "").strip()
    if not text:
        return URL.create("sqlite+aiosqlite", database=str(state_dir(env) / "relay.sqlite3"))
    if text[0] in "\"'":
        raise ConfigurationError("RELAY_DATABASE_URL is in quotes: remove them (docker's --env-file keeps them)")
    # Taken literally, it would fail at the database, with an error that hints at something else.
    if literal := re.search(r"\$\{[A-Z_][A-Z0-9_]*\}", text):
        raise ConfigurationError(f"RELAY_DATABASE_URL holds a literal {literal[0]}: it was not replaced by a value")
    try:
        url = make_url(_with_hosts_as_settings(text))
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"RELAY_DATABASE_URL is not a database URL: {_ESCAPES}") from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise ConfigurationError("RELAY_DATABASE_URL must start with sqlite:// or postgresql://")
    if driver.startswith("sqlite"):
        if url.database in (None, "", ":memory:") or url.query or url.host or url.username:
            raise ConfigurationError("RELAY_DATABASE_URL must name a file: sqlite:////absolute/path.sqlite3")
        url = url.set(database=os.path.abspath(str(url.database)))
    elif sys.platform == "win32":  # psycopg cannot use Python's event loop there
        raise ConfigurationError("a ledger in PostgreSQL needs Linux or macOS: on Windows use SQLite, or WSL")
    else:
        url = _postgresql_url(text, url)
    return url.set(drivername=driver)


def _with_hosts_as_settings(text: str) -> str:
    """Rewrite libpq's form for several hosts, `//user@first:5432,second:5432/database`, for SQLAlchemy.

    SQLAlchemy accepts several hosts only as `host` in the query.
    """
    # Only hosts are rewritten: anything else is left to SQLAlchemy, and to its error.
    parts = _SEVERAL_HOSTS.fullmatch(text)
    if parts is None:
        return text
    settings = "&".join(f"host={host}" for host in parts["hosts"].split(","))
    query = f"{parts['query']}&" if parts["query"] else "?"
    return f"{parts['start']}{parts['database'] or ''}{query}{settings}"


def _postgresql_url(text: str, url: URL) -> URL:
    """Return the URL with the path of a Unix socket decoded. Raises ConfigurationError for an unescaped password."""
    behind = text.split("@", 1 + (url.username or "").count("@"))[-1]
    if url.password is not None and "@" in behind:
        # SQLAlchemy ends the password at the first @, and would look up the rest as a host.
        raise ConfigurationError(f"RELAY_DATABASE_URL has an unescaped @ behind its user: {_ESCAPES}")
    socket = unquote(url.host or "")
    return url.set(host=socket) if socket.startswith(("/", "@")) else url
