"""Measuring whole processes, and pairs of things in turn."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO


@dataclass
class Figures:
    """What one thing cost, run by run."""

    name: str
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        return max(self.megabytes, default=0.0)

    def ratio(self, other: Figures) -> tuple[float, float, float]:
        """The ratio of the medians, and the middle half of the ratios pair by pair."""
        pairs = sorted(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))
        low, _, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else (pairs[0],) * 3
        return self.median / other.median, low, high


def run_process(command: Sequence[str], env: dict[str, str]) -> tuple[float, float]:
    """Run a command to its end: wall seconds and peak memory in MB. Raises when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"{command} failed: {complaint.decode(errors='replace')[-500:]}")
    return seconds, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024 * 1024)


def interleaved(things: dict[str, Callable[[], tuple[float, float]]], runs: int) -> dict[str, Figures]:
    """Run each thing in turn, so that a machine whose speed drifts drifts for all; the first round is not counted."""
    figures = {name: Figures(name) for name in things}
    for round_ in range(runs + 1):
        for name, thing in things.items():
            seconds, megabytes = thing()
            if round_:
                figures[name].seconds.append(seconds)
                figures[name].megabytes.append(megabytes)
    return figures


def machine() -> str:
    """One line that names the machine."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{os.cpu_count()} x {model}, {platform.system()}, Python {platform.python_version()}"


@contextmanager
def stub() -> Iterator[str]:
    """The stub upstream in a process of its own; its root address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.stub"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield f"http://127.0.0.1:{int(_line(process.stdout))}"
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _line(pipe: IO[bytes] | None) -> str:
    assert pipe is not None
    return pipe.readline().decode()
