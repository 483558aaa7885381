"""The journal, the shell commands that resume work, piped input, and further options of a request."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litellm_openai_example.cli import journal, pending
from litellm_openai_example.config import MAKE_TARGET, OWN_RELAY
from litellm_openai_example.sdk import DROPPED
from litellm_openai_example.state import state_dir

from ..conftest import RunCommand
from ..fakes.scripted import ScriptedServer, chat_body, reply, response_body
from ..fakes.tool_calling import ARGUMENTS, FINAL, FakeRelay, Turns, calling, view
from .running import R, polling, start


def test_a_background_response_is_listed_until_it_is_read(configured: ScriptedServer, command: RunCommand) -> None:
    configured.script = polling("in_progress", "completed")
    command(*R, "--background", "Write\na long report")
    (file,) = state_dir().glob("work-*")
    assert file.stat().st_mode & 0o777 == 0o600
    run = command("--list")
    assert run.code == 0
    assert re.match(r"resp_1  response, \d+ s ago: Write a long report\n", run.out)
    assert "litellm-example --retrieve ID --wait" in run.err
    assert [entry["id"] for entry in json.loads(command("--list", "--json").out)] == ["resp_1"]
    assert json.loads(command("--retrieve", "resp_1").out)["status"] == "in_progress"
    assert "resp_1" in command("--list").out
    assert command("--retrieve", "resp_1", "--wait").out == "done\n"
    run = command("--list")
    assert (run.code, run.out, run.err) == (0, "", "no pending work\n")


def test_a_removed_record_leaves_nothing_behind() -> None:
    record = journal.intent(journal.RESPONSE, "Why?")
    other = journal.intent(journal.RESPONSE, "Who?")
    for one in (record, other):
        journal.write(one)
    kept, removed = (next(f for f in state_dir().iterdir() if one.words in f.read_text()) for one in (other, record))
    (state_dir() / f".{removed.name}.abc").write_text("torn by a kill")
    (state_dir() / f".{kept.name}.abc").write_text("of another record")
    journal.remove(record)
    assert {file.name for file in state_dir().iterdir()} == {kept.name, f".{kept.name}.abc"}
    shutil.rmtree(state_dir())
    journal.remove(record)


def test_a_research_run_needs_no_token_from_the_user(relay: FakeRelay, command: RunCommand) -> None:
    command("--target", "relay", "--background", "Why noodles?")
    run = command("--list", "--json")
    assert "inv_1" in run.out
    assert "tok_1" not in run.out
    assert command("--invocation", "inv_1").out == "RESEARCHED\n"
    assert relay.server.seen[-1].headers["x-invocation-token"] == "tok_1"
    assert command("--list").out == ""


def test_a_research_run_is_cancelled_at_the_relay(relay: FakeRelay, command: RunCommand) -> None:
    command("--target", "relay", "--background", "Why noodles?")
    relay.accepts = reply(view("cancelled", None))
    run = command("--cancel", "inv_1")
    assert (run.code, json.loads(run.out)["status"]) == (0, "cancelled")
    assert relay.server.posts[-1].path.endswith("/inv_1/cancel")
    assert command("--list").out == ""


@pytest.mark.parametrize("days", [4, -4, 4000])
def test_a_wrong_clock_deletes_nothing(
    days: float, relay: FakeRelay, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("--target", "relay", "--background", "Why noodles?")
    now = time.time() + days * 86400
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: now)
        assert "inv_1" in command("--list").out
    assert command("--invocation", "inv_1").out == "RESEARCHED\n"


def test_broken_files_are_ignored(command: RunCommand) -> None:
    for number, content in enumerate(["", "[]", "{}", '{"kind": 1}', "\0", '"x"']):
        (state_dir() / f"work-{number}.json").write_text(content)
    assert command("--list").code == 0


def test_a_shell_command_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = f"resp_$(touch {tmp_path}/bad);`id`'\""
    program = tmp_path / "litellm-example"
    program.write_text("#!/bin/sh\nprintf '%s|' \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("RELAY_BASE_URL", "http://127.0.0.1:9")
    line = pending.shell_command("--retrieve", evil)
    shown = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60).stdout
    assert shown == f"--retrieve|{evil}|"
    line = pending.shell_command("--invocation", evil, token="a b")
    assert line.startswith("RELAY_BASE_URL=http://127.0.0.1:9 RELAY_INVOCATION_TOKEN='a b' ")

    monkeypatch.setenv(MAKE_TARGET, "run")
    makefile = tmp_path / "Makefile"
    makefile.write_text("override ARGS := $(value ARGS)\nrun:\n\t@printf '%s|' $(ARGS)\n")
    line = pending.shell_command("--retrieve", evil)
    shown = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, cwd=tmp_path).stdout
    assert shown == f"--retrieve|{evil}|"
    assert not (tmp_path / "bad").exists()
    monkeypatch.setenv(OWN_RELAY, "1")
    assert "RELAY_BASE_URL" not in pending.shell_command("--invocation", "inv_1", token="tok")


def test_a_shell_command_runs_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(pending.__file__).parents[1]
    monkeypatch.setattr(sys, "argv", [str(package / "__main__.py")])
    assert pending.shell_command("--list") == f"{shlex.quote(sys.executable)} -m litellm_openai_example --list"
    monkeypatch.setattr(sys, "argv", ["/no/where/litellm-example"])
    assert pending.shell_command("--list") == "/no/where/litellm-example --list"
    monkeypatch.setenv(OWN_RELAY, "1")
    launcher = [sys.executable, "-m", "litellm_openai_example.gateway", "--reuse", "--relay", "--"]
    assert pending.shell_command("--list") == shlex.join([*launcher, "/no/where/litellm-example", "--list"])


@pytest.mark.parametrize(
    "fault", [reply(view("failed", None, error_code="x", error_message="It broke.")), reply({}, 403)]
)
def test_an_answer_without_the_research_is_exit_code_3(
    fault: object, configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    Turns(configured, calling(ARGUMENTS), FINAL)
    relay.ends = fault  # type: ignore[assignment]
    run = command("--auto-tool-call", "Research noodles")
    assert (run.code, run.out) == (3, "The answer\n")
    assert "without the research" in run.err


def test_a_run_that_no_relay_accepted_counts_as_not_called(
    configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    Turns(configured, calling(ARGUMENTS), FINAL)
    relay.accepts = reply({"error": {"code": "unauthorized", "message": "no"}}, 401)
    run = command("--auto-tool-call", "-o", "metadata.team=blue", "Research noodles")
    assert (run.code, run.out) == (3, "The answer\n")
    assert "called automatically" not in run.err
    assert configured.posts[0].json["metadata"] == {"team": "blue"}


@pytest.mark.parametrize(
    ("arguments", "body", "named"),
    [(["hi"], None, b"chatcmpl-1"), ([*R, "hi"], response_body("OK"), b"--retrieve resp_1 --wait")],
)
def test_an_unwritten_answer_can_be_fetched_again(
    arguments: list[str], body: object, named: bytes, gateway: ScriptedServer
) -> None:
    from ..fakes.scripted import chat_body

    gateway.answers(reply(body or chat_body("OK")))
    with open("/dev/full", "wb") as full, start(gateway, *arguments, stdout=full) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert named in err
    assert err.count(b"\n") == 1


def test_prompt_and_piped_input(configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(response_body("OK")))
    given = [(b"the diff\n", "Review\n\nthe diff"), (b"", "Review"), (b" \n", "Review")]
    for piped, expected in given:
        assert command(*R, "Review", stdin=piped).code == 0
        assert configured.posts[-1].json["input"] == expected
    before = len(configured.seen)
    assert command(*R, " ", stdin=b"text").code == 2
    assert command(*R, "Review", stdin=b"\xff").code == 2
    assert len(configured.seen) == before


def test_a_pipe_that_never_ends(gateway: ScriptedServer) -> None:
    reading, writing = os.pipe()
    with start(gateway, "--timeout", "1", "hi", stdin=reading) as process:
        _, err = process.communicate(timeout=60)
    os.close(reading)
    os.close(writing)
    assert process.returncode == 2
    assert b"</dev/null" in err
    assert gateway.seen == []


def test_fields_and_the_country_of_a_search(configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(response_body("OK")))
    more = ["-o", "reasoning.effort=high", "-o", "max_output_tokens=500", "-o", "user=x y", "-o", 'a.b={"c": [1]}']
    run = command(*R, "--web-search", "--search-country", "kr", *more, "hi")
    assert run.code == 0
    assert "no web search" in run.err
    sent = configured.posts[0].json
    where = {"type": "approximate", "country": "KR"}
    assert sent["tools"] == [{"type": "web_search_preview", "user_location": where}]
    assert (sent["reasoning"], sent["max_output_tokens"], sent["user"]) == ({"effort": "high"}, 500, "x y")
    assert sent["a"] == {"b": {"c": [1]}}


def test_sources_that_the_text_does_not_name(configured: ScriptedServer, command: RunCommand) -> None:
    pages = ["https://a.example/x", "https://a.example/xy", "https://a.example/x"]
    notes = [{"type": "url_citation", "url": url, "title": "A\npage"} for url in pages]
    content = [{"type": "output_text", "text": "See https://a.example/xy.", "annotations": notes}]
    body = response_body(None, output=[{"type": "message", "role": "assistant", "content": content}])
    configured.answers(reply(body))
    assert command(*R, "hi").out == "See https://a.example/xy.\n\nSources:\n- A page: https://a.example/x\n"
    assert command(*R, "--no-sources", "hi").out == "See https://a.example/xy.\n"


@pytest.mark.parametrize("name", DROPPED["/responses"])
def test_a_field_that_the_client_carries_is_not_reported(
    name: str, configured: ScriptedServer, command: RunCommand
) -> None:
    """An older SDK has no argument for it."""
    configured.answers(reply(response_body("OK")))
    run = command(*R, "-o", f"{name}=x", "hi")
    assert (run.code, run.err) == (0, "")
    assert configured.posts[0].json["extra_body"] == {name: "x"}


def test_a_field_that_reaches_no_provider_is_reported_once(configured: ScriptedServer, command: RunCommand) -> None:
    told = "[the gateway passes max_tokens, seed to no provider: not in the Responses API]\n"
    configured.answers(reply(response_body("OK")))
    foreign = ["-o", "max_tokens=5", "-o", "seed=1", "-o", "top_p=1", "hi"]
    run = command("--api", "responses", *foreign)
    assert (run.code, run.out, run.err) == (0, "OK\n", told)
    run = command(
        "--api", "responses", "-o", "max_output_tokens=5", "-o", "conversation=conv_1", "--effort", "high", "hi"
    )
    assert (run.code, run.err) == (0, "")
    assert configured.posts[-1].json["extra_body"] == {"conversation": "conv_1"}
    configured.answers(reply(response_body(None, "queued")))
    assert command("--api", "responses", "--background", *foreign).err == told
    configured.answers(reply(chat_body("OK")))
    assert command(*foreign).err == ""


@pytest.mark.parametrize("flag", ["--forget", "--invocation", "--retrieve", "--cancel"])
def test_an_unknown_local_id(flag: str, configured: ScriptedServer, relay: FakeRelay, command: RunCommand) -> None:
    run = command(flag, "local_0123456789abcdef")
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert configured.seen == relay.server.seen == []
