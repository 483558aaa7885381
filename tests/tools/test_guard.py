"""Processes started by a test run never outlive it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from .ending import has_ended
from .guard import GUARDED

# A run that starts a child, a daemon (the orphan of a child of another session), and then does what the test says.
RUN = """
import os, subprocess, sys, time
from pathlib import Path
from tests.tools.guard import stand_guard
stand_guard()
folder = Path(sys.argv[1])
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
daemon = f"import subprocess; print(subprocess.Popen({sleep!r}, start_new_session=True, stdout=-3, stderr=-3).pid)"
orphan = int(subprocess.run([sys.executable, "-c", daemon], stdout=-1, check=True).stdout)
(folder / "new").write_text(f"{os.getpid()} {child.pid} {orphan}")
(folder / "new").rename(folder / "pids")
exec(sys.argv[2])
"""


def kill_the_first(first: int, run: int) -> None:
    os.kill(first, signal.SIGKILL)


def kill_the_run(first: int, run: int) -> None:
    os.kill(run, signal.SIGKILL)


def kill_the_group(first: int, run: int) -> None:
    os.killpg(first, signal.SIGKILL)


def terminate_the_first(first: int, run: int) -> None:
    os.kill(first, signal.SIGTERM)


def interrupt_the_group(first: int, run: int) -> None:
    os.killpg(first, signal.SIGINT)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is a guard on Linux only")
@pytest.mark.parametrize(
    ("then", "end", "code"),
    [
        ("sys.exit(7)", None, 7),
        ("os.kill(os.getpid(), 9)", None, 137),
        ("time.sleep(600)", kill_the_first, -9),
        ("time.sleep(600)", kill_the_run, 137),
        ("time.sleep(600)", kill_the_group, -9),
        ("time.sleep(600)", terminate_the_first, -15),
        ("time.sleep(600)", interrupt_the_group, 130),
    ],
)
def test_no_process_outlives_a_test_run(
    tmp_path: Path, then: str, end: Callable[[int, int], None] | None, code: int
) -> None:
    env = {name: value for name, value in os.environ.items() if name != GUARDED}
    command = [sys.executable, "-c", RUN, str(tmp_path), then]
    process = subprocess.Popen(command, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    pids = [int(pid) for pid in _wait_for(tmp_path / "pids").split()]
    if end is not None:
        end(process.pid, pids[0])
    assert process.wait(60) == code
    until = time.monotonic() + 60
    while [pid for pid in pids if _lives(pid)]:
        assert time.monotonic() < until
        time.sleep(0.02)


def _wait_for(file: Path) -> str:
    until = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    return file.read_text()


def _lives(pid: int) -> bool:
    with suppress(psutil.Error):
        return not has_ended(psutil.Process(pid))
    return False
