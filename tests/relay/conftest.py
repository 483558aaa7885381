"""Fixtures of the relay's tests: databases of both kinds, a gateway, a relay, and a browser."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..fakes.gateway import KEY, SECRET_WORDS, Fault, Gateway
from ..fakes.postgresql import PostgreSQL
from .browser import CHROMIUM, Browser, Page
from .running import ThreadedRelay, settings

StartRelay = Callable[..., ThreadedRelay]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    # Not below pytest's directory, which each run of pytest closes to the user that PostgreSQL runs as.
    with tempfile.TemporaryDirectory(prefix="relay-postgresql-") as directory:
        server = PostgreSQL(Path(directory))
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/ledger.sqlite3"
    url: str = request.getfixturevalue("postgresql").new_database()
    return url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/ledger.sqlite3"


@pytest.fixture
def upstream() -> Iterator[Gateway]:
    gateway = Gateway().start()
    yield gateway
    gateway.stop()


@pytest.fixture
def start_relay(
    sqlite_url: str, upstream: Gateway, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[StartRelay]:
    """A function that starts relays in threads; at the end their log must reveal nothing of the gateway."""
    caplog.set_level(logging.DEBUG, "litellm_relay")
    with ExitStack() as stack:

        def start(**changes: Any) -> ThreadedRelay:
            url = changes.pop("database_url", sqlite_url)
            return stack.enter_context(ThreadedRelay(settings(url, upstream, **changes)))

        yield start
    printed = capfd.readouterr()
    logged = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert_clean(logged + printed.out + printed.err, upstream)


@pytest.fixture
def relay(start_relay: StartRelay) -> ThreadedRelay:
    return start_relay()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """A page of a real browser, with downloads going to `tmp_path`."""
    page = Page(browser, tmp_path)
    yield page
    page.close()


@pytest.fixture
def hold(upstream: Gateway) -> Iterator[Callable[[int], threading.Event]]:
    """A function that stops streams after some pieces, until the event that it returns is set."""
    held: list[threading.Event] = []

    def after(pieces: int) -> threading.Event:
        release = threading.Event()
        held.append(release)

        def wait(sent: int) -> Fault | None:
            return None if sent < pieces or release.is_set() else Fault("hold")

        upstream.during_stream = wait
        return release

    yield after
    for release in held:
        release.set()


def assert_clean(text: str, gateway: Gateway) -> None:
    """Assert that a text holds neither the gateway's messages, nor its key, nor its address."""
    for secret in (KEY, *SECRET_WORDS.split(), gateway.base_url, f":{gateway.port}"):
        assert secret not in text
    assert "Traceback" not in text
