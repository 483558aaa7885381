"""A background submit whose answer is lost stays listed until it is dismissed."""

from __future__ import annotations

import signal

import pytest

from litellm_openai_example.state import state_dir

from ..conftest import RunCommand
from ..fakes.keyed_relay import HELD, KeyedRelay, arguments_of, held_start, listed, relay, typed_lines
from ..fakes.scripted import Answer, ScriptedServer, eventually, reply, response_body
from .running import R, polling, start

__all__ = ["relay"]

# The gateway has no idempotency keys.
LOST = [Answer(drop=True), Answer(pause=HELD), reply({}, 500), reply({}, 503), reply({}, 408), reply(b"{")]


@pytest.mark.parametrize("answer", LOST, ids=lambda answer: f"{answer.status}-{answer.drop}-{answer.pause}")
def test_a_background_submit_without_an_answer(answer: Answer, configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(answer)
    run = command(*R, "--background", "--timeout", "2", "Write a report")
    assert (run.code, run.out) == (1, "")
    (line,) = typed_lines(run.err)
    text = command("--list").out
    assert "may have been executed; its id is not known" in text
    assert "Write a report" in text
    for flag in ("--retrieve", "--cancel", "--invocation"):
        refused = command(flag, line[-1])
        assert (refused.code, refused.out) == (2, "")
    assert len(configured.posts) == 1
    assert command(*arguments_of(line)).code == 0
    assert listed(command) == []


@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_a_refused_background_submit(status: int, configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply({"error": {"message": "no"}}, status, retry_after="99"))
    assert command(*R, "--background", "hi").code == 1
    assert listed(command) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_background_submit(how: signal.Signals, configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(Answer(pause=HELD))
    with start(configured, *R, "--background", "--timeout", "60", "Write") as process:
        assert eventually(lambda: configured.posts)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    (entry,) = listed(command)
    assert not entry["confirmed"]
    if how is signal.SIGINT:
        assert b"may have been executed" in err
        assert f"--forget {entry['id']}" in err.decode()


def test_any_record_can_be_forgotten(configured: ScriptedServer, relay: KeyedRelay, command: RunCommand) -> None:
    configured.script = polling("in_progress")
    command(*R, "--background", "Write")
    command("--target", "relay", "--background", "Why?")
    relay.holds = held_start
    command("--target", "relay", "--timeout", "1", "Why not?")
    entries = [entry["id"] for entry in listed(command)]
    assert len(entries) == 3
    sent = len(configured.seen) + len(relay.server.seen)
    for left, entry in zip((2, 1, 0), entries, strict=True):
        assert (command("--forget", entry).code, len(listed(command))) == (0, left)
    assert list(state_dir().iterdir()) == []
    run = command("--forget", "inv_9")
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert len(configured.seen) + len(relay.server.seen) == sent


def test_a_response_with_an_unknown_status_keeps_its_record(configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(response_body(None, "mystery")))
    command(*R, "--background", "hi")
    assert [entry["id"] for entry in listed(command)] == ["resp_1"]


@pytest.mark.parametrize("content_type", ["text/html", "application/json"])
def test_a_sign_in_page_is_not_an_acceptance(
    configured: ScriptedServer, command: RunCommand, content_type: str
) -> None:
    configured.answers(reply(b"<!doctype html><title>Sign in</title>", 200, content_type=content_type))
    run = command(*R, "--background", "hi")
    assert (run.code, run.out) == (1, "")
    assert "web page" in run.err
    assert listed(command) == []


GONE: list[tuple[Answer, bool]] = [
    (reply({"error": {"message": "previous_response_not_found"}}, 404), True),
    (reply({"error": {"message": "Response with id 'resp_1' not found."}}, 404), True),
    (reply({"error": {"message": "no access to this response id", "type": "permission_error"}}, 403), False),
    (reply({"detail": "Not Found"}, 404), False),
    (reply(b"404 page not found", 404, content_type="text/plain"), False),
    (reply(b"<html>Sign in</html>", 200, content_type="text/html"), False),
    (reply({"error": {"message": "no"}}, 401), False),
    (reply({}, 503, retry_after="99"), False),
]


@pytest.mark.parametrize(("answer", "gone"), GONE, ids=lambda one: str(getattr(one, "body", one))[:50])
@pytest.mark.parametrize("more", [[], ["--wait"]])
@pytest.mark.usefixtures("quick_retries")
def test_a_response_unknown_to_its_gateway_is_dropped(
    answer: Answer, gone: bool, more: list[str], configured: ScriptedServer, command: RunCommand
) -> None:
    configured.script = polling("in_progress")
    command(*R, "--background", "Write")
    configured.answers(answer)
    assert command("--retrieve", "resp_1", "--timeout", "1", *more).code in (1, 4)
    assert [entry["id"] for entry in listed(command)] == ([] if gone else ["resp_1"])


def test_another_gateway_cannot_drop_a_record(
    configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.script = polling("in_progress")
    command(*R, "--background", "Write")
    monkeypatch.setenv("LITELLM_BASE_URL", f"{configured.url}/other")
    configured.answers(GONE[0][0])
    assert command("--retrieve", "resp_1").code == 1
    assert [entry["id"] for entry in listed(command)] == ["resp_1"]
