"""Processes in front of and behind the real LiteLLM: its launcher, a relay, and a background submit of the command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from litellm_openai_example.json_object import JsonObject

from ..conftest import RunCommand
from ..fakes.scripted import eventually, free_port
from ..fakes.upstream import UpstreamControl

_START = 120.0  # seconds; beside busy loops the imports alone take half a minute
R = ["--api", "responses"]
QUESTION = "Research the history of jajangmyeon (짜장면)"


@dataclass(frozen=True)
class Gateway:
    """Address and key of the real LiteLLM proxy."""

    base_url: str
    api_key: str


class Relay:
    """A relay process."""

    def __init__(self, gateway: Gateway, folder: Path, model: str = "o3-deep-research") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {
            **os.environ,
            "LITELLM_BASE_URL": gateway.base_url,
            "LITELLM_API_KEY": gateway.api_key,
            "RELAY_DATABASE_URL": f"sqlite:///{folder}/relay.sqlite3",
            "RELAY_MODEL": model,
        }
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "litellm_openai_example.relay", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=self._env, stderr=subprocess.DEVNULL)
        assert eventually(lambda: self.is_ready() or self.process.poll() is not None, _START)
        assert self.process.poll() is None

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=60):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


@contextmanager
def relay(gateway: Gateway, folder: Path, model: str | None) -> Iterator[str]:
    """Run a relay with this model, by default `gpt-6.1-sol`; yield its URL."""
    running = Relay(gateway, folder, model or "gpt-6.1-sol")
    try:
        yield running.url
    finally:
        running.stop()


def asked(upstream: UpstreamControl, model: str, question: str) -> list[JsonObject]:
    """Return the bodies of the creates for a question, as received by the provider."""
    found = [one.body for one in upstream.requests(model) if one.method == "POST"]
    return [body for body in found if body is not None and question in str(body)]


def submit(command: RunCommand, *arguments: str) -> str:
    run = command(*R, "--background", *arguments)
    assert run.code == 0, run.err
    submitted = json.loads(run.out)
    assert submitted["status"] in ("queued", "in_progress")
    return str(submitted["id"])


def launch(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "litellm_openai_example.gateway", *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def serving(env: dict[str, str]) -> tuple[subprocess.Popen[str], openai.OpenAI]:
    process = launch(env)
    assert process.stdout is not None
    exports = dict(re.findall(r"export (\w+)=(\S+)", process.stdout.readline() + process.stdout.readline()))
    assert exports, process.communicate()
    url, key = f"{exports['LITELLM_BASE_URL']}/v1", exports["LITELLM_API_KEY"]
    return process, openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)


def say(client: openai.OpenAI, model: str) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Reply with exactly: OK"}])


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
