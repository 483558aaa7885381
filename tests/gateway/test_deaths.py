"""All children of a launcher end with it, by signal or kill -9: none may go on spending money."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ..fakes.scripted import Answer
from ..fakes.served import FakeGateway
from ..tools.ending import has_ended
from .conftest import Launcher, proxy_of, stranger, wait_until

SECONDS = 60.0
WAIT = "import os; print(os.environ.get('RELAY_BASE_URL'), flush=True); import time; time.sleep(600)"
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a program when its parent ends")


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway(lambda _: Answer(404)) as gateway:
        yield gateway


@pytest.fixture
def with_relay(gateway: FakeGateway, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a launcher whose command waits beside a relay."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "LITELLM_"))}
    env |= {"XDG_STATE_HOME": str(tmp_path), "LITELLM_BASE_URL": gateway.url, "LITELLM_API_KEY": "sk-x"}
    process = subprocess.Popen(
        [sys.executable, "-m", "litellm_openai_example.gateway", "--reuse", "--relay", "--",
         sys.executable, "-c", WAIT],
        env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    started: list[psutil.Process] = []
    try:
        with suppress(psutil.Error):
            yield process
            started = psutil.Process(process.pid).children(recursive=True)
    finally:
        for one in started:
            with suppress(psutil.Error):
                one.kill()
        process.kill()
        process.communicate()


def parts(launcher: subprocess.Popen[str]) -> tuple[str, psutil.Process, psutil.Process]:
    """Return the relay's address, the relay and the command, which are all the launcher's children."""
    assert launcher.stdout is not None
    base_url = launcher.stdout.readline().strip()
    assert base_url.startswith("http://127.0.0.1:")
    children = psutil.Process(launcher.pid).children()
    (relay,) = [child for child in children if WAIT not in child.cmdline()]
    (command,) = [child for child in children if child != relay]
    return base_url, relay, command


@linux
def test_relay_and_command_end_with_a_killed_launcher(with_relay: subprocess.Popen[str]) -> None:
    base_url, relay, command = parts(with_relay)
    assert urllib.request.urlopen(f"{base_url}/readyz", timeout=60).status == 200
    with_relay.kill()
    try:
        wait_until(lambda: has_ended(relay) and has_ended(command), SECONDS)
    finally:
        for one in (relay, command):
            with suppress(psutil.Error):
                one.kill()


def test_a_relay_that_ignores_sigterm_is_killed(with_relay: subprocess.Popen[str]) -> None:
    _, relay, command = parts(with_relay)
    relay.suspend()  # it cannot act on SIGTERM, nor read its pipe
    command.terminate()
    assert with_relay.wait(SECONDS) == 143
    assert has_ended(relay)


def test_the_port_of_a_crashed_relay_cannot_be_taken(with_relay: subprocess.Popen[str]) -> None:
    base_url, relay, command = parts(with_relay)
    relay.kill()
    wait_until(lambda: has_ended(relay))
    with stranger(int(base_url.rpartition(":")[2])) as stolen, pytest.raises(OSError):
        urllib.request.urlopen(f"{base_url}/readyz", timeout=60)
    assert stolen == []
    command.terminate()
    assert with_relay.wait(SECONDS) == 143


def test_sigterm_stops_relay_and_command(with_relay: subprocess.Popen[str]) -> None:
    _, relay, command = parts(with_relay)
    with_relay.send_signal(signal.SIGTERM)
    assert with_relay.wait(SECONDS) == 143
    assert has_ended(relay)
    assert has_ended(command)


@linux
def test_proxy_and_command_end_with_a_killed_launcher(launcher: Launcher) -> None:
    process = launcher.start("--", sys.executable, "-c", WAIT)
    assert process.stdout is not None
    assert process.stdout.readline() == "None\n"
    proxy = proxy_of(process)
    (command,) = [child for child in psutil.Process(process.pid).children() if child != proxy]
    process.kill()
    try:
        wait_until(lambda: has_ended(proxy) and has_ended(command), SECONDS)
    finally:
        with suppress(psutil.Error):
            command.kill()
