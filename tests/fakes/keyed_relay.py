"""A fake relay with idempotency keys, and helpers that read the command's records and messages."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ..conftest import RunCommand
from .scripted import Answer, ScriptedServer, Seen, reply
from .tool_calling import INVOCATIONS, view

TWO = [json.dumps({"research_question": question}) for question in ("Why noodles?", "Why rice?")]
HELD = 60.0  # seconds; stopping the server ends them


class KeyedRelay:
    """A relay that starts one run for each idempotency key, and holds back the answers that `holds` selects.

    Attributes:
        accepted: the submits by their key.
        posts: all submits, repeats included.
        holds: selects the requests that get no answer.
    """

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.accepted: dict[str, Seen] = {}
        self.posts: list[Seen] = []
        self.holds: Callable[[Seen], bool] = lambda seen: False
        self.ended = True
        self._lock = threading.Lock()
        server.script = self._answer

    def _answer(self, seen: Seen) -> Answer:
        answer = self._good(seen)
        if self.holds(seen):
            answer.pause = HELD
        return answer

    def _good(self, seen: Seen) -> Answer:
        if seen.path == "/readyz":
            return reply({"status": "ready"})
        if held_start(seen):
            with self._lock:
                self.posts.append(seen)
                key = seen.headers["idempotency-key"]
                self.accepted.setdefault(key, seen)
                number = list(self.accepted).index(key) + 1
            return reply(self._view(number, "running", None), 202)
        number = int(re.findall(r"inv_(\d+)", seen.path)[0])
        assert seen.headers["x-invocation-token"] == f"tok_{number}"
        if seen.path.endswith("/cancel"):
            return reply(self._view(number, "cancelled", None))
        return reply(self._view(number)) if self.ended else reply(self._view(number, "running", None), 202)

    def _view(self, number: int, status: str = "completed", text: str | None = "RESEARCHED") -> dict[str, Any]:
        return view(status, text, invocation_id=f"inv_{number}", invocation_token=f"tok_{number}")


def held_start(seen: Seen) -> bool:
    return seen.method == "POST" and seen.path.endswith(INVOCATIONS)


def nothing_held(seen: Seen) -> bool:
    return False


@pytest.fixture
def relay(relay_server: ScriptedServer) -> KeyedRelay:
    return KeyedRelay(relay_server)


def listed(command: RunCommand) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(command("--list", "--json").out)
    return found


def typed_lines(err: str) -> list[list[str]]:
    """Return the shell commands in a message, each as a list of words."""
    found = re.findall(r": ((?:[A-Z_]+=\S+ )*(?:\S*/)?litellm-example .*)", err)
    return [shlex.split(line) for line in found]


def arguments_of(line: list[str]) -> list[str]:
    return line[next(at for at, word in enumerate(line) if word.endswith("litellm-example")) + 1 :]
