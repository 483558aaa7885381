"""`--window`: the requests, the refusals, and the messages about work that may take hours."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from litellm_openai_example.research.conversation import Conversation
from litellm_openai_example.state import state_dir

from ..conftest import RunCommand
from ..fakes.keyed_relay import arguments_of, listed, typed_lines
from ..fakes.scripted import ScriptedServer, reply, response_body
from ..fakes.tool_calling import ARGUMENTS, AUTO, FINAL, FakeRelay, Turns, calling, view
from .running import R, polling

UNTIL = r"may take until \d\d:\d\d"
BACKGROUND = [*R, "--background"]
PRICE = "LiteLLM's price, without the window's discount"


def window_sent(server: ScriptedServer) -> list[Any]:
    return [(seen.json.get("extra_body") or {}).get("background_options") for seen in server.posts]


def in_window(status: str = "running", text: str | None = None, **fields: object) -> dict[str, Any]:
    until = None if text else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 8 * 3600))
    return view(status, text, window="8h", may_take_until=until, **fields)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([*BACKGROUND, "--window", "3h"], "'3h' is not one of"),
        ([*BACKGROUND, "--window", "8H"], "'8H' is not one of"),
        ([*BACKGROUND, "--window", ""], "'' is not one of"),
        (["--window", "8h"], "--window goes with --background, --target relay or --auto-tool-call"),
        ([*R, "--window", "8h"], "--window goes with"),
        ([*R, "--window", "8h", "--stream"], "--window goes with"),
        (["--background", "--window", "8h"], "--background needs --api responses"),
        (["--target", "relay", "--window", "8h", "--stream"], "--window excludes --stream"),
        (["--auto-tool-call", "--window", "8h", "--background"], "excludes --background"),
    ],
    ids=" ".join,
)
def test_a_window_without_a_use_is_refused(
    arguments: list[str], reason: str, configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    run = command(*arguments, "hi")
    assert (run.code, run.out) == (2, "")
    assert reason in run.err
    assert configured.seen == relay.server.seen == []


@pytest.mark.parametrize("flag", ["--retrieve", "--cancel", "--invocation", "--forget", "--list"])
def test_a_window_does_not_go_with_a_follow_up(flag: str, configured: ScriptedServer, command: RunCommand) -> None:
    run = command(*([flag] if flag == "--list" else [flag, "resp_1"]), "--window", "8h")
    assert (run.code, run.out) == (2, "")
    assert f"{flag} excludes --window" in run.err
    assert configured.seen == []


def test_a_background_response_in_a_window(configured: ScriptedServer, command: RunCommand) -> None:
    configured.script = polling("queued")
    run = command(*BACKGROUND, "--window", "8h", "Write")
    assert (run.code, run.err, json.loads(run.out)["status"]) == (0, "", "queued")
    assert window_sent(configured) == [{"completion_window": "8h"}]
    (entry,) = listed(command)
    assert (entry["id"], entry["window"]) == ("resp_1", "8h")
    assert re.search(rf"resp_1  response in a window of 8h, {UNTIL}, .*: Write", command("--list").out)


def test_a_wait_tells_when_the_window_ends_and_how_to_go_on(configured: ScriptedServer, command: RunCommand) -> None:
    configured.script = polling("queued")
    run = command(*BACKGROUND, "--window", "8h", "--wait", "--timeout", "4", "Write")
    assert (run.code, run.out) == (4, "")
    assert re.search(rf"\[submitted as resp_1, {UNTIL}\]", run.err)
    assert re.search(rf"Error: the response is still running after 4 s; it {UNTIL}", run.err)
    (line,) = typed_lines(run.err)
    assert arguments_of(line) == ["--retrieve", "resp_1", "--wait", "--timeout", "32400"]
    configured.answers(reply(response_body("done"), **{"x-litellm-response-cost": "0.25"}))
    again = command(*arguments_of(line), "--verbose")
    assert (again.code, again.out) == (0, "done\n")
    assert f"cost: 0.250000 USD ({PRICE})" in again.err
    assert len(configured.posts) == 1


def test_a_window_of_o_counts_as_well_and_wins(configured: ScriptedServer, command: RunCommand) -> None:
    configured.script = polling("queued")
    option = ["-o", "background_options.completion_window=8h"]
    command(*BACKGROUND, *option, "--window", "2h", "Write")
    command(*BACKGROUND, "-o", "background_options.continuation_id=c", "--window", "2h", "Write")
    command(*BACKGROUND, "-o", "background_options.completion_window=soonest", "Write")
    assert window_sent(configured) == [
        {"completion_window": "8h"},
        {"continuation_id": "c", "completion_window": "2h"},
        {"completion_window": "soonest"},
    ]
    assert [entry["window"] for entry in listed(command)] == ["8h", "2h", None]


def test_a_refused_window_is_one_error_and_one_post(configured: ScriptedServer, command: RunCommand) -> None:
    error = {"message": "background_options is not supported with store", "param": None, "code": "400"}
    configured.answers(reply({"error": error}, 400))
    run = command(*BACKGROUND, "--window", "8h", "Write")
    assert (run.code, run.out, run.err.count("\n")) == (1, "", 1)
    assert "does not take the discount window" in run.err
    assert len(configured.posts) == 1
    assert listed(command) == []


def test_a_run_at_a_relay_in_a_window(configured: ScriptedServer, relay: FakeRelay, command: RunCommand) -> None:
    relay.accepts, relay.ends = reply(in_window("queued"), 202), reply(in_window(), 202)
    run = command("--target", "relay", "--window", "8h", "--timeout", "4", "Why?")
    assert (run.code, run.out) == (4, "")
    (start,) = relay.starts
    assert start.json["arguments"]["window"] == "8h"
    assert re.search(rf"\[the relay accepted the research run as inv_1, {UNTIL}\]", run.err)
    assert re.search(rf"Error: the deadline passed while the research run continues; it {UNTIL}", run.err)
    (line,) = typed_lines(run.err)
    assert arguments_of(line)[-2:] == ["--timeout", "32400"]
    assert [entry["window"] for entry in listed(command)] == ["8h"]
    assert re.search(rf"inv_1  research run in a window of 8h, {UNTIL}, .*: Why\?", command("--list").out)
    relay.ends = reply(in_window("completed", "RESEARCHED", cost_usd=0.5))
    again = command("--invocation", "inv_1", "--verbose")
    assert (again.code, again.out) == (0, "RESEARCHED\n")
    assert f"research cost: 0.500000 USD ({PRICE})" in again.err


def test_a_relay_s_default_is_told_as_well(configured: ScriptedServer, relay: FakeRelay, command: RunCommand) -> None:
    relay.accepts, relay.ends = reply(in_window("queued"), 202), reply(in_window("completed", "RESEARCHED"))
    run = command("--target", "relay", "--stream", "Why?")
    assert (run.code, run.out) == (0, "RESEARCHED\n")
    assert "window" not in relay.starts[0].json["arguments"]
    assert re.search(UNTIL, run.err)
    assert not [seen for seen in relay.server.seen if seen.path.endswith("/events")]


def test_a_relay_that_knows_no_window_refuses_it(
    configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    details = [{"where": "arguments.window", "problem": "is not known here"}]
    error = {"code": "invalid_request", "message": "The request does not have the documented form.", "details": details}
    relay.accepts = reply({"error": error}, 422)
    run = command("--target", "relay", "--window", "8h", "Why?")
    assert (run.code, run.out) == (1, "")
    assert "arguments.window: is not known here" in run.err
    assert len(relay.starts) == 1
    assert listed(command) == []


def test_the_research_runs_of_an_automatic_call_are_in_the_window(
    configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    # A window that the model makes up does not count.
    made_up = json.dumps({**json.loads(ARGUMENTS), "window": "2h"})
    Turns(configured, calling(made_up), FINAL)
    relay.accepts, relay.ends = reply(in_window("queued"), 202), reply(in_window(), 202)
    run = command(*AUTO, "--window", "8h", "--timeout", "6", "Research noodles")
    assert run.code == 4
    (start,) = relay.starts
    assert start.json["arguments"] == {**json.loads(ARGUMENTS), **start.json["arguments"], "window": "8h"}
    assert window_sent(configured) == [None]
    assert re.search(rf"\[deep_research was accepted by the relay as inv_1, {UNTIL}\]", run.err)
    assert [entry["window"] for entry in listed(command)] == ["8h"]
    (line,) = typed_lines(run.err)
    assert arguments_of(line)[-2:] == ["--timeout", "32400"]
    relay.ends = reply(in_window("completed", "RESEARCHED", cost_usd=0.5))
    again = command(*arguments_of(line), "--verbose")
    assert (again.code, again.out) == (0, "The answer\n")
    assert f"research run cost: 0.500000 USD ({PRICE})" in again.err
    assert len(relay.starts) == 1


def test_a_model_is_not_offered_the_window(configured: ScriptedServer, relay: FakeRelay, command: RunCommand) -> None:
    Turns(configured, calling(json.dumps({"research_question": "Why?", "window": "8h"})), FINAL)
    assert command(*AUTO, "Research noodles").code == 0
    assert "window" not in configured.posts[0].json["tools"][0]["parameters"]["properties"]
    assert "window" not in relay.starts[0].json["arguments"]


def test_a_conversation_of_an_older_version_has_no_window() -> None:
    saved = Conversation("m", "Why?", window="8h").save()
    assert Conversation.load(saved).window == "8h"
    del saved["window"]
    assert Conversation.load(saved).window is None


@pytest.mark.parametrize("field", ["24h", 8, {}, ["8h"], None])
def test_another_relay_s_window_is_left_out(
    field: object, configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    relay.accepts = reply(view("running", None, window=field, may_take_until=field), 202)
    relay.ends = reply(view("completed", "RESEARCHED", window=field, may_take_until="9999-99-99"))
    run = command("--target", "relay", "Why?")
    assert (run.code, run.out) == (0, "RESEARCHED\n")
    assert "may take" not in run.err


def test_a_record_with_a_window_of_a_newer_version_is_listed(configured: ScriptedServer, command: RunCommand) -> None:
    configured.script = polling("queued")
    command(*BACKGROUND, "--window", "8h", "Write")
    (file,) = state_dir().glob("work-*.json")
    windows: list[object] = ["24h", 8, ["8h"], {}]
    for window in windows:
        file.write_text(json.dumps({**json.loads(file.read_text()), "window": window}))
        assert [(entry["id"], entry["window"]) for entry in listed(command)] == [("resp_1", None)]


def test_an_unconfirmed_submit_is_kept_with_its_window(configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply({}, 500))
    assert command(*BACKGROUND, "--window", "2h", "Write").code == 1
    (entry,) = listed(command)
    assert (entry["confirmed"], entry["window"]) == (False, "2h")
