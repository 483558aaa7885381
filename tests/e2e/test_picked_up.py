"""An interrupted `make run-auto`, and a lost terminal: the printed command line still gets the answer.

Gateway and relay end with the command here, and the line starts new ones: nothing may depend on their memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..fakes.scripted import eventually
from ..tools.terminal import Terminal
from .running import Gateway, Relay

ROOT = Path(__file__).parent.parent.parent
QUESTION = "Research the history of jajangmyeon (짜장면)"
COMMAND = [sys.executable, "-m", "litellm_openai_example"]
_ACCEPTED = "was accepted by the relay"

# The dependencies are installed already; their installation is tested elsewhere.
UV = f"""#!/bin/sh
[ "$1" = run ] || exit 0
while [ "$1" != python ]; do shift; done
shift
exec {sys.executable} "$@"
"""


class Checkout:
    """A directory with the Makefile, for a user without any gateway or state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "uv.lock"):
            shutil.copy(ROOT / name, folder)
        (folder / ".venv").mkdir()
        (folder / "bin").mkdir()
        (folder / "bin/uv").write_text(UV)
        (folder / "bin/uv").chmod(0o755)
        theirs = ("LITELLM_", "RELAY_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "MAKE", "MFLAGS")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
        self.env["PATH"] = f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env["XDG_STATE_HOME"] = str(folder / "state")

    def type(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=240,
        )  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path, litellm_python: Path) -> Checkout:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return Checkout(tmp_path)


def line_in(printed: str) -> str:
    (line,) = re.findall(r"Pick it up: (.*?)\r?\n", printed)
    return str(line)


@pytest.mark.parametrize("by", ["Ctrl-C", "deadline"])
def test_an_interrupted_make_run_auto_is_resumed(by: str, checkout: Checkout) -> None:
    # On a slow machine the model may not have answered yet when a short deadline passes: then a longer one is tried.
    for limit in (3, 6, 12):
        arguments = [f"ARGS=--timeout {limit}"] if by == "deadline" else []
        command = ["make", "run-auto", f"PROMPT={QUESTION}", *arguments]
        terminal = Terminal(command, checkout.folder, checkout.env)
        try:
            assert eventually(lambda t=terminal: _ACCEPTED in t.printed or t.ended, 120), terminal.printed  # type: ignore[misc]
            if by == "Ctrl-C":
                terminal.press_ctrl_c()
        finally:
            code = terminal.end(120)
        if _ACCEPTED in terminal.printed:
            break
    assert code != 0
    assert "The relay has stopped with this command and keeps the research run" in terminal.printed

    run = checkout.type(line_in(terminal.printed))
    assert run.returncode == 0, run.stderr
    assert f"You asked: {QUESTION}" in run.stdout
    assert "# Offline demo research" in run.stdout
    assert "https://example.com/offline-demo" in run.stdout
    state = checkout.folder / "state/litellm-openai-example"
    assert not list(state.glob("work-*.json"))  # the answer has been read, so its record is gone
    assert {file.stat().st_mode & 0o777 for file in state.rglob("*") if file.is_file()} == {0o600}


def test_a_run_is_finished_from_another_terminal(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LITELLM_BASE_URL", gateway.base_url)
    monkeypatch.setenv("LITELLM_API_KEY", gateway.api_key)
    relay = Relay(gateway, tmp_path)
    try:
        there = {**os.environ, "RELAY_BASE_URL": relay.url}
        submitted = _run(there, "--target", "relay", "--background", QUESTION)
        invocation = json.loads(submitted)["invocation_id"]
        listed = _run(dict(os.environ), "--list")
        assert invocation in listed
        assert "Research the history" in listed
        assert "# Offline demo research" in _run(dict(os.environ), "--invocation", invocation, "--timeout", "60")
        assert invocation not in _run(dict(os.environ), "--list")
    finally:
        relay.stop()


def _run(env: dict[str, str], *arguments: str) -> str:
    run = subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stderr
    return run.stdout
