"""A research run whose answer is lost: its record is durable before the `POST`, and finds the run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from litellm_openai_example.state import state_dir

from ..conftest import RunCommand
from ..fakes.keyed_relay import KeyedRelay, arguments_of, held_start, listed, nothing_held, relay, typed_lines
from ..fakes.scripted import Answer, ScriptedServer, Seen, eventually, reply
from ..fakes.served import FakeGateway
from ..fakes.tool_calling import view
from .running import PROGRAM, environment, start

__all__ = ["relay"]


def test_a_submit_without_an_answer_is_picked_up(
    relay: KeyedRelay, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.holds = held_start
    run = command("--target", "relay", "--tag", "blue", "--timeout", "2", "Why noodles?")
    assert (run.code, run.out) == (4, "")
    assert "may have been accepted" in run.err
    (line,) = typed_lines(run.err)
    (entry,) = listed(command)
    assert (entry["confirmed"], entry["prompt"], entry["id"]) == (False, "Why noodles?", line[-3])
    assert "not confirmed" in command("--list").out

    relay.holds = nothing_held
    monkeypatch.delenv("RELAY_BASE_URL")  # another shell
    monkeypatch.setenv("LITELLM_TAGS", "red")
    run = command(*arguments_of(line))
    assert (run.code, run.out) == (0, "RESEARCHED\n")
    assert len(relay.accepted) == 1
    assert len({(seen.content, seen.headers["x-litellm-tags"]) for seen in relay.posts}) == 1
    assert listed(command) == []


def test_a_repeat_goes_to_the_relay_of_the_first_post(
    relay: KeyedRelay, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.holds = held_start
    assert command("--target", "relay", "--timeout", "2", "Why?").code == 4
    relay.holds = nothing_held
    (entry,) = listed(command)
    with FakeGateway() as other:
        second = KeyedRelay(other)
        monkeypatch.setenv("RELAY_BASE_URL", other.url)
        assert command("--invocation", entry["id"]).out == "RESEARCHED\n"
        assert second.posts == []


def test_a_repeat_that_fails_keeps_the_record(relay: KeyedRelay, command: RunCommand) -> None:
    relay.holds = held_start
    assert command("--target", "relay", "--timeout", "2", "Why?").code == 4
    (entry,) = listed(command)
    for refusal in (401, 404, 409, 422, 503):
        relay.server.answers(reply({}, refusal))
        run = command("--invocation", entry["id"], "--timeout", "3")
        assert (run.code, run.out) == (4, "")
        assert f"HTTP {refusal}" in run.err
        assert listed(command)[0]["id"] == entry["id"]


def test_an_unconfirmed_run_is_cancelled(relay: KeyedRelay, command: RunCommand) -> None:
    relay.holds = held_start
    assert command("--target", "relay", "--timeout", "2", "Why?").code == 4
    relay.holds = nothing_held
    (entry,) = listed(command)
    run = command("--cancel", entry["id"])
    assert (run.code, json.loads(run.out)["status"]) == (0, "cancelled")
    assert relay.server.posts[-1].path.endswith("/inv_1/cancel")
    assert len(relay.accepted) == 1
    assert listed(command) == []


# Answers that prove that no run was accepted, so nothing is left to pick up.
REFUSALS = [
    *(reply({}, status) for status in (301, 302, 400, 401, 403, 404, 405, 413, 415, 422)),
    reply({"error": {"code": "idempotency_conflict", "message": "x"}}, 409),
    reply({"error": {"code": "queue_full", "message": "x"}}, 503, retry_after="99"),
    reply({"error": {"code": "shutting_down", "message": "x"}}, 503, retry_after="99"),
    reply({}, 429, retry_after="99"),
    reply({}, 425, retry_after="99"),
    reply(b"<html>Sign in</html>", 200, content_type="text/html"),
]
# Answers after which a run may exist: its record must stay.
UNKNOWN = [
    *(reply({}, status) for status in (200, 202, 303, 409)),
    *(reply({}, status, retry_after="99") for status in (408, 500, 502, 503, 504)),
    reply({"error": {"code": "ledger_unavailable", "message": "x"}}, 503, retry_after="99"),
    reply({"error": {"code": "internal_error", "message": "x"}}, 500, retry_after="99"),
    reply(b"{", 202),
    reply(b"[" * 100_000, 202),
    Answer(202, json.dumps(view()).encode(), cut=40),
    Answer(drop=True),
]


def named(answer: Answer) -> str:
    return f"{answer.status}-{answer.body[:40]!r}-{answer.drop}"


@pytest.mark.parametrize("answer", REFUSALS, ids=named)
def test_a_definite_refusal_leaves_no_record(answer: Answer, relay: KeyedRelay, command: RunCommand) -> None:
    relay.server.script = lambda seen: answer
    run = command("--target", "relay", "--timeout", "1", "Why?")
    assert (run.code, run.out) == (1, "")
    assert listed(command) == []


@pytest.mark.parametrize("answer", UNKNOWN, ids=named)
def test_any_other_answer_keeps_the_record(answer: Answer, relay: KeyedRelay, command: RunCommand) -> None:
    relay.server.script = lambda seen: answer
    run = command("--target", "relay", "--timeout", "1", "Why?")
    assert (run.code, run.out) == (4, "")
    assert len(listed(command)) == 1
    assert len(typed_lines(run.err)) == 1


@pytest.mark.parametrize("second", [reply({}, 401), reply({}, 422), reply(b"<html>", 200), None], ids=str)
def test_a_refused_repeat_says_nothing_about_the_first_submit(
    second: Answer | None, relay: KeyedRelay, command: RunCommand
) -> None:
    def script(seen: Seen) -> Answer:
        if len(relay.server.posts) > 1 and second is not None:
            return second
        return Answer(drop=True)

    relay.server.script = script
    assert command("--target", "relay", "--timeout", "2", "Why?").code == 4
    assert len(listed(command)) == 1


def test_an_unreachable_relay_leaves_no_record(command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeGateway() as closed:
        monkeypatch.setenv("RELAY_BASE_URL", closed.url)
    assert command("--target", "relay", "--timeout", "1", "Why?").code == 1
    assert listed(command) == []


def test_a_submit_is_repeated_after_a_500(relay: KeyedRelay, command: RunCommand) -> None:
    good = relay.server.script
    relay.server.script = lambda seen: reply({}, 500) if len(relay.server.seen) < 2 else good(seen)
    assert command("--target", "relay", "Why?").out == "RESEARCHED\n"


@pytest.mark.parametrize("path", ["/wait", "/events", "/cancel"])
def test_a_follow_up_is_repeated_after_a_500(path: str, relay: KeyedRelay, command: RunCommand) -> None:
    good = relay.server.script
    failed: list[Seen] = []

    def script(seen: Seen) -> Answer:
        if path in seen.path and not failed:
            failed.append(seen)
            return reply({}, 500)
        return Answer(204) if "/events" in seen.path else good(seen)

    relay.server.script = script
    command("--target", "relay", *(["--stream"] if path == "/events" else ["--background"]), "Why?")
    run = command("--cancel" if path == "/cancel" else "--invocation", "inv_1")
    assert failed
    assert run.code == 0 or path == "/events"
    assert listed(command) == []


# Answers to a run's id, and whether they prove that the run is gone: only the relay's own 404 does.
GONE: list[tuple[Answer, bool]] = [
    (reply({"error": {"code": "not_found", "message": "x"}}, 404), True),
    (reply({"error": {"code": "forbidden", "message": "x"}}, 403), False),
    (reply({}, 404), False),
    (reply(b"404 page not found", 404), False),
    (reply({"error": {"code": "not_found", "message": "x"}}, 500), False),
]


@pytest.mark.parametrize(("answer", "gone"), GONE, ids=lambda one: str(getattr(one, "body", one)))
@pytest.mark.parametrize("flag", ["--invocation", "--cancel"])
def test_only_the_runs_own_relay_can_report_it_gone(
    flag: str, answer: Answer, gone: bool, relay: KeyedRelay, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("--target", "relay", "--background", "Why?")
    with FakeGateway(lambda seen: answer) as other, monkeypatch.context() as elsewhere:
        elsewhere.setenv("RELAY_BASE_URL", other.url)
        assert command(flag, "inv_1", "--timeout", "1").code in (1, 4)
    assert len(listed(command)) == 1
    relay.server.answers(answer)
    assert command(flag, "inv_1", "--timeout", "1").code in (1, 4)
    assert len(listed(command)) == (0 if gone else 1)


def test_the_record_is_on_disk_before_the_post(
    relay: KeyedRelay, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append("directory" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "file")

    monkeypatch.setattr(os, "fsync", fsync)
    at_post: list[list[str]] = []
    good = relay.server.script

    def script(seen: Seen) -> Answer:
        if held_start(seen):
            at_post.append(list(synced))
            (entry,) = state_dir().glob("work-*")
            assert entry.stat().st_mode & 0o777 == 0o600
            kept = json.loads(entry.read_text())
            assert kept["key"] == seen.headers["idempotency-key"]
            assert kept["arguments"].items() <= seen.json["arguments"].items()
        return good(seen)

    relay.server.script = script
    assert command("--target", "relay", "Why?").code == 0
    # The file's name is durable only once its directory is synced as well.
    assert at_post == [["file", "directory"]]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_command_stopped_before_the_answer(
    how: signal.Signals, gateway: ScriptedServer, relay: KeyedRelay, command: RunCommand
) -> None:
    relay.holds = held_start
    with start(gateway, "--target", "relay", "--timeout", "60", "Why?") as process:
        assert eventually(lambda: relay.posts)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    (entry,) = listed(command)
    if how is signal.SIGINT:
        lines = typed_lines(err.decode())
        assert [line[-3:] if "--invocation" in line else line[-2:] for line in lines] == [
            [entry["id"], "--timeout", "3600"],
            ["--cancel", entry["id"]],
        ]
    relay.holds = nothing_held
    assert command("--invocation", entry["id"]).out == "RESEARCHED\n"
    assert len(relay.accepted) == 1


def test_concurrent_commands_lose_no_record(gateway: ScriptedServer, relay: KeyedRelay, command: RunCommand) -> None:
    commands = [start(gateway, "--target", "relay", "--background", f"Why {number}?") for number in range(4)]
    for process in commands:
        process.communicate(timeout=60)
    assert {entry["id"] for entry in listed(command)} == {f"inv_{number}" for number in range(1, 5)}


def test_two_commands_pick_up_one_run(gateway: ScriptedServer, relay: KeyedRelay, command: RunCommand) -> None:
    relay.holds = held_start
    assert command("--target", "relay", "--timeout", "1", "Why?").code == 4
    relay.holds = nothing_held
    (entry,) = listed(command)
    commands = [start(gateway, "--invocation", entry["id"]) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0] for process in commands]
    assert b"RESEARCHED\n" in answers
    assert len(relay.accepted) == 1


def test_the_resume_command_works_in_a_shell(relay: KeyedRelay, gateway: ScriptedServer, command: RunCommand) -> None:
    relay.ended = False
    # The relay's address needs quoting in the printed command line.
    url = f"{relay.server.url}/a$(>bad)b;c"
    env = environment(gateway, RELAY_BASE_URL=url, PATH=f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}")
    with start(gateway, "--target", "relay", "--timeout", "60", "Why?", env=env) as process:
        assert eventually(lambda: any("/wait" in seen.path for seen in relay.server.seen))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    relay.ended = True
    line = re.findall("Pick it up: (.*)", err.decode())[0]
    env.pop("RELAY_BASE_URL")
    env["XDG_STATE_HOME"] = "/proc/nothing"  # nothing is known but the line itself
    again = subprocess.run(["sh", "-c", line], env=env, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert again.stdout == b"RESEARCHED\n", again.stderr
