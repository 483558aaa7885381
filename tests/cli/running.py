"""The command in a separate process, and helpers for its tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..fakes.scripted import KEY, Answer, ScriptedServer, Seen, reply, response_body

PROGRAM = str(Path(sys.executable).parent / "litellm-example")
R = ["--api", "responses"]
NOT_SEARCHED = "[the answer shows no web search: the model did not search, or the gateway left the tool out]\n"


def polling(*statuses: Any) -> Any:
    """Script a submit, then these answers to the polls: each a status, or a whole answer."""
    left = list(statuses)

    def script(seen: Seen) -> Answer:
        if seen.method == "POST":
            return reply(response_body(None, "queued"))
        status = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(status, Answer):
            return status
        body = response_body("done" if status == "completed" else None, status, id="resp_other")
        return reply(body, **{"openai-poll-after-ms": "50"})

    return script


def environment(server: ScriptedServer, **more: str) -> dict[str, str]:
    return {**os.environ, "LITELLM_BASE_URL": server.url, "LITELLM_API_KEY": KEY, **more}


def start(server: ScriptedServer, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    env = environment(server, **more.pop("env", {}))
    more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen([PROGRAM, *arguments], env=env, **more)
