"""Many questions: every line is asked once, its row is whole, and a repeat of the command goes on where it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from litellm_openai_example.research.contract import INVOCATION_ERRORS
from litellm_openai_example.state import state_dir

from ..conftest import RunCommand
from ..fakes.keyed_relay import KeyedRelay, held_start, listed, nothing_held, relay
from ..fakes.scripted import Answer, ScriptedServer, Seen, chat_body, eventually, reply, response_body
from ..fakes.tool_calling import ARGUMENTS, FINAL, Turns, calling, view
from .many import Files, asked, echo, files
from .running import PROGRAM, environment, polling, start

__all__ = ["files", "relay"]


def test_every_line_is_asked_once_and_a_repeat_asks_nothing(configured: ScriptedServer, files: Files) -> None:
    configured.script = echo
    files.write("first", "", "  second  ", "third", "third")
    run = files.ask()
    assert (run.code, run.out) == (0, "")
    assert {row["id"]: row["text"] for row in files.rows} == {1: "first", 3: "second", 4: "third", 5: "third"}
    assert "4 questions: 4 answered; 1.0000 USD" in run.err
    assert listed(files.command) == []
    before = files.out.read_bytes()
    assert files.ask().code == 0
    assert files.out.read_bytes() == before
    assert len(configured.posts) == 4


def test_a_row_has_everything_about_an_answer(configured: ScriptedServer, files: Files) -> None:
    configured.script = echo
    files.write({"id": "a", "prompt": "Why?"})
    assert files.ask().code == 0
    (row,) = files.rows
    key = row["ids"].pop("key")
    assert len(key) == 32
    assert {name: row[name] for name in ("id", "prompt", "text", "sources", "model", "cost", "status", "error")} == {
        "id": "a",
        "prompt": "Why?",
        "text": "Why?",
        "sources": [],
        "model": "gpt-4o",
        "cost": 0.25,
        "status": "completed",
        "error": None,
    }
    assert row["usage"]["input_tokens"] == 3
    assert row["ids"] == {"response_id": "chatcmpl-1"}


def test_verbose_adds_the_tokens_of_this_command(configured: ScriptedServer, files: Files) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}}
    body = chat_body("OK")
    usages = [body["usage"] | details, {"prompt_tokens": 10, "completion_tokens": None}, None]
    configured.answers(*(reply(body | {"usage": usage}) for usage in usages))
    files.write("one", "two", "three")
    run = files.ask("--jobs", "1", "--verbose")
    assert run.code == 0
    assert "\ntokens: 13 in (2 cached), 1 out (1 reasoning)\n" in run.err
    assert "tokens" not in files.ask("--verbose").err


def test_a_line_has_options_of_its_own(configured: ScriptedServer, files: Files, tmp_path: Path) -> None:
    configured.script = lambda seen: echo(seen) if "chat" in seen.path else reply(response_body("R"))
    (tmp_path / "note.txt").write_text("noted")
    files.write(
        {"id": 1, "prompt": "a", "model": "m-1", "instructions": "Be brief.", "fields": {"temperature": 0}},
        {"id": 2, "prompt": "b", "effort": "low", "files": [str(tmp_path / "note.txt")], "instructions": None},
        {"id": 3, "prompt": "c", "api": "responses", "web_search": True, "search_country": "kr"},
        {"id": 4, "prompt": "d", "fields": {"metadata": {"b": "2"}, "stop": ["x"], "user": "1"}},
    )
    assert files.ask("--jobs", "1", "-o", "metadata.a=1", "--instructions", "Be long.").code == 0
    first, second, third, fourth = (seen.json for seen in configured.posts)
    assert (first["model"], first["temperature"], first["metadata"]) == ("m-1", 0, {"a": 1})
    assert first["messages"][0]["content"] == "Be brief."
    assert (second["reasoning_effort"], second["messages"][0]["content"]) == ("low", "Be long.")
    assert "noted" in second["messages"][1]["content"][0]["text"]
    assert third["tools"][0]["user_location"]["country"] == "KR"
    assert (fourth["metadata"], fourth["stop"], fourth["user"]) == ({"a": 1, "b": "2"}, ["x"], "1")


def test_a_line_has_a_window_of_its_own(configured: ScriptedServer, files: Files) -> None:
    configured.script = lambda seen: reply(response_body("OK"))
    files.write({"prompt": "a", "window": "8h"}, {"prompt": "b"})
    assert files.ask("--api", "responses", "--background", "--window", "2h", "--jobs", "1").code == 0
    assert [post.json["background_options"]["completion_window"] for post in configured.posts] == ["8h", "2h"]


# Lines that make a file unusable: the number of the line, and a part of the message.
UNUSABLE: dict[str, tuple[list[object], int, str]] = {
    "an id that occurs twice": ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], 2, "that of line 1"),
    "an id as number and text": ([{"id": 7, "prompt": "x"}, {"id": "7", "prompt": "y"}], 2, "that of line 1"),
    "the id of a line without one": ([{"id": 2, "prompt": "x"}, {"prompt": "y"}], 2, "that of line 1"),
    "broken JSON": ([{"prompt": "x"}, '{"prompt": "y"'], 2, "not a JSON object"),
    "broken JSON at first": (['{"prompt": "y"'], 1, "not a JSON object"),
    "a text among objects": ([{"prompt": "x"}, "Why?"], 2, "not a JSON object"),
    "a list among objects": ([{"prompt": "x"}, "[1]"], 2, "not a JSON object"),
    "an array of objects": (['[{"prompt": "x"},', '{"prompt": "y"}]'], 1, "JSON array"),
    "a name that occurs twice": (['{"prompt": "x", "prompt": "y"}'], 1, "'prompt' occurs twice"),
    "a mark of byte order in the middle": (['{"prompt": "x"}', '\ufeff{"prompt": "y"}'], 2, "not a JSON object"),
    "a whole number with a point as id": ([{"prompt": "x", "id": 1.0}], 1, "id must be"),
    "an object over several lines": (["{", '"prompt": "x"}'], 1, "not a JSON object"),
    "a batch of OpenAI": ([{"custom_id": "a", "body": {}}], 1, "no prompt"),
    "NaN": (['{"prompt": "x", "fields": {"temperature": NaN}}'], 1, "NaN"),
    "an infinite number": (['{"prompt": "x", "fields": {"temperature": 1e999}}'], 1, "cannot be sent"),
    "half of a pair": (['{"prompt": "\\ud800"}'], 1, "cannot be sent"),
    "no prompt": ([{"prompt": "x"}, {"id": "b"}], 2, "no prompt"),
    "a blank prompt": ([{"prompt": " "}], 1, "empty"),
    "a number as prompt": ([{"prompt": 3}], 1, "prompt must be a text"),
    "a blank id": ([{"prompt": "x", "id": " "}], 1, "id must be"),
    "a list as id": ([{"prompt": "x", "id": []}], 1, "id must be"),
    "true as id": ([{"prompt": "x", "id": True}], 1, "id must be"),
    "an unknown option": ([{"prompt": "x"}, {"prompt": "y", "modle": "m"}], 2, "'modle' is not an option"),
    "an option of the command": ([{"prompt": "x", "jobs": 3}], 1, "'jobs' is not an option"),
    "a field of the call": ([{"prompt": "x", "max_tokens": 3}], 1, "other fields of the call go into 'fields'"),
    "a conversation": ([{"prompt": "x", "continue_last": True}], 1, "'continue_last' is not an option"),
    "an id of a response for chat": ([{"prompt": "x", "previous_response_id": "resp_1"}], 1, "needs --api responses"),
    "a field that the command sets": ([{"prompt": "x", "fields": {"tools": []}}], 1, "tools is set by --web-search"),
    "files for the relay": ([{"prompt": "x", "target": "relay", "files": ["/dev/null"]}], 1, "excludes -f"),
    "an unknown window": ([{"prompt": "x", "window": "9h"}], 1, "'9h' is not one of"),
    "a number as window": ([{"prompt": "x", "window": 8}], 1, "window must be a text"),
    "a window for chat": ([{"prompt": "x", "window": "8h"}], 1, "--window goes with"),
    "a number as model": ([{"prompt": "x", "model": 3}], 1, "model must be a text"),
    "a blank model": ([{"prompt": "x", "model": " "}], 1, "--model is empty"),
    "a blank instruction": ([{"prompt": "x", "instructions": " "}], 1, "empty"),
    "a text as flag": ([{"prompt": "x", "background": "yes"}], 1, "background must be true or false"),
    "an unknown choice": ([{"prompt": "x", "api": "chats"}], 1, "chats"),
    "a list as fields": ([{"prompt": "x", "fields": ["a=1"]}], 1, "fields must be an object"),
    "a reserved field": ([{"prompt": "x", "fields": {"stream": True}}], 1, "stream is set by"),
    "a text as files": ([{"prompt": "x", "files": "a.txt"}], 1, "files must be a list"),
    "a missing file": ([{"prompt": "x"}, {"prompt": "y", "files": ["/no/such"]}], 2, "cannot read /no/such"),
    "a directory as file": ([{"prompt": "x", "files": ["/"]}], 1, "cannot read"),
    "options in conflict": ([{"prompt": "x", "web_search": True}], 1, "needs --api responses"),
    "a country without search": ([{"prompt": "x", "search_country": "KR"}], 1, "goes with --web-search"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_line_is_named_and_nothing_is_sent(name: str, configured: ScriptedServer, files: Files) -> None:
    lines, number, reason = UNUSABLE[name]
    files.write(*lines)
    run = files.ask()
    assert (run.code, run.out) == (2, "")
    assert f"{files.questions}, line {number}: " in run.err
    assert reason in run.err
    assert "nothing was sent" in run.err
    assert configured.seen == []
    assert not files.out.exists()


def test_other_unusable_files(configured: ScriptedServer, files: Files, tmp_path: Path) -> None:
    for content, reason in (
        (b"", "no questions"),
        (b"\n \n", "no questions"),
        (b"ok\n\xff\n", "line 2: it is not valid UTF-8"),
    ):
        (tmp_path / "q.txt").write_bytes(content)
        run = files.command("--questions", str(tmp_path / "q.txt"))
        assert (run.code, reason in run.err) == (2, True), run.err
    for name in (str(tmp_path), str(tmp_path / "none")):
        assert files.command("--questions", name).code == 2
    (tmp_path / "q.txt").write_text('Why?\n{"prompt": "x"}\n')
    assert "line 2: it is a JSON object, but" in files.command("--questions", str(tmp_path / "q.txt")).err
    assert configured.seen == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--questions", "FILE", "a prompt"],
        ["--questions", "FILE", "--retrieve", "resp_1"],
        ["--questions", "FILE", "--list"],
        ["--questions", "FILE", "--stream"],
        ["--questions", "FILE", "--json"],
        ["--questions", "FILE", "--continue"],
        ["--questions", "FILE", "--sort"],
        ["--questions", "FILE", "--jobs", "0"],
        ["--questions", "FILE", "--background"],
        ["--questions", "FILE", "--target", "relay", "--api", "chat"],
        ["--questions", ""],
        ["--questions", "FILE", "--out", ""],
        ["--questions", "FILE", "--out", "FILE"],
        ["--questions", "FILE", "--out", "/dev/null"],
        ["--questions", "FILE", "--out", "/dev/full"],
        ["--questions", "FILE", "--out", "/no/such/folder/out.jsonl"],
        ["--out", "x.jsonl", "hi"],
        ["--jobs", "3", "hi"],
        ["--retry-unknown", "hi"],
    ],
    ids=" ".join,
)
def test_command_lines_that_make_no_sense(arguments: list[str], configured: ScriptedServer, files: Files) -> None:
    files.write("Why?")
    run = files.command(*(str(files.questions) if one == "FILE" else one for one in arguments))
    assert run.code == 2, run.err
    assert configured.seen == []
    assert files.questions.read_text() == "Why?\n"


def test_a_file_with_byte_order_mark_and_windows_lines(configured: ScriptedServer, files: Files) -> None:
    configured.script = echo
    files.questions.write_bytes('\ufeff{"prompt": "a"}\r\n{"prompt": "b\u2028c"}'.encode())
    assert files.ask().code == 0
    assert {row["prompt"] for row in files.rows} == {"a", "b\u2028c"}


def test_false_takes_an_option_of_the_command_line_back(
    configured: ScriptedServer, relay: KeyedRelay, files: Files
) -> None:
    configured.script = lambda seen: reply(response_body("OK"))
    files.write(
        {"prompt": "a", "web_search": False},
        {"prompt": "b"},
        {"prompt": "c", "target": "relay", "web_search": False, "files": [], "api": None},
    )
    assert files.ask("--auto-tool-call", "--web-search").code == 2  # both exclude the relay as a target
    files.write({"prompt": "a", "web_search": False}, {"prompt": "b"})
    assert files.ask("--api", "responses", "--web-search").code == 0
    assert sorted(["tools" in seen.json for seen in configured.posts]) == [False, True]


def test_a_pipe_that_does_not_end(configured: ScriptedServer, files: Files, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        run = files.command("--questions", str(tmp_path / "pipe"), "--timeout", "0.5")
    finally:
        os.close(pipe)
    assert (run.code, "did not end before the deadline" in run.err) == (2, True)


def test_stdin_and_stdout(configured: ScriptedServer, command: RunCommand) -> None:
    configured.script = echo
    run = command("--questions", "-", "--jobs", "2", stdin=b"one\ntwo\nthree\n")
    assert run.code == 0
    assert {json.loads(line)["text"] for line in run.out.splitlines()} == {"one", "two", "three"}


def test_more_questions_are_appended_and_sorted_on_request(configured: ScriptedServer, files: Files) -> None:
    configured.script = echo
    files.write(*({"id": name, "prompt": name} for name in "cb"))
    assert files.ask("--jobs", "1").code == 0
    files.write(*({"id": name, "prompt": name} for name in "dacb"))
    assert files.ask("--jobs", "1").code == 0
    assert [row["id"] for row in files.rows] == ["c", "b", "d", "a"]
    assert files.ask("--sort").code == 0
    assert [row["id"] for row in files.rows] == ["d", "a", "c", "b"]
    assert len(configured.posts) == 4


@pytest.mark.parametrize("change", ["prompt", "id", "model", "gone"])
def test_the_rows_of_other_questions_are_refused(change: str, configured: ScriptedServer, files: Files) -> None:
    configured.script = echo
    files.write({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"})
    assert files.ask("--jobs", "1").code == 0
    second = {"prompt": {"id": "b", "prompt": "z"}, "id": {"id": "c", "prompt": "y"}}.get(change)
    files.write(
        {"id": "a", "prompt": "x"}, *([second] if second else [{"id": "b", "prompt": "y"}][: change == "model"])
    )
    run = files.ask(*(["--model", "other"] if change == "model" else []))
    assert run.code == 2
    assert f"{files.out}, line {1 if change == 'model' else 2}: the row with the id" in run.err
    assert len(configured.posts) == 2


@pytest.mark.parametrize(
    "content", ["hello\n", '{"id": 1}\n', "[]\n", '{"ids": {"key": "x"}, "status": "completed"}\n']
)
def test_a_file_without_rows_is_left_alone(content: str, configured: ScriptedServer, files: Files) -> None:
    files.write("x")
    files.out.write_text(content)
    run = files.ask()
    assert (run.code, "not a row of --questions" in run.err) == (2, True)
    assert files.out.read_text() == content
    assert configured.seen == []


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_torn_last_row_is_cut_off(left: int, configured: ScriptedServer, files: Files) -> None:
    configured.script = echo
    files.write({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"})
    assert files.ask("--jobs", "1").code == 0
    first, second = files.out.read_bytes().splitlines(keepends=True)
    files.out.write_bytes(first + second[:left])
    run = files.ask()
    assert run.code == 0
    assert ("is torn" in run.err) == (left != -1)  # without its line break, the row is whole
    assert list(files.by_id) == ["a", "b"]
    assert len(configured.posts) == (2 if left == -1 else 3)
    assert files.out.read_bytes().endswith(b"\n")


def test_failures_are_rows_and_a_repeat_asks_those_that_were_not_executed(
    configured: ScriptedServer, files: Files
) -> None:
    answers = {
        "bad": reply({"error": {"message": "no such field"}}, 400),
        "lost": Answer(drop=True),
        "server": reply({"error": {"message": "oops"}}, 500),
        "cut": reply(chat_body("half", "length")),
        "refused": reply(chat_body(None, refusal="I will not")),
    }
    configured.script = lambda seen: answers.get(asked(seen)) or echo(seen)
    files.write(*({"id": name, "prompt": name} for name in ("good", *answers)))
    run = files.ask()
    assert run.code == 3
    statuses = {name: row["status"] for name, row in files.by_id.items()}
    assert statuses == {
        "good": "completed",
        "bad": "not_executed",
        "lost": "unknown",
        "server": "unknown",
        "cut": "incomplete",
        "refused": "failed",
    }
    assert files.by_id["cut"]["text"] == "half"
    assert "May have been executed" in run.err
    assert all(name in run.err for name in ("lost", "server"))
    answers.clear()
    assert files.ask().code == 3
    assert [asked(seen) for seen in configured.posts[6:]] == ["bad"]
    assert files.by_id["lost"]["status"] == "unknown"
    assert files.ask("--retry-unknown").code == 3  # half an answer is an answer
    assert sorted(asked(seen) for seen in configured.posts[7:]) == ["lost", "refused", "server"]
    assert {row["status"] for row in files.rows} == {"completed", "incomplete"}
    assert listed(files.command) == []


def test_a_question_is_not_asked_again_after_a_kill(configured: ScriptedServer, files: Files) -> None:
    configured.script = lambda seen: Answer(pause=60) if asked(seen) == "held" else echo(seen)
    files.write(*({"id": name, "prompt": name} for name in ("a", "held", "b")))
    with start(configured, *files.arguments, "--jobs", "2") as process:
        assert eventually(lambda: files.out.exists() and len(files.rows) == 2)
        process.kill()
    configured.script = echo
    run = files.ask()
    assert (run.code, files.by_id["held"]["status"]) == (3, "unknown")
    assert "May have been executed, without an answer: held" in run.err
    assert [entry["confirmed"] for entry in listed(files.command)] == [False]
    assert len(configured.posts) == 3
    assert files.ask("--retry-unknown").code == 0
    assert files.by_id["held"]["text"] == "held"
    assert listed(files.command) == []


def test_ctrl_c_keeps_the_rows_and_names_what_runs(configured: ScriptedServer, relay: KeyedRelay, files: Files) -> None:
    relay.ended = False
    files.write("one", "two")
    with start(configured, *files.arguments, "--target", "relay") as process:
        assert eventually(lambda: sum("/wait" in seen.path for seen in relay.server.seen) >= 2)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert error.count("--cancel inv_") == 2
    relay.ended = True
    assert files.ask("--target", "relay").code == 0
    assert len(relay.accepted) == 2
    assert len(relay.posts) == 2


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *((code, "not_executed") for code, said in INVOCATION_ERRORS.items() if said.endswith("Nothing was paid.")),
        ("submission_indeterminate", "unknown"),
        ("result_unavailable", "unknown"),
        ("upstream_failed", "failed"),
    ],
)
def test_the_row_of_a_run_that_failed(
    code: str, status: str, configured: ScriptedServer, relay: KeyedRelay, files: Files
) -> None:
    good = relay.server.script

    def failing(seen: Seen) -> Answer:
        answer = good(seen)
        return reply(view("failed", None, error_code=code)) if "/wait" in seen.path else answer

    relay.server.script = failing
    files.write("one")
    assert files.ask("--target", "relay").code == 3
    assert [row["status"] for row in files.rows] == [status]


@pytest.mark.parametrize("held", [held_start, lambda seen: "/wait" in seen.path], ids=["submit", "wait"])
def test_a_run_is_picked_up_after_a_kill(
    held: Any, configured: ScriptedServer, relay: KeyedRelay, files: Files
) -> None:
    relay.holds = held
    files.write("one", "two")
    with start(configured, *files.arguments, "--target", "relay") as process:
        assert eventually(lambda: sum(held(seen) for seen in relay.server.seen) >= 2)
        process.kill()
    relay.holds = nothing_held
    assert files.ask("--target", "relay").code == 0
    assert {row["text"] for row in files.rows} == {"RESEARCHED"}
    assert len(relay.accepted) == 2
    assert listed(files.command) == []


def test_the_deadline_leaves_runs_to_a_repeat(configured: ScriptedServer, relay: KeyedRelay, files: Files) -> None:
    relay.ended = False
    files.write("one", "two", "three")
    run = files.ask("--target", "relay", "--timeout", "2", "--jobs", "2")
    assert run.code == 4
    assert "2 still running, 1 left" in run.err
    assert files.rows == []
    relay.ended = True
    assert files.ask("--target", "relay").code == 0
    assert len(relay.accepted) == 3


def test_a_run_of_unknown_outcome_is_left_to_the_user(
    configured: ScriptedServer, relay: KeyedRelay, files: Files
) -> None:
    good = relay.server.script
    lost = view("failed", None, error_code="submission_indeterminate", error_message="It may have been paid for")
    relay.server.script = lambda seen: reply(lost) if "/wait" in seen.path else good(seen)
    files.write("one")
    assert files.ask("--target", "relay").code == 3
    assert files.rows[0]["status"] == "unknown"
    assert files.ask("--target", "relay").code == 3
    assert len(relay.accepted) == 1
    relay.server.script = lambda seen: reply(lost) if "inv_1/wait" in seen.path else good(seen)
    assert files.ask("--target", "relay", "--retry-unknown").code == 0
    assert len(relay.accepted) == 2


def test_background_responses_are_picked_up(configured: ScriptedServer, files: Files) -> None:
    configured.script = polling("in_progress")
    files.write("one")
    arguments = ("--api", "responses", "--background")
    with start(configured, *files.arguments, *arguments) as process:
        assert eventually(lambda: any(seen.method == "GET" for seen in configured.seen))
        process.kill()
    configured.script = polling("completed")
    assert files.ask(*arguments).code == 0
    assert (files.rows[0]["text"], files.rows[0]["ids"]["response_id"]) == ("done", "resp_1")
    assert len(configured.posts) == 1
    assert listed(files.command) == []


def test_a_background_response_that_is_gone_is_unknown(configured: ScriptedServer, files: Files) -> None:
    missing = reply({"error": {"message": "not found"}}, 404)
    configured.script = polling(missing)
    files.write("one")
    arguments = ("--api", "responses", "--background")
    assert files.ask(*arguments).code == 3
    assert files.rows[0]["status"] == "unknown"
    assert files.ask(*arguments).code == 3
    assert len(configured.posts) == 1
    done = polling("completed")
    configured.script = lambda seen: done(seen) if len(configured.posts) == 2 or seen.method == "POST" else missing
    assert files.ask(*arguments, "--retry-unknown").code == 0
    assert len(configured.posts) == 2


class TestToolCalling:
    def test_an_answer_with_research(self, configured: ScriptedServer, relay: KeyedRelay, files: Files) -> None:
        Turns(configured, calling(ARGUMENTS), FINAL)
        files.write("Research food")
        assert files.ask("--auto-tool-call").code == 0
        (row,) = files.rows
        assert (row["text"], row["ids"]["invocation_id"], row["ids"]["response_id"]) == (
            "The answer",
            "inv_1",
            "resp_2",
        )
        assert listed(files.command) == []

    def test_a_kill_during_the_research_repeats_no_turn(
        self, configured: ScriptedServer, relay: KeyedRelay, files: Files
    ) -> None:
        Turns(configured, calling(ARGUMENTS), FINAL)
        relay.ended = False
        files.write("Research food")
        with start(configured, *files.arguments, "--auto-tool-call") as process:
            assert eventually(lambda: any("/wait" in seen.path for seen in relay.server.seen))
            process.kill()
        relay.ended = True
        assert files.ask("--auto-tool-call").code == 0
        assert files.rows[0]["text"] == "The answer"
        assert (len(configured.posts), len(relay.posts)) == (2, 1)
        assert listed(files.command) == []

    @pytest.mark.parametrize("turn", [1, 2])
    def test_a_turn_without_an_answer_is_unknown(
        self, turn: int, configured: ScriptedServer, relay: KeyedRelay, files: Files
    ) -> None:
        turns = Turns(configured, calling(ARGUMENTS), FINAL)

        def script(seen: Seen) -> Answer:
            held = seen.method == "POST" and len(configured.posts) == turn
            return Answer(pause=60) if held else turns.answer(seen)

        configured.script = script
        files.write("Research food")
        with start(configured, *files.arguments, "--auto-tool-call") as process:
            assert eventually(lambda: len(configured.posts) == turn)
            process.kill()
        configured.script = turns.answer
        assert files.ask("--auto-tool-call").code == 3
        assert files.rows[0]["status"] == "unknown"
        assert len(configured.posts) == turn
        assert files.ask("--auto-tool-call", "--retry-unknown").code == 0
        assert files.rows[0]["text"] == "The answer"
        assert len(relay.accepted) == 1  # the research is not paid for again


def test_a_rate_limit_slows_all_lines_down(configured: ScriptedServer, files: Files) -> None:
    limited = reply({"error": {"message": "slow down"}}, 429, retry_after="2")
    configured.script = lambda seen: limited if len(configured.posts) <= 3 else echo(seen)
    files.write(*(f"question {n}" for n in range(9)))
    assert files.ask("--jobs", "3").code == 0
    assert len(configured.posts) == 12  # no line was sent into the rate limit


def test_a_spent_budget_stops_the_command(configured: ScriptedServer, files: Files) -> None:
    spent = reply({"error": {"message": "Budget has been exceeded! Current cost: 1", "type": "budget_exceeded"}}, 400)
    configured.script = lambda seen: spent
    files.write(*({"id": n, "prompt": "x"} for n in range(50)))
    run = files.ask()
    assert run.code == 3
    assert len(configured.posts) < 12
    assert "left" in run.err
    configured.script = echo
    assert files.ask().code == 0
    assert len(files.by_id) == 50


def test_a_second_command_on_the_same_rows_is_refused(configured: ScriptedServer, files: Files) -> None:
    configured.script = lambda seen: Answer(pause=60)
    files.write({"prompt": "x"})
    with start(configured, *files.arguments) as process:
        assert eventually(lambda: configured.posts)
        run = files.ask()
        process.kill()
    assert run.code == 2
    assert "another command is writing" in run.err


def test_without_a_journal_nothing_is_sent(configured: ScriptedServer, files: Files, monkeypatch: Any) -> None:
    (state_dir().parent / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(state_dir().parent / "file"))
    files.write({"prompt": "x"})
    assert files.ask().code == 2
    assert configured.seen == []


def test_a_full_disk_ends_the_command_without_a_torn_row(configured: ScriptedServer, files: Files) -> None:
    configured.script = lambda seen: reply(chat_body("x" * 900))
    files.write(*({"id": n, "prompt": "x"} for n in range(9)))
    command = f"ulimit -f 4; exec {PROGRAM} --jobs 1 {' '.join(files.arguments)}"
    ended = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; {command}"], env=environment(configured), capture_output=True, timeout=60
    )
    assert ended.returncode == 1, ended.stderr
    assert b"cannot write to --out" in ended.stderr
    assert 0 < len(files.rows) < 9
    files.ask("--retry-unknown")
    assert len(files.by_id) == 9


def test_a_closed_reader_ends_the_command(configured: ScriptedServer, files: Files) -> None:
    configured.script = echo
    files.write(*({"id": n, "prompt": "x"} for n in range(30)))
    read, write = os.pipe()
    with start(configured, "--questions", str(files.questions), stdout=write) as process:
        os.close(write)
        os.close(read)
        assert process.wait(60) == 141
