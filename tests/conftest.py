"""Shared fixtures: scripted gateways and relays, and the command run in this process."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from litellm_openai_example.calls import requests
from litellm_openai_example.cli import main
from litellm_openai_example.transport import policy

from .fakes.raw import RawServer
from .fakes.scripted import KEY, ScriptedServer
from .fakes.served import FakeGateway
from .fakes.tool_calling import FakeRelay
from .tools.guard import stand_guard

if "PYTEST_XDIST_WORKER" not in os.environ:
    stand_guard()

# A shell ignores Ctrl-C in its background jobs, and children inherit that: tests that interrupt a child would hang.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as `nohup` leaves it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests that need uv find the one that make has installed, also when they run without make.
os.environ["PATH"] += f"{os.pathsep}{Path(__file__).parents[1] / '.uv/bin'}"

# Variables of the developer's environment that would redirect a test or change its results.
_CLEARED = (
    "LITELLM_BASE_URL", "LITELLM_API_KEY", "LITELLM_MODEL", "LITELLM_ALLOW_HTTP", "LITELLM_TAGS", "LITELLM_END_USER",
    "RELAY_BASE_URL", "RELAY_API_KEY", "RELAY_INVOCATION_TOKEN", "OPENAI_BASE_URL", "OPENAI_API_KEY",
    "OPENAI_ADMIN_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy",
    "no_proxy", "PYTHONUNBUFFERED",
)  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in _CLEARED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def gateway() -> Iterator[ScriptedServer]:
    """A gateway with scripted answers."""
    with FakeGateway() as server:
        yield server


@pytest.fixture
def raw_gateway() -> Iterator[RawServer]:
    """A scripted gateway on a bare socket, which keeps connections open."""
    with RawServer() as server:
        yield server


@pytest.fixture
def configured(gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """The scripted gateway, with the environment pointing at it."""
    monkeypatch.setenv("LITELLM_BASE_URL", gateway.url)
    monkeypatch.setenv("LITELLM_API_KEY", KEY)
    return gateway


@pytest.fixture
def relay_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A scripted relay, with the environment pointing at it."""
    with FakeGateway() as server:
        monkeypatch.setenv("RELAY_BASE_URL", server.url)
        yield server


@pytest.fixture
def relay(relay_server: ScriptedServer) -> FakeRelay:
    """A relay that completes each run at once."""
    return FakeRelay(relay_server)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry and poll without delay, except when the gateway names one.

    The real delays are tested in tests/transport/test_policy.py and tests/test_client.py.
    """
    for module, name in ((policy, "_FIRST_DELAY"), (policy, "_LONGEST_DELAY"), (requests, "_FIRST_PAUSE")):
        monkeypatch.setattr(module, name, 0.001)


@dataclass
class Run:
    """Exit code and output of one run of the command."""

    code: int
    out: str
    err: str


class _Stdin(io.TextIOWrapper):
    def __init__(self, content: bytes, terminal: bool) -> None:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the text stream around it)
        file.write(content)
        file.seek(0)
        super().__init__(file, encoding="utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


RunCommand = Callable[..., Run]


def run_main(arguments: list[str]) -> int:
    """Return the exit code of the command, run in this process; it leaves the garbage collector as a process would."""
    try:
        main.main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        gc.unfreeze()
        gc.enable()


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """Run the command in this process; with `stdin` None, stdin is a terminal without input."""

    def run(*arguments: str, stdin: bytes | None = None) -> Run:
        with _Stdin(stdin or b"", stdin is None) as given:
            monkeypatch.setattr(sys, "stdin", given)
            capfd.readouterr()
            code = run_main(list(arguments))
        captured = capfd.readouterr()
        assert KEY not in captured.out + captured.err
        assert "Traceback" not in captured.out + captured.err or "--verbose" in arguments
        return Run(code, captured.out, captured.err)

    return run


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if a test was skipped and NO_SKIPS is set, as where every optional program is installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
