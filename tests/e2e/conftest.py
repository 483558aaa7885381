"""One real LiteLLM proxy for all tests here, in front of a provider that can fail; pytest's workers share it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from litellm_openai_example.gateway.environment import ensure

from .upstream import READY, USERS, UpstreamControl

_HERE = Path(__file__).parent
# The first run on a machine installs LiteLLM.
_SECONDS = 900


@dataclass(frozen=True)
class Gateway:
    """The proxy."""

    base_url: str
    api_key: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def litellm_python() -> Path:
    """The Python that has LiteLLM."""
    return ensure(print)


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory, litellm_python: Path) -> Iterator[dict[str, str]]:
    """Where the shared proxy and its provider are; the first worker that asks starts them."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / USERS).open("w") as users, (folder / "starting").open("w") as starting:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(starting, fcntl.LOCK_EX)
        process = None if (folder / READY).exists() else _start(folder)
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield json.loads((folder / READY).read_text())
    if process is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        process.wait(30)  # otherwise it goes on for the other workers, and ends with the last of them


def _start(folder: Path) -> subprocess.Popen[bytes]:
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.upstream", str(folder)],
            cwd=_HERE.parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    while not (folder / READY).exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    return process


@pytest.fixture(scope="session")
def gateway(_running: dict[str, str]) -> Gateway:
    """A real LiteLLM gateway: `gpt-4o`, `gpt-4o-mini`, `o3-deep-research`, `o4-mini-deep-research`, `bridged`, and the
    models that `upstream` makes; every other name is unknown to it."""
    return Gateway(_running["base_url"], _running["api_key"])


@pytest.fixture(scope="session")
def upstream(_running: dict[str, str]) -> UpstreamControl:
    """The provider behind the gateway."""
    return UpstreamControl(_running["upstream"])


@pytest.fixture(scope="session")
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    """The plain SDK at the gateway, nothing of ours in between; it never retries."""
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.api_key, max_retries=0, timeout=60) as client:
        yield client
