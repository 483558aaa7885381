"""Standard streams in every state that a supervisor may leave them in: unread, full, closed or broken."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from litellm_openai_example.relay.log import BackgroundStream

from ..fakes.gateway import Gateway
from ..fakes.scripted import eventually, free_port
from .running import OURS, Api, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors and signals of POSIX")
SMALLEST_PIPE = 4096


@contextmanager
def started(env: dict[str, str], **streams: object) -> Iterator[tuple[subprocess.Popen[bytes], Api]]:
    """Start a relay with these standard streams; stop it with SIGTERM afterwards."""
    port = free_port()
    base = {name: value for name, value in os.environ.items() if not name.startswith(("LITELLM_", "RELAY_"))}
    command = [*OURS, "--port", str(port)]
    if close := str(streams.pop("close", "")):
        command = ["sh", "-c", f'exec "$@" {close}', "sh", *command]
    process = subprocess.Popen(command, env=base | env, **streams)  # type: ignore[call-overload]
    api = Api(f"http://127.0.0.1:{port}")

    def ready() -> bool:
        with suppress(OSError, Exception):
            return api.call("GET", "/readyz").status_code == 200
        return process.poll() is not None

    try:
        assert eventually(ready)
        assert process.poll() is None, process.returncode
        yield process, api
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        api.http.close()
        if process.poll() is None:
            process.kill()
            process.wait()


def test_an_unread_stderr(sqlite_url: str, upstream: Gateway) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    with started(environment(sqlite_url, upstream), stderr=writing) as (_, api):
        os.close(writing)
        runs = [api.start(f"{n}") for n in range(120)]  # the pipe holds some 50 lines
        assert api.call("GET", "/healthz").status_code == 200
        assert api.wait(runs[-1], 60)["status"] == "completed"
    with open(reading, "rb") as pipe:
        assert len(pipe.read()) <= SMALLEST_PIPE


def test_lost_lines_are_counted() -> None:
    reading, writing = os.pipe()
    told: list[int] = []
    stream = BackgroundStream(writing, told.append)
    for n in range(5000):
        stream.write(f"line {n} {'x' * 150}\n")
    lines = 0
    with open(reading, "rb") as pipe:
        while not told or lines + sum(told) < 5000:
            lines += pipe.readline().count(b"\n")
        assert lines + sum(told) == 5000
        assert sum(told) > 3000
        stream.write("in two ")
        stream.write("pieces\n")
        assert pipe.readline() == b"in two pieces\n"
    before = list(told)
    stream.write("nobody is there\n")
    stream.drain(60)
    assert told == before
    os.close(writing)


def _full(stack: list[int]) -> dict[str, object]:
    stack.append(os.open("/dev/full", os.O_WRONLY))
    return {"stderr": stack[0], "stdout": stack[0]}


def _broken(stack: list[int]) -> dict[str, object]:
    reading, writing = os.pipe()
    os.close(reading)
    stack.append(writing)
    return {"stderr": writing, "stdout": writing}


def _not_blocking(stack: list[int]) -> dict[str, object]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    stack += [reading, writing]
    return {"stderr": writing, "stdout": writing}


def _read_only(stack: list[int]) -> dict[str, object]:
    stack.append(os.open("/dev/null", os.O_RDONLY))
    return {"stderr": stack[0], "stdout": stack[0], "stdin": stack[0]}


def _closed(words: str) -> Callable[[list[int]], dict[str, object]]:
    return lambda _: {"close": words}


WAYS = {
    "full": _full,
    "broken pipe": _broken,
    "not blocking": _not_blocking,
    "read only": _read_only,
    "stderr closed": _closed("2>&-"),
    "all closed": _closed("0<&- 1>&- 2>&-"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_the_relay_works_and_stops_cleanly(
    way: Callable[[list[int]], dict[str, object]], sqlite_url: str, upstream: Gateway
) -> None:
    opened: list[int] = []
    try:
        with started(environment(sqlite_url, upstream), **way(opened)) as (_, api):
            runs = [api.start(f"{n}") for n in range(30)]
            assert all(api.wait(run, 60)["status"] == "completed" for run in runs)
    finally:
        for descriptor in opened:
            os.close(descriptor)


@pytest.mark.parametrize("way", [WAYS["full"], WAYS["broken pipe"], WAYS["read only"]])
def test_a_failed_start_shows_in_the_exit_code(way: Callable[[list[int]], dict[str, object]]) -> None:
    opened: list[int] = []
    streams = way(opened)
    base = {name: value for name, value in os.environ.items() if not name.startswith(("LITELLM_", "RELAY_"))}
    try:
        done = subprocess.run([*OURS], env=base, timeout=60, **streams)  # type: ignore[call-overload]
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert done.returncode == 2


@pytest.mark.parametrize("sign", ["", "-wal"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start(
    sign: str, number: signal.Signals, tmp_path: Path, sqlite_url: str, upstream: Gateway
) -> None:
    """The signal is sent as soon as the ledger, or the log beside it, exists."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("LITELLM_", "RELAY_"))}
    env = base | environment(sqlite_url, upstream)
    process = subprocess.Popen([*OURS, "--port", "0"], env=env, stderr=subprocess.PIPE, text=True)
    try:
        began = time.monotonic()
        while not (tmp_path / f"ledger.sqlite3{sign}").exists():
            assert time.monotonic() - began < 60
            assert process.poll() is None
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (0 if number == signal.SIGTERM else 130)
    assert "Traceback" not in printed
