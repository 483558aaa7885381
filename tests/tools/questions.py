"""Many questions under kill -9, and at speed: `python -m tests.tools.questions [relay|chat|speed ...]`.

`relay` and `chat` ask 200 questions while the command is killed ten times, and the relay twice. Then every question has
one row, and the upstream's log one POST; those that a kill has left unknown are named. `speed` asks 1,000 and 10,000
questions of a stub, and prints rows a second and the peak of the memory.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..fakes.gateway import KEY, Gateway, message
from ..fakes.scripted import eventually, free_port

PROGRAM = str(Path(sys.executable).parent / "litellm-example")
QUESTIONS, KILLS, RELAY_KILLS = 200, 10, 2
_NUMBER = re.compile(r"question (\d+)")
_LONGEST = 600.0  # seconds between two kills on a machine that is very busy


@dataclass
class Outcome:
    """The end of many questions.

    Attributes:
        code: exit code of the last command.
        rows: in the order of the file.
        posts: the number of POSTs by question.
        messages: what the last command said.
        seconds: that all commands took.
    """

    code: int
    rows: list[dict[str, Any]]
    posts: Counter[int]
    messages: str
    seconds: float

    @property
    def unknown(self) -> list[str]:
        """The ids of the questions that may have been executed without an answer."""
        return [str(row["id"]) for row in self.rows if row["status"] == "unknown"]

    def check(self, count: int) -> None:
        """Raise AssertionError unless each question has one row and one POST, and each unknown one is named."""
        assert Counter(int(row["id"]) for row in self.rows) == Counter(range(1, count + 1))
        assert max(self.posts.values()) == 1, f"sent more than once: {self.posts.most_common(5)}"
        unknown = set(self.unknown)
        assert {str(number) for number in range(1, count + 1)} - unknown <= {str(number) for number in self.posts}
        assert {row["status"] for row in self.rows} <= {"completed", "unknown"}
        assert self.code == (3 if unknown else 0)
        named = self.messages.partition("without an answer: ")[2].partition(".")[0]
        assert len(unknown) > 100 or unknown == set(filter(None, named.split(", "))), self.messages


def ask_under_kills(
    folder: Path,
    upstream: Gateway,
    env: Mapping[str, str],
    arguments: Sequence[str],
    *,
    count: int,
    kills: int,
    between: Callable[[int], None] = lambda kill: None,
) -> Outcome:
    """Ask `count` questions while the command is killed, and return what came of them.

    Args:
        folder: of the files.
        upstream: counts the POSTs.
        env: of the command.
        arguments: of the command, besides the files.
        count: of the questions.
        kills: of the command, spread over the questions.
        between: called with the number of each kill, before it, while the command runs.
    """
    started = time.monotonic()
    questions, out = folder / "questions.txt", folder / "answers.jsonl"
    questions.write_text("".join(f"question {number}\n" for number in range(1, count + 1)))
    command = [PROGRAM, "--questions", str(questions), "--out", str(out), *arguments]
    for kill in range(kills):
        wanted = count * (kill + 1) // (kills + 1)
        with subprocess.Popen(command, env=dict(env), stderr=subprocess.DEVNULL) as process:
            between(kill)
            reached = eventually(lambda: rows_in(out) >= wanted or process.poll() is not None, _LONGEST)  # noqa: B023
            process.kill()
            assert reached, f"{rows_in(out)} rows of {wanted}"
    last = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=_LONGEST, check=False)
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    posts = Counter(int(found) for post in upstream.posts for found in _NUMBER.findall(str(post)))
    return Outcome(last.returncode, rows, posts, last.stderr, time.monotonic() - started)


def rows_in(out: Path) -> int:
    """Return the number of whole rows in a file."""
    return out.read_bytes().count(b"\n") if out.exists() else 0


def under_kills(folder: Path, mode: str, *, count: int, kills: int, relay_kills: int) -> Outcome:
    """Ask questions of a gateway, or through a relay that is killed as well.

    Args:
        folder: for the files, the ledger and the state.
        mode: "chat" or "relay"; the first stands for all foreground calls.
        count: of the questions.
        kills: of the command.
        relay_kills: of the relay.
    """
    from ..relay.running import RelayProcess, environment

    upstream = Gateway().start()
    upstream.seconds = 0.1
    # The foreground calls take a moment, so that kills meet some of them.
    upstream.bridged = mode == "chat"
    upstream.final = lambda request: message(f"Answer to {request['input']}")
    env = {**os.environ, "LITELLM_BASE_URL": upstream.base_url, "LITELLM_API_KEY": KEY}
    env |= {"XDG_STATE_HOME": str(folder / "state")}
    (folder / "state").mkdir()
    if mode == "chat":
        try:
            arguments = ["--api", "responses", "--jobs", "4"]
            return ask_under_kills(folder, upstream, env, arguments, count=count, kills=kills)
        finally:
            upstream.stop()
    port = free_port()
    ours = environment(f"sqlite:///{folder / 'ledger.db'}", upstream)
    relays = [RelayProcess(ours, "--port", str(port)).ready()]
    at = {kills * (number + 1) // (relay_kills + 1) for number in range(relay_kills)}

    def kill_relay(kill: int) -> None:
        if kill in at:
            before = len(upstream.posts)
            eventually(lambda: len(upstream.posts) > before)
            relays[-1].kill()
            relays.append(RelayProcess(ours, "--port", str(port)).ready())

    try:
        env["RELAY_BASE_URL"] = f"http://127.0.0.1:{port}"
        arguments = ["--target", "relay", "--jobs", "8"]
        return ask_under_kills(folder, upstream, env, arguments, count=count, kills=kills, between=kill_relay)
    finally:
        for one in relays:
            one.ensure_ended()
        upstream.stop()


@contextmanager
def _stub() -> Iterator[int]:
    command = [sys.executable, "-m", "tests.tools.bench.stub"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


def _speed() -> None:
    from .bench.measure import run_process

    with _stub() as port, tempfile.TemporaryDirectory() as name:
        for count, jobs in ((1_000, 4), (10_000, 4), (10_000, 16)):
            folder = Path(name) / f"{count}-{jobs}"
            (folder / "state").mkdir(parents=True)
            (folder / "q.txt").write_text("".join(f"question {number}\n" for number in range(count)))
            env = {**os.environ, "LITELLM_BASE_URL": f"http://127.0.0.1:{port}", "LITELLM_API_KEY": KEY}
            env |= {"XDG_STATE_HOME": str(folder / "state")}
            command = [PROGRAM, "--questions", str(folder / "q.txt"), "--out", str(folder / "o"), "--jobs", str(jobs)]
            seconds, megabytes = run_process(command, env)
            assert rows_in(folder / "o") == count
            print(
                f"{count} questions, {jobs} at a time: {count / seconds:.0f} rows/s, peak {megabytes:.0f} MB",
                flush=True,
            )


def main() -> None:
    for mode in sys.argv[1:] or ("relay", "chat", "speed"):
        if mode == "speed":
            _speed()
            continue
        with tempfile.TemporaryDirectory() as name:
            relay_kills = RELAY_KILLS if mode == "relay" else 0
            outcome = under_kills(Path(name), mode, count=QUESTIONS, kills=KILLS, relay_kills=relay_kills)
        outcome.check(QUESTIONS)
        print(
            f"{mode}: {len(outcome.rows)} rows, {sum(outcome.posts.values())} POSTs, none twice, "
            f"{KILLS} kills of the command, {relay_kills} of the relay; "
            f"unknown and named: {', '.join(outcome.unknown) or 'none'}; {outcome.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
