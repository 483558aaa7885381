"""A relay process on a fresh SQLite file, with its processor time and memory."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from litellm_openai_example.research.contract import IDEMPOTENCY_HEADER, INVOCATIONS_PATH, TOKEN_HEADER

from ...fakes.scripted import free_port
from .load import Connection

_PROGRAMS = Path(sys.executable).parent
_USUAL = ("ledger: ", "replica: ", "listening on ")


@dataclass(frozen=True)
class RelayProcess:
    """A relay that is ready.

    Attributes:
        ready: seconds from the start of the process until `/readyz` answered 200.
    """

    pid: int
    port: int
    ready: float

    @property
    def cpu(self) -> float:
        """Return the processor seconds of all its threads, finer than clock ticks if the system provides that."""
        if platform.system() == "Linux":
            return time.clock_gettime(~self.pid << 3 | 2)  # clock_getcpuclockid(3), which Python has no name for
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def kilobytes(self) -> float:
        """Return the resident memory in kilobytes."""
        return float(psutil.Process(self.pid).memory_info().rss) / 1024


@contextmanager
def relay(upstream: int, model: str, /, **settings: int | str) -> Iterator[RelayProcess]:
    """Run a relay in front of the stub.

    Args:
        upstream: port of the stub.
        model: model that does the research.
        **settings: the relay's variables without their prefix.

    Raises:
        RuntimeError: it failed, or logged a warning.
    """
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder, open(Path(folder) / "log", "w+") as log:
        port = free_port()
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(_PROGRAMS / "litellm-relay"), "--port", str(port)],
            env=_environment(upstream, model, folder, settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_ready(process, port)
            yield RelayProcess(process.pid, port, time.perf_counter() - started)
            process.terminate()
            if process.wait(timeout=10):
                raise OSError(f"exit code {process.returncode}")
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"the relay failed: {_complaints(log.name)}") from error
        finally:
            process.kill()
            process.wait()
        if complaints := _complaints(log.name):
            raise RuntimeError(f"the relay complained: {complaints}")


def _environment(upstream: int, model: str, folder: str, settings: dict[str, int | str]) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith(("RELAY_", "LITELLM_", "OPENAI_"))
    }
    return {
        **inherited,
        "LITELLM_BASE_URL": f"http://127.0.0.1:{upstream}",
        "LITELLM_API_KEY": "sk-bench",
        "RELAY_DATABASE_URL": f"sqlite:///{folder}/relay.sqlite3",
        "RELAY_MODEL": model,
        "RELAY_LOG_LEVEL": "warning",
        "NO_PROXY": "127.0.0.1",
        **{f"RELAY_{name.upper()}": str(value) for name, value in settings.items()},
    }


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    request = f"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n".encode()
    until = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(request)
                if b" 200 " in connection.recv(64):
                    return
        except ConnectionError:
            pass
        time.sleep(0.005)
    raise OSError("not ready")


def _complaints(log: str) -> str:
    text = Path(log).read_text(errors="replace")
    return "\n".join(line for line in text.splitlines() if not line.removeprefix("[relay] ").startswith(_USUAL))[-1000:]


# The requests of its clients


def invocation(number: int, mode: str = "background") -> tuple[str, bytes, dict[str, str]]:
    """Return path, body and headers of the request that starts run number n."""
    arguments: dict[str, Any] = {"research_question": f"What happened in the year {number}?"}
    if mode != "foreground":
        arguments[mode] = True
    body = json.dumps({"tool_name": "deep_research", "arguments": arguments}).encode()
    return INVOCATIONS_PATH, body, {IDEMPOTENCY_HEADER: f"bench-{number}"}


async def start_jobs(process: RelayProcess, numbers: range) -> list[tuple[str, dict[str, str]]]:
    """Start a run for each number; return the path and the token header that read it."""
    started = []
    async with Connection(process.port) as connection:
        for number in numbers:
            path, body, headers = invocation(number)
            view = (await connection.post(path, body, headers)).expect(202).json
            started.append((f"{path}/{view['invocation_id']}", {TOKEN_HEADER: view["invocation_token"]}))
    return started
