"""Measuring whole processes, and pairs of things in turn."""

from __future__ import annotations

import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

_RSS_UNIT = 1024 if sys.platform != "darwin" else 1024 * 1024


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
        return max((one for one in self.megabytes if not math.isnan(one)), default=math.nan)

    def ratio(self, other: Figures) -> tuple[float, float, float]:
        """The ratio of the medians, and the middle half of the ratios pair by pair."""
        pairs = sorted(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))
        low, _, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else (pairs[0],) * 3
        return self.median / other.median, low, high


def run_process(command: Sequence[str], env: dict[str, str]) -> tuple[float, float]:
    """Run a command to its end: wall seconds and peak memory in MB (nan if less than ours). Raises when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    peak = usage.ru_maxrss / _RSS_UNIT
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"{command} failed: {complaint.decode(errors='replace')[-500:]}")
    # The kernel counts what the child shared with us before it became another program.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_UNIT
    return seconds, peak if peak > own else math.nan


def interleaved(things: Mapping[str, Callable[[], tuple[float, float]]], runs: int) -> dict[str, Figures]:
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


def raise_file_limit() -> None:
    """Each waiter is a connection: allow as many files as this user may have open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def stub() -> Iterator[int]:
    """The stub upstream in a process of its own; its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.stub"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield int(_line(process.stdout))
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _line(pipe: IO[bytes] | None) -> str:
    assert pipe is not None
    return pipe.readline().decode()
