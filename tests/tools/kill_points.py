"""`python -m tests.tools.kill_points [RUNS [FIRST]]`: kill --auto-tool-call with two calls, each time 20 ms later.

A real relay with a ledger runs in front of an upstream that counts paid runs. Command N is killed N times 20 ms after
its first request. Then every run in the ledger must be in `--list`, all of them are picked up, and the upstream must
have been paid once for each.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from litellm_openai_example.cli.journal import local_id
from litellm_openai_example.research.conversation import ToolCall

from ..fakes.gateway import Gateway
from ..fakes.scripted import KEY, Answer, Seen, reply, response_body
from ..fakes.served import FakeGateway
from ..fakes.tool_calling import calling
from ..relay.running import environment, relay_process
from .ending import Ending

STEP = 0.02  # seconds
THINKING = 0.1  # seconds of each turn, so that some commands are killed in it
PROGRAM = [sys.executable, "-m", "litellm_openai_example"]
QUESTIONS = ("noodles", "rice")


class Model:
    """A model that calls deep_research twice at once, and answers when it has both results."""

    def __init__(self) -> None:
        self.name = ""
        self.asked = threading.Event()

    def answer(self, seen: Seen) -> Answer:
        self.asked.set()
        answer = self._answer(seen)
        answer.pause = THINKING
        return answer

    def _answer(self, seen: Seen) -> Answer:
        if seen.method == "GET" or isinstance(seen.json["input"], list):
            return reply(response_body("The answer", id=f"resp_{self.name}_end"))
        return calling(*self.arguments, response_id=f"resp_{self.name}")

    @property
    def arguments(self) -> list[str]:
        return [json.dumps({"research_question": f"{self.name} {question}?"}) for question in QUESTIONS]

    @property
    def local_ids(self) -> list[str]:
        names = [(f"call_{number}", text) for number, text in enumerate(self.arguments, 1)]
        calls = [ToolCall(f"resp_{self.name}", call_id, "deep_research", text) for call_id, text in names]
        return [local_id(call.key) for call in calls]


def accepted(ledger: Path, name: str) -> set[str]:
    """Return the runs of this name in the relay's ledger."""
    with closing(sqlite3.connect(ledger)) as connection:
        rows = connection.execute(
            "select id from relay_invocations where arguments like ?", (f'%"{name} %',)
        ).fetchall()
    return {str(row[0]) for row in rows}


def command(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


def listed(env: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(command(env, "--list", "--json").stdout or "[]")
    return found


def one_run(model: Model, env: dict[str, str], ledger: Path, delay: float) -> str:
    """Kill one command, pick up its work, and return how far it had come."""
    model.asked.clear()
    process = subprocess.Popen(
        [*PROGRAM, "--auto-tool-call", "--timeout", "60", model.name],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert model.asked.wait(60)
    time.sleep(delay)
    process.kill()
    out, _ = process.communicate(timeout=60)
    # A request may still be on its way into the ledger, so its record counts as well as its run.
    entries = listed(env)
    ids = {str(entry["id"]) for entry in entries}
    if process.returncode == 0:
        assert (out, entries) == (b"The answer\n", []), (out, entries)
        return "not killed"
    for run_id in accepted(ledger, model.name) if not out else ():
        unconfirmed = ids & set(model.local_ids)
        assert run_id in ids or unconfirmed, f"{run_id} is accepted, and lost: {ids}"
    assert out or len(ids) >= len(accepted(ledger, model.name)), "fewer entries than accepted runs"
    answers = 0
    while left := listed(env):
        picked = command(env, "--invocation", left[0]["id"], "--timeout", "60")
        assert picked.returncode == 0, picked.stderr
        assert picked.stdout == "The answer\n", picked.stdout
        answers += 1
        assert answers < 3
    confirmed = sum(bool(entry["confirmed"]) for entry in entries)
    return f"{len(entries)} listed, {confirmed} confirmed"


def main(runs: int = 60, first: int = 1) -> int:
    """Kill the commands from `first` to `runs`, and return the exit code."""
    outcomes: Counter[str] = Counter()
    model = Model()
    upstream = Gateway().start()
    with Ending() as ending, FakeGateway(model.answer) as gateway:
        ledger = Path(tempfile.mkdtemp(dir=ending.directory)) / "relay.sqlite3"
        upstream.seconds = 0.2
        with relay_process(environment(f"sqlite:///{ledger}", upstream)) as relay:
            for number in range(first, runs + 1):
                model.name = f"run-{number}"
                env = {
                    **os.environ,
                    "LITELLM_BASE_URL": gateway.url,
                    "LITELLM_API_KEY": KEY,
                    "RELAY_BASE_URL": relay.api.base_url,
                    "XDG_STATE_HOME": tempfile.mkdtemp(dir=ending.directory),
                }
                outcome = one_run(model, env, ledger, number * STEP)
                runs_here = accepted(ledger, model.name)
                paid = [upstream.paid[prompt] for prompt in upstream.paid if f"{model.name} " in prompt]
                assert len(runs_here) in (0, 2), runs_here
                assert sorted(paid) == [1] * len(runs_here), (runs_here, paid)
                print(f"killed {number * STEP:.2f} s after its first request: {outcome}", flush=True)
                outcomes[outcome] += 1
    upstream.stop()
    for outcome, times in outcomes.most_common():
        print(f"{times:3} runs: {outcome}")
    print("every accepted run was listed, picked up and paid once")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
