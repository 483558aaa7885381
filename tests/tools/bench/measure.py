"""Measurements of whole processes, and of alternating pairs."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

_RSS_UNIT = 1024 if sys.platform != "darwin" else 1024 * 1024


@dataclass
class Figures:
    """Measurements of one subject, run by run."""

    name: str
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        return max(self.megabytes)

    def ratio(self, other: Figures) -> tuple[float, float, float]:
        """Return the median and the quartiles of the ratios of pairs.

        The two runs of a pair met the machine at about the same speed; two medians may not have.
        """
        pairs = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        low, middle, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
        return middle, low, high


# The kernel counts memory shared with the parent before the exec, so a small process starts the measured one.
_LAUNCH = """import os, sys, time
nothing = os.open(os.devnull, os.O_RDWR)
report = os.dup(1)
os.dup2(nothing, 0), os.dup2(nothing, 1)
started = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
seconds = time.perf_counter() - started
os.write(report, f"{seconds} {usage.ru_maxrss} {os.waitstatus_to_exitcode(status)}".encode())
"""


def run_process(command: Sequence[str], env: dict[str, str]) -> tuple[float, float]:
    """Run a command to its end; return wall seconds and peak memory in MB. Raise RuntimeError if it fails."""
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, *command]
    done = subprocess.run(launch, env=env, stdin=subprocess.DEVNULL, capture_output=True)
    seconds, peak, code = done.stdout.split() or (0, 0, done.returncode)
    if int(code):
        raise RuntimeError(f"{command} failed: {done.stderr.decode(errors='replace')[-500:]}")
    return float(seconds), float(peak) / _RSS_UNIT


def interleaved(things: Mapping[str, Callable[[], tuple[float, float]]], runs: int) -> dict[str, Figures]:
    """Run the subjects in turn, so that a drift of the machine's speed hits all; the first round is not counted."""
    figures = {name: Figures(name) for name in things}
    for round_ in range(runs + 1):
        for name, thing in things.items():
            seconds, megabytes = thing()
            if round_:
                figures[name].seconds.append(seconds)
                figures[name].megabytes.append(megabytes)
    return figures


def machine() -> str:
    """Describe the machine in one line."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{os.cpu_count()} x {model}, {platform.system()}, Python {platform.python_version()}"


def raise_file_limit() -> None:
    """Raise the limit of open files to the user's maximum: each waiter is a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def stub() -> Iterator[int]:
    """Run the stub upstream in a separate process; yield its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tools.bench.stub"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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
