"""What the relay is told by its environment, checked before anything is opened or bound."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ...config import ConfigurationError, GatewaySettings, gateway_settings, header_value, is_loopback

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
DEFAULT_MODEL = "o3-deep-research"

_STATE_DIR = "litellm-openai-example"
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


@dataclass(frozen=True)
class Pace:
    """How often and how long, in seconds. Not settings: tests run faster with other values.

    Attributes:
        first_poll, longest_poll: the pause between two polls of one invocation grows from the one to the other.
        poll_timeout: of one poll.
        polls_per_second: what all pollers of this process may add up to.
        missing: how long a gateway may say that it does not know a response before it is believed.
        gate: a submission that takes longer leaves the submit gate.
        lease: how long a process that fell silent keeps its work; a third of it passes between two heartbeats.
        tick: how often work left behind is looked for, and changes made by others on SQLite.
        flush: how long streamed text is gathered before it is stored.
        stall: how long a stream may be silent before the response is polled beside it.
        retry: longest pause before a submission that was not sent is tried again.
        keep_alive: between two comments of an event stream.
        body: for a request's body to arrive.
        ledger: how long a request waits for a database that does not answer.
        cancel: how long `POST .../cancel` waits for the outcome.
        drain: how long submissions in flight may take at shutdown.
    """

    first_poll: float = 1.0
    longest_poll: float = 15.0
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


@dataclass(frozen=True)
class Settings:
    """Everything that the relay can be told. Secrets stay out of `repr`."""

    gateway: GatewaySettings
    database_url: URL = field(repr=False)
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    model: str = DEFAULT_MODEL
    api_key: str | None = field(default=None, repr=False)
    tools: list[dict[str, Any]] | None = field(default=None, repr=False)
    max_running: int = 32
    max_queued: int = 1000
    research_timeout: float = 3600.0
    wait: float = 300.0
    retention: float = 72 * 3600.0
    submit_gate: int = 8
    max_output: int = 2_000_000
    pace: Pace = field(default_factory=Pace)

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def ledger_name(self) -> str:
        """The ledger in words for a person, without credentials."""
        if self.database_url.get_backend_name() == "sqlite":
            return f"SQLite {self.database_url.database}"
        return f"PostgreSQL database {self.database_url.database or '(default)'}"


def read_settings(env: Mapping[str, str] = os.environ, *, host: str | None = None, port: int | None = None) -> Settings:
    """The settings from `RELAY_*` and `LITELLM_*`; `host` and `port` win over theirs.

    Raises:
        ConfigurationError: a setting is missing or unusable; one line, without any secret.
    """
    reader = _Reader(env)
    key = reader.text("RELAY_API_KEY")
    settings = Settings(
        gateway=gateway_settings(env),
        database_url=_database_url(reader.text("RELAY_DATABASE_URL"), env),
        host=host or reader.text("RELAY_HOST") or DEFAULT_HOST,
        port=reader.whole("RELAY_PORT", DEFAULT_PORT, 0, 65535) if port is None else port,
        model=reader.text("RELAY_MODEL") or DEFAULT_MODEL,
        api_key=header_value(key, "RELAY_API_KEY") if key else None,
        tools=_tools(reader.text("RELAY_TOOLS")),
        max_running=reader.whole("RELAY_MAX_RUNNING", 32, 1, 10_000),
        max_queued=reader.whole("RELAY_MAX_QUEUED", 1000, 1, 1_000_000),
        research_timeout=reader.seconds("RELAY_RESEARCH_TIMEOUT_SECONDS", 3600.0),
        wait=reader.seconds("RELAY_WAIT_SECONDS", 300.0, zero=True),
        retention=reader.seconds("RELAY_RETENTION_HOURS", 72.0) * 3600,
    )
    if not settings.loopback and not settings.api_key:
        raise ConfigurationError("RELAY_API_KEY must be set to listen on anything but this machine's loopback address")
    return settings


class _Reader:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def text(self, name: str) -> str:
        return self._env.get(name, "").strip()

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        text = self.text(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= most):
            raise ConfigurationError(f"{name} must be a whole number from {least} to {most}")
        return int(text)

    def seconds(self, name: str, default: float, *, zero: bool = False) -> float:
        """A finite number above 0 (or 0 itself); of whatever unit the name says."""
        text = self.text(name)
        try:
            value = float(text) if text else default
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero) or value > 1e8:
            raise ConfigurationError(f"{name} must be a finite number {'of at least' if zero else 'above'} 0")
        return value


def _tools(text: str) -> list[dict[str, Any]] | None:
    if not text:
        return None
    try:
        tools = json.loads(text)
    except (ValueError, RecursionError):
        tools = None
    if not isinstance(tools, list) or not all(isinstance(t, dict) and isinstance(t.get("type"), str) for t in tools):
        raise ConfigurationError('RELAY_TOOLS must be a JSON list of tools, such as [{"type": "web_search_preview"}]')
    return tools


def _database_url(text: str, env: Mapping[str, str]) -> URL:
    if not text:
        return URL.create("sqlite+aiosqlite", database=str(_state_dir(env) / "relay.sqlite3"))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError("RELAY_DATABASE_URL is not a database URL") from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise ConfigurationError("RELAY_DATABASE_URL must start with sqlite:// or postgresql://")
    if driver.startswith("sqlite"):
        if url.database in (None, "", ":memory:") or url.query:
            raise ConfigurationError("RELAY_DATABASE_URL must name a file: sqlite:////absolute/path.sqlite3")
        url = url.set(database=os.path.abspath(str(url.database)))
    return url.set(drivername=driver)


def _state_dir(env: Mapping[str, str]) -> Path:
    given = env.get("XDG_STATE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path(env.get("HOME") or Path.home()) / ".local" / "state"
    return base / _STATE_DIR
