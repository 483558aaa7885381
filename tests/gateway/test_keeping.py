"""A gateway that stays between the commands of a terminal: real processes, with a stand-in for LiteLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from ..tools.ending import has_ended
from .conftest import Launcher, stranger, wait_until
from .terminal import Terminal

PRINT = "import os; print(os.environ['LITELLM_BASE_URL'], os.environ['LITELLM_API_KEY'])"
# Says so once it runs, and ends when the file `go` of the home directory has been made.
WAIT = (
    "import os, pathlib, time; print('running', os.environ['LITELLM_BASE_URL'], flush=True)\n"
    "while not (pathlib.Path.home() / 'go').exists(): time.sleep(0.02)"
)
KEEP = ("--reuse", "--keep")
SETTINGS = {"LITELLM_KEEP_GATEWAY": "10"}


@pytest.fixture
def open_terminal(launcher: Launcher) -> Iterator[Callable[[], Terminal]]:
    with ExitStack() as ends:

        def opened() -> Terminal:
            terminal = Terminal({**launcher.env, "TERM": "xterm"})
            ends.callback(terminal.end)
            return terminal

        yield opened
    wait_until(lambda: not kept(launcher))


@pytest.fixture
def terminal(open_terminal: Callable[[], Terminal]) -> Terminal:
    return open_terminal()


def kept(launcher: Launcher) -> list[psutil.Process]:
    """Return the processes of all gateways that stay, LiteLLM included."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if ("gateway.keeper" in line or "boot.py" in line) and process.environ()["HOME"] == str(launcher.home):
                found.append(process)
        except (psutil.Error, KeyError):
            continue
    return [process for process in found if not has_ended(process)]


def keeper_of(launcher: Launcher) -> psutil.Process:
    (keeper,) = [process for process in kept(launcher) if "gateway.keeper" in " ".join(process.cmdline())]
    return keeper


def test_the_second_command_finds_the_gateway_of_the_first(launcher: Launcher, terminal: Terminal) -> None:
    first, code = terminal.run(*KEEP, command=PRINT)
    assert code == 0
    wait_until(lambda: "no LLM is involved" in terminal.shown)
    assert "starting LiteLLM" in terminal.shown
    assert "it stays for 10 min after its last use, stop it with: " in terminal.shown
    assert terminal.shown.splitlines()[-1].startswith("[gateway] offline demo model")
    before = len(terminal.shown)
    assert terminal.run(*KEEP, command=PRINT) == (first, 0)
    wait_until(lambda: terminal.shown[before:].count("\n") == 2)
    assert f"using the gateway that runs at {first.split()[0]}; it stays for 10 min" in terminal.shown[before:]
    assert first.split()[1] not in terminal.shown
    assert len(kept(launcher)) == 2


def test_a_logout_leaves_nothing(launcher: Launcher, terminal: Terminal) -> None:
    terminal.run(*KEEP, command=PRINT)
    assert kept(launcher)
    assert terminal.log_out() == ""  # nobody holds stdout any longer: a pipe behind the command would end
    wait_until(lambda: not kept(launcher))
    assert {file.name for file in launcher.state.iterdir()} == {"master-key", "salt", "gateway.lock"}
