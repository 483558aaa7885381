"""The relay as a process: signals as terminals, wrappers and supervisors send them."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from litellm_openai_example.gateway.children import GatewayUnavailable
from litellm_openai_example.gateway.environment import find_uv

from ..fakes.gateway import Gateway
from ..fakes.scripted import eventually
from ..tools.terminal import Terminal
from .running import Api, body, environment, relay_process

ROOT = Path(__file__).parents[2]
SUBMIT = 1.8  # seconds that the gateway takes to accept

# The launcher of the embedded gateway without the gateway: it runs a command and forwards signals.
WRAPPER = """
import os, sys
from litellm_openai_example.gateway.children import supervise
sys.exit(supervise(tuple(sys.argv[sys.argv.index("--") + 1:]), os.environ))
"""


def _itself(_: Path) -> list[str]:
    return [str(Path(sys.executable).parent / "litellm-relay"), "--port", "0"]


def _uv_run(_: Path) -> list[str]:
    return [_uv(), "run", "--no-sync", "--quiet", "litellm-relay", "--port", "0"]


def _make_relay(directory: Path) -> list[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (directory / "wrapper.py").write_text(WRAPPER)
    wrapped = f"GATEWAY=$(PROJECT_RUN) python {directory}/wrapper.py"
    return ["make", "-o", ".venv/relay-ready", f"UV={_uv()}", wrapped, "ARGS=--port 0", "relay"]


def _uv() -> str:
    try:
        return find_uv()
    except GatewayUnavailable:
        pytest.skip("uv is not installed")


class RelayTerminal(Terminal):
    """A relay, started by a command in the foreground of a new terminal."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        base = {name: value for name, value in os.environ.items() if not name.startswith(("LITELLM_", "RELAY_"))}
        environ = base | env | {"VIRTUAL_ENV": sys.prefix, "UV_PROJECT_ENVIRONMENT": sys.prefix}
        super().__init__(command, ROOT, environ)

    def ready(self) -> Api:
        assert eventually(lambda: "listening on" in self.printed and self.printed.endswith("\n")), self.printed
        return Api(self.printed.partition("listening on ")[2].split()[0])

    def signal_all(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        self.signal_all(signal.SIGKILL)
        self.end(10)


def _ctrl_c_three_times(terminal: RelayTerminal) -> None:
    for _ in range(3):
        terminal.press_ctrl_c()
        time.sleep(0.3)


def _terminate_all_three_times(terminal: RelayTerminal) -> None:
    for _ in range(3):
        terminal.signal_all(signal.SIGTERM)
        time.sleep(0.3)


def _hang_up_and_interrupt(terminal: RelayTerminal) -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        terminal.signal_all(number)
        time.sleep(0.2)


@pytest.fixture
def terminals() -> Iterator[Callable[[list[str], dict[str, str]], RelayTerminal]]:
    opened: list[RelayTerminal] = []

    def start(command: list[str], env: dict[str, str]) -> RelayTerminal:
        opened.append(RelayTerminal(command, env))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize(
    ("command", "signals"),
    [
        (_itself, _ctrl_c_three_times),
        (_itself, _terminate_all_three_times),
        (_itself, _hang_up_and_interrupt),
        (_uv_run, _ctrl_c_three_times),
        (_make_relay, _ctrl_c_three_times),
    ],
)
def test_repeated_signals_do_not_cut_a_submission(
    command: Callable[[Path], list[str]],
    signals: Callable[[RelayTerminal], None],
    terminals: Callable[[list[str], dict[str, str]], RelayTerminal],
    sqlite_url: str,
    upstream: Gateway,
    tmp_path: Path,
) -> None:
    upstream.accept = SUBMIT
    env = environment(sqlite_url, upstream)
    terminal = terminals(command(tmp_path), env)
    api = terminal.ready()
    started = api.start()
    api.http.close()
    assert eventually(lambda: upstream.posts)
    signals(terminal)
    terminal.process.wait(60)
    with relay_process(env) as relay:  # a relay that the wrappers left may still drain: the ledger has its owner
        assert relay.api.wait(started)["status"] == "completed"
    assert len(upstream.posts) == 1


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="limits of another process need Linux")
@pytest.mark.parametrize("size", [100, 90_000])
def test_the_relay_is_not_ready_while_the_disk_is_full(
    tmp_path: Path, sqlite_url: str, upstream: Gateway, size: int
) -> None:
    """A file size limit stands for the full disk: small changes still fit into SQLite's log."""
    with relay_process(environment(sqlite_url, upstream)) as relay:
        relay.api.wait(relay.api.start("x" * size))
        process = psutil.Process(relay.process.pid)
        limits = process.rlimit(psutil.RLIMIT_FSIZE)
        largest = max(file.stat().st_size for file in tmp_path.glob("ledger.sqlite3*"))
        process.rlimit(psutil.RLIMIT_FSIZE, (largest, limits[1]))

        def refused() -> bool:
            return relay.api.post(body("x" * size, background=True)).status_code == 503

        assert eventually(refused)
        until = time.monotonic() + 5  # longer than two heartbeats
        while time.monotonic() < until:
            assert relay.api.call("GET", "/readyz").status_code == 503
            if not refused():
                assert relay.api.call("GET", "/readyz").status_code == 503, "a start went, but the largest does not"
        process.rlimit(psutil.RLIMIT_FSIZE, limits)
        assert eventually(lambda: relay.api.call("GET", "/readyz").status_code == 200)
        assert not refused()
        said = [line for line in relay.lines if "the ledger can" in line]
        assert [("cannot" in line) for line in said] == [True, False]
        assert relay.terminate() == 0


def test_the_relay_stops_in_time_with_a_silent_database(tmp_path: Path, sqlite_url: str, upstream: Gateway) -> None:
    with relay_process(environment(sqlite_url, upstream)) as relay:
        relay.api.start()
        with sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert relay.terminate() == 0
        other.close()
