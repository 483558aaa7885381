"""Fixtures around one real LiteLLM proxy, shared by pytest's workers, in front of a provider that can fail."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from litellm_openai_example.gateway.environment import ensure

from ..fakes.upstream import LOGGED, READY, USERS, UpstreamControl
from .running import Gateway, Relay

_HERE = Path(__file__).parent
# The first run on a machine installs LiteLLM.
_SECONDS = 900
_started: list[int] = []
_SERVE = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from tests.fakes.upstream import serve
serve(pathlib.Path(sys.argv[2]))
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_SECONDS))


@pytest.fixture(scope="session")
def litellm_python() -> Path:
    """The Python interpreter of LiteLLM's environment."""
    return ensure(print)


@pytest.fixture(scope="session", autouse=True)
def _shared(tmp_path_factory: pytest.TempPathFactory, litellm_python: Path) -> Iterator[Path]:
    """The directory of the shared proxy, which runs until the last worker is done."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / USERS).open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield folder
    if "PYTEST_XDIST_WORKER" not in os.environ:
        for pid in _started:
            os.waitpid(pid, 0)


@pytest.fixture(scope="session")
def _running(_shared: Path) -> dict[str, str]:
    """Addresses of the shared proxy and its provider; the first worker to ask starts them."""
    with (_shared / "starting").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if not (_shared / READY).exists():
            _started.append(_start(_shared))
    place: dict[str, str] = json.loads((_shared / READY).read_text())
    return place


def _start(folder: Path) -> int:
    """Start provider and proxy in a process that may outlive this worker; return its pid."""
    log = folder / "gateway.log"
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    command = [sys.executable, "-c", _SERVE, str(_HERE.parents[1]), str(folder)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=files)
    while not (folder / READY).exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), log.read_text()
        time.sleep(0.1)
    return pid


@pytest.fixture(scope="session")
def gateway(_running: dict[str, str]) -> Gateway:
    """A real LiteLLM gateway. It knows `upstream.MODELS`, `bridged`, and those that `upstream` creates."""
    return Gateway(_running["base_url"], _running["api_key"])


@pytest.fixture(scope="session")
def upstream(_running: dict[str, str]) -> UpstreamControl:
    """The provider behind the gateway."""
    return UpstreamControl(_running["upstream"])


@pytest.fixture
def logged(gateway: Gateway, _shared: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Read LiteLLM's log of the calls for an end user, oldest first. LiteLLM logs shortly after it has answered."""
    file = _shared / "state" / LOGGED

    def read(end_user: str) -> list[dict[str, Any]]:
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for line in lines if (call := json.loads(line))["end_user"] == end_user]

    return read


@pytest.fixture(scope="session")
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    """The plain SDK, without retries, at the gateway."""
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.api_key, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def relay(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    monkeypatch.setenv("LITELLM_BASE_URL", gateway.base_url)
    monkeypatch.setenv("LITELLM_API_KEY", gateway.api_key)
    running = Relay(gateway, tmp_path)
    monkeypatch.setenv("RELAY_BASE_URL", running.url)
    yield running
    running.stop()
