"""The Makefile's targets and the long-running tools leave no process behind, even if they are interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from .ending import has_ended

_READY = (".venv/run-ready", ".venv/relay-ready", ".venv/test-ready", ".venv-bench/ready")


def _below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _is_relay(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "litellm_openai_example.relay" in process.cmdline()
    return False


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill leftovers, also after a failed test."""
    found: list[psutil.Process] = []
    try:
        yield
    finally:
        with suppress(psutil.Error):
            found = [psutil.Process(process.pid), *_below(process)]
        for one in found:
            with suppress(psutil.Error):
                one.kill()
        process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short name: the path of a socket in it is limited to about 100 characters."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # a database server that root starts is another user
        yield Path(name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_soak_leaves_no_process_or_file(folder: Path, number: signal.Signals) -> None:
    program = [sys.executable, "-m", "tests.tools.soak", "--seconds", "60"]
    process = subprocess.Popen(program, env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.DEVNULL)
    with _ended(process):
        until, started = time.monotonic() + 60, list[psutil.Process]()
        while sum(map(_is_relay, started)) < 2:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
            with suppress(psutil.Error):
                started = _below(process)
        servers = [psutil.Process(int(file.read_text().split()[0])) for file in folder.rglob("postmaster.pid")]
        assert servers
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert not [one for one in started + servers if not has_ended(one)]
    assert not list(folder.iterdir())


TWICE = """
import os, signal, subprocess, sys, tempfile
import psutil
from tests.tools.ending import Ending
before = tempfile.gettempdir(), os.environ.get("TMPDIR"), signal.getsignal(signal.SIGINT)
for _ in range(2):
    with Ending() as ending, tempfile.NamedTemporaryFile() as file:
        assert file.name.startswith(f"{ending.directory}/")
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not psutil.pid_exists(child.pid)
    assert not ending.directory.exists()
    assert before == (tempfile.gettempdir(), os.environ.get("TMPDIR"), signal.getsignal(signal.SIGINT))
"""


@pytest.mark.parametrize("given", [{}, {"TMPDIR": "/tmp"}])
def test_a_regular_end_restores_handlers_and_temporary_directory(given: dict[str, str]) -> None:
    env = {name: value for name, value in os.environ.items() if name != "TMPDIR"} | given
    subprocess.run([sys.executable, "-c", TWICE], env=env, check=True, timeout=60)


@pytest.mark.parametrize("target", ["run", "run-auto", "gateway", "relay", "bench", "soak", "fuzz"])
def test_programs_started_by_make_end_with_it(tmp_path: Path, target: str) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make")
    uv, told = tmp_path / "uv", tmp_path / "told"
    uv.write_text(
        f"#!{sys.executable}\nimport pathlib, signal, sys\ntold = pathlib.Path({str(told)!r})\n"
        "def end(*_):\n    told.write_text('ended')\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\ntold.write_text('runs')\nsignal.pause()\n"
    )
    uv.chmod(0o755)
    program = [make, *(f"--assume-old={file}" for file in _READY), f"UV={uv}", "PROMPT=a 'b' $c", "ARGS=--x 'y z'"]
    process = subprocess.Popen([*program, target], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with _ended(process):
        _wait_for(told, "runs")
        process.terminate()
        process.wait(60)
        _wait_for(told, "ended")


def _wait_for(file: Path, text: str) -> None:
    until = time.monotonic() + 10
    while not (file.exists() and file.read_text() == text):
        assert time.monotonic() < until, text
        time.sleep(0.02)
