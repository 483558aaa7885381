"""Many questions under kill -9, and at speed: `python -m tests.tools.questions [relay|chat|responses|speed ...]`.

`relay`, `chat` and `responses` ask 200 questions while the command is killed ten times, and the relay twice. Then every
question has one row, and the upstream's log one POST at most. The questions that the upstream has got without an answer
in the file are named as unknown, and `--retry-unknown` asks exactly those. `speed` asks 1,000 and 10,000 questions of a
stub, and prints rows a second, the processor time of a row, and the peak of the memory.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
    """The end of many questions, and of a last command with --retry-unknown.

    Attributes:
        count: the number of questions.
        code: exit code of the last command without --retry-unknown.
        rows: in the order of the file.
        posts: the number of POSTs by question.
        messages: what that command said.
        seconds: that all commands took.
        retry_code: exit code of the command with --retry-unknown.
        retried: the number of POSTs of that command, by question.
        retried_rows: the rows that it left.
    """

    count: int
    code: int
    rows: list[dict[str, Any]]
    posts: Counter[int]
    messages: str
    seconds: float
    retry_code: int
    retried: Counter[int]
    retried_rows: list[dict[str, Any]]

    @property
    def unknown(self) -> set[int]:
        """The questions that may have been executed without an answer."""
        return {int(row["id"]) for row in self.rows if row["status"] == "unknown"}

    @property
    def unsent(self) -> set[int]:
        """The unknown ones that never left: the kill came between their record and their POST."""
        return self.unknown - set(self.posts)

    def check(self) -> None:
        """Raise AssertionError unless nothing is sent twice, and what has no answer is named and alone retried."""
        everything = Counter(range(1, self.count + 1))
        assert Counter(int(row["id"]) for row in self.rows) == everything
        assert max(self.posts.values()) == 1, f"sent more than once: {self.posts.most_common(5)}"
        assert {row["status"] for row in self.rows} <= {"completed", "unknown"}
        completed = {int(row["id"]) for row in self.rows if row["status"] == "completed"}
        assert self.unknown - self.unsent == set(self.posts) - completed
        assert completed <= set(self.posts)
        assert self.code == (3 if self.unknown else 0)
        named = self.messages.partition("without an answer: ")[2].partition(".")[0]
        assert {int(one) for one in named.split(", ") if one} == self.unknown, self.messages
        assert self.retry_code == 0
        assert self.retried == Counter(self.unknown)
        assert Counter(int(row["id"]) for row in self.retried_rows) == everything
        assert {row["status"] for row in self.retried_rows} == {"completed"}


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
    seconds = time.monotonic() - started
    rows, posts = _rows(out), _posts(upstream)
    again = subprocess.run([*command, "--retry-unknown"], env=dict(env), timeout=_LONGEST, check=False)
    retried = _posts(upstream) - posts
    return Outcome(count, last.returncode, rows, posts, last.stderr, seconds, again.returncode, retried, _rows(out))


def _rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_bytes().splitlines()]


def _posts(upstream: Gateway) -> Counter[int]:
    return Counter(int(found) for post in upstream.posts for found in _NUMBER.findall(str(post)))


def rows_in(out: Path) -> int:
    """Return the number of whole rows in a file."""
    return out.read_bytes().count(b"\n") if out.exists() else 0


def under_kills(folder: Path, mode: str, *, count: int, kills: int, relay_kills: int) -> Outcome:
    """Ask questions of a gateway, or through a relay that is killed as well.

    Args:
        folder: for the files, the ledger and the state.
        mode: "relay", "chat" or "responses", the foreground calls of both APIs.
        count: of the questions.
        kills: of the command.
        relay_kills: of the relay.
    """
    from ..relay.running import RelayProcess, environment

    upstream = Gateway().start()
    upstream.seconds = 0.1
    # The foreground calls take a moment, so that kills meet some of them.
    upstream.bridged = mode == "responses"
    upstream.final = lambda request: message(f"Answer to {request['input']}")
    env = {**os.environ, "LITELLM_BASE_URL": upstream.base_url, "LITELLM_API_KEY": KEY}
    env |= {"XDG_STATE_HOME": str(folder / "state")}
    (folder / "state").mkdir()
    if mode != "relay":
        try:
            arguments = ["--api", mode, "--jobs", "4"]
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


def _speed() -> None:
    from .bench.measure import run_process, stub

    with stub() as port, tempfile.TemporaryDirectory() as name:
        for count, jobs in ((1_000, 4), (10_000, 4), (10_000, 16)):
            folder = Path(name) / f"{count}-{jobs}"
            (folder / "state").mkdir(parents=True)
            (folder / "q.txt").write_text("".join(f"question {number}\n" for number in range(count)))
            env = {**os.environ, "LITELLM_BASE_URL": f"http://127.0.0.1:{port}", "LITELLM_API_KEY": KEY}
            env |= {"XDG_STATE_HOME": str(folder / "state")}
            command = [PROGRAM, "--questions", str(folder / "q.txt"), "--out", str(folder / "o"), "--jobs", str(jobs)]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds, megabytes = run_process(command, env)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert rows_in(folder / "o") == count
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(
                f"{count} questions, {jobs} at a time: {count / seconds:.0f} rows/s, "
                f"{processor / count * 1000:.1f} ms of processor time a row, peak {megabytes:.0f} MB",
                flush=True,
            )


def main() -> None:
    for mode in sys.argv[1:] or ("relay", "chat", "responses", "speed"):
        if mode == "speed":
            _speed()
            continue
        with tempfile.TemporaryDirectory() as name:
            relay_kills = RELAY_KILLS if mode == "relay" else 0
            outcome = under_kills(Path(name), mode, count=QUESTIONS, kills=KILLS, relay_kills=relay_kills)
        outcome.check()
        print(
            f"{mode}: {len(outcome.rows)} rows, {sum(outcome.posts.values())} POSTs, none twice, "
            f"{KILLS} kills of the command, {relay_kills} of the relay; unknown and named: "
            f"{', '.join(map(str, sorted(outcome.unknown))) or 'none'} ({len(outcome.unsent)} of them never left); "
            f"retried: exactly these; {outcome.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
