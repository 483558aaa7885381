"""--schema with --questions: the format of each call, the check of each answer, and schemas that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..fakes.keyed_relay import KeyedRelay, listed, relay
from ..fakes.scripted import Answer, ScriptedServer, Seen, chat_body, eventually, reply, response_body
from ..fakes.tool_calling import ARGUMENTS, Turns, calling, view
from .many import Files, asked, files
from .running import polling, start

__all__ = ["files", "relay"]

NOODLE: dict[str, Any] = {"title": "Noodle", "type": "object", "required": ["name"]}
COUNT: dict[str, Any] = {"type": "integer"}
GOOD = '{"name": "짜장면"}'


@pytest.fixture
def noodle(tmp_path: Path) -> str:
    return written(tmp_path / "noodle.json", NOODLE)


def written(path: Path, schema: object) -> str:
    path.write_text(json.dumps(schema))
    return str(path)


def echoed(seen: Seen) -> Answer:
    """Answer with the prompt, by either API."""
    return reply((chat_body if "chat" in seen.path else response_body)(asked(seen)))


def test_each_answer_is_checked(noodle: str, configured: ScriptedServer, files: Files) -> None:
    configured.script = echoed
    files.write(*({"id": name, "prompt": text} for name, text in (("good", GOOD), ("text", "Sure!"), ("bare", "{}"))))
    run = files.ask("--schema", noodle)
    assert run.code == 3
    assert {name: (row["status"], row["error"]) for name, row in files.by_id.items()} == {
        "good": ("completed", None),
        "text": ("incomplete", "the answer does not follow the schema: the answer is not JSON"),
        "bare": ("incomplete", "the answer does not follow the schema: the answer lacks name"),
    }
    assert files.by_id["text"]["text"] == "Sure!"
    assert "3 questions: 1 answered, 2 incomplete" in run.err
    form = {"type": "json_schema", "json_schema": {"name": "Noodle", "strict": True, "schema": NOODLE}}
    assert [post.json["response_format"] for post in configured.posts] == [form] * 3
    assert files.ask("--schema", noodle).code == 3  # a repeat keeps the rows
    assert len(configured.posts) == 3


def test_a_line_has_a_schema_of_its_own(noodle: str, configured: ScriptedServer, files: Files, tmp_path: Path) -> None:
    configured.script = echoed
    count = written(tmp_path / "count.json", COUNT)
    files.write(
        {"id": "own", "prompt": "3", "schema": count},
        {"id": "none", "prompt": "Sure!", "schema": ""},
        {"id": "null", "prompt": GOOD, "schema": None},
        {"id": "responses", "prompt": GOOD, "api": "responses", "fields": {"text": {"verbosity": "low"}}},
    )
    assert files.ask("--schema", noodle, "--jobs", "1").code == 0
    own, none, null, responses = (post.json for post in configured.posts)
    assert own["response_format"]["json_schema"]["schema"] == COUNT
    assert "response_format" not in none
    assert null["response_format"]["json_schema"]["schema"] == NOODLE
    assert responses["text"]["format"]["schema"] == NOODLE
    assert responses["text"]["verbosity"] == "low"


def test_another_schema_is_another_question(
    noodle: str, configured: ScriptedServer, files: Files, tmp_path: Path
) -> None:
    configured.script = echoed
    files.write({"id": "a", "prompt": GOOD})
    assert files.ask("--schema", noodle).code == 0
    written(tmp_path / "noodle.json", COUNT)
    run = files.ask("--schema", noodle)
    assert (run.code, "answers none of the questions" in run.err) == (2, True)
    (tmp_path / "copy.json").write_text(json.dumps(NOODLE, indent=1))
    assert files.ask("--schema", str(tmp_path / "copy.json")).code == 0  # the same schema by another name
    assert len(configured.posts) == 1


@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), ("done", 3)])
def test_of_a_background_response(text: str, code: int, noodle: str, configured: ScriptedServer, files: Files) -> None:
    configured.script = polling("in_progress")
    files.write("one")
    arguments = ("--api", "responses", "--background", "--schema", noodle)
    with start(configured, *files.arguments, *arguments) as process:
        assert eventually(lambda: any(seen.method == "GET" for seen in configured.seen))
        process.kill()
    configured.script = lambda seen: reply(response_body(text))
    assert files.ask(*arguments).code == code
    assert files.rows[0]["text"] == text
    assert len(configured.posts) == 1
    assert listed(files.command) == []


@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), ("Sure!", 3)])
def test_of_a_relay(
    text: str, code: int, noodle: str, configured: ScriptedServer, relay: KeyedRelay, files: Files
) -> None:
    good = relay.server.script
    ended = reply(view(text=text))
    relay.server.script = lambda seen: ended if "/wait" in seen.path else good(seen)
    files.write("one")
    assert files.ask("--target", "relay", "--schema", noodle).code == code
    (post,) = relay.posts
    assert post.json["arguments"]["text_format"]["schema"] == NOODLE
    assert files.rows[0]["text"] == text


@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), ("Sure!", 3)])
def test_of_a_model_that_calls_functions(
    text: str, code: int, noodle: str, configured: ScriptedServer, relay: KeyedRelay, files: Files
) -> None:
    Turns(configured, calling(ARGUMENTS), reply(response_body(text, id="resp_2")))
    files.write("one")
    assert files.ask("--auto-tool-call", "--schema", noodle).code == code
    assert all(post.json["text"]["format"]["schema"] == NOODLE for post in configured.posts)


def test_keywords_that_are_not_checked_are_named_once(configured: ScriptedServer, files: Files, tmp_path: Path) -> None:
    configured.script = echoed
    schema = written(tmp_path / "mail.json", {"type": "string", "format": "email"})
    files.write(*({"id": number, "prompt": '"x"'} for number in range(3)))
    run = files.ask("--schema", schema)
    assert run.code == 0
    assert run.err.count("[not checked: format]") == 1


@pytest.mark.parametrize(
    ("schema", "line", "reason"),
    [
        ({"type": "noodle"}, {}, "is not a type of JSON"),
        ("text", {}, "is not a JSON object"),
        (NOODLE, {"schema": "/no/such"}, "cannot read '/no/such'"),
        (NOODLE, {"schema": "/"}, "is not a regular file"),
        (NOODLE, {"schema": NOODLE}, "schema must be a text"),
        (NOODLE, {"schema": ["noodle.json"]}, "schema must be a text"),
        (NOODLE, {"fields": {"response_format": {"type": "text"}}}, "--schema excludes -o response_format"),
        (NOODLE, {"api": "responses", "fields": {"text": {"format": {}}}}, "--schema excludes -o text.format"),
    ],
)
def test_an_unusable_schema(
    schema: object, line: dict[str, object], reason: str, configured: ScriptedServer, files: Files, tmp_path: Path
) -> None:
    files.write({"prompt": "x", "schema": ""}, {"prompt": "y", **line})
    run = files.ask("--schema", written(tmp_path / "schema.json", schema))
    assert (run.code, run.out, configured.seen) == (2, "", [])
    assert f"{files.questions}, line 2: " in run.err
    assert reason in run.err
    assert "nothing was sent" in run.err
