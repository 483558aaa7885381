"""--schema: the request, the check of the answer, and schemas that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from litellm_openai_example.cli.options import read_options
from litellm_openai_example.cli.schema import check_answer, read_schema, with_schema

from ..conftest import RunCommand
from ..fakes.remembering import Remembering
from ..fakes.scripted import ScriptedServer, chat_body, chat_events, reply, response_body, response_events, sse
from ..fakes.tool_calling import FakeRelay, Turns, calling, view
from .running import R, polling

SCHEMA: dict[str, Any] = {
    "title": "A noodle!",
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "price": {"type": ["number", "null"], "minimum": 0},
        "kind": {"enum": ["wheat", "rice"]},
        "with": {"type": "array", "items": {"$ref": "#/$defs/side"}, "maxItems": 2},
    },
    "required": ["name", "price", "kind", "with"],
    "additionalProperties": False,
    "$defs": {"side": {"anyOf": [{"type": "string"}, {"$ref": "#"}]}},
}
GOOD: dict[str, Any] = {"name": "짜장면", "price": 7.5, "kind": "wheat", "with": ["radish"]}
FORM = {"name": "A_noodle", "strict": True, "schema": SCHEMA}
OTHERS: list[Any] = [
    [GOOD],
    {**GOOD, "extra": 1},
    {name: value for name, value in GOOD.items() if name != "kind"},
    {**GOOD, "name": None},
    {**GOOD, "price": "7.5"},
    {**GOOD, "price": True},
    {**GOOD, "price": -1},
    {**GOOD, "kind": "oat"},
    {**GOOD, "with": "radish"},
    {**GOOD, "with": ["a", "b", "c"]},
    {**GOOD, "with": [1]},
    {**GOOD, "with": [{**GOOD, "with": [{"name": "half"}]}]},
]
BAD: list[str] = [
    "Certainly! Here is the JSON: {}",
    f"```json\n{json.dumps(GOOD)}\n```",
    json.dumps(GOOD)[:-1],
    "",
    "NaN",
    "[" * 100_000,
    *map(
        json.dumps,
        OTHERS,
    ),
]


@pytest.fixture
def schema(tmp_path: Path) -> str:
    path = tmp_path / "noodle.json"
    path.write_text(json.dumps(SCHEMA, ensure_ascii=False), encoding="utf-8-sig")
    return str(path)


@pytest.mark.parametrize("good", [GOOD, {**GOOD, "price": None, "with": [GOOD, "kimchi"]}, {**GOOD, "with": []}])
def test_an_answer_of_the_schema(good: Any) -> None:
    assert check_answer(SCHEMA, f" {json.dumps(good)}\n") == 0


@pytest.mark.parametrize("options", [[], ["--stream"], R, [*R, "--stream"], ["--json"]], ids=str)
def test_the_request_and_the_answer(
    options: list[str], schema: str, configured: ScriptedServer, command: RunCommand
) -> None:
    text = json.dumps(GOOD, ensure_ascii=False)
    completed = {"type": "response.completed", "response": response_body(text)}
    whole = response_body(text) if R[1] in options else chat_body(text)
    events = response_events(text, end=completed) if R[1] in options else chat_events(text)
    configured.answers(sse(*events) if "--stream" in options else reply(whole))
    run = command(*options, "--schema", schema, "Describe a noodle")
    assert (run.code, run.err) == (0, "")
    assert "--json" in options or json.loads(run.out) == GOOD
    (post,) = configured.posts
    if R[1] in options:
        assert post.json["text"] == {"format": {"type": "json_schema", **FORM}}
    else:
        assert post.json["response_format"] == {"type": "json_schema", "json_schema": FORM}


@pytest.mark.parametrize("text", BAD[1:], ids=lambda text: text[:20])
def test_another_answer_is_not_a_success(
    text: str, schema: str, configured: ScriptedServer, command: RunCommand
) -> None:
    configured.answers(reply(chat_body(text or " ")))
    run = command("--schema", schema, "Describe a noodle")
    assert run.code == 3
    assert text.strip() in run.out
    assert run.err.count("\n") == 1
    assert "does not follow the schema" in run.err


@pytest.mark.parametrize("options", [["--stream"], [*R, "--stream"], [*R, "--json"], R], ids=str)
def test_a_dropped_format_is_noticed_in_every_mode(
    options: list[str], schema: str, configured: ScriptedServer, command: RunCommand
) -> None:
    completed = {"type": "response.completed", "response": response_body(BAD[0])}
    events = response_events(BAD[0], end=completed) if R[1] in options else chat_events(BAD[0])
    configured.answers(sse(*events) if "--stream" in options else reply(response_body(BAD[0])))
    run = command(*options, "--schema", schema, "Describe a noodle")
    assert (run.code, "Certainly!" in run.out) == (3, True)
    assert "the answer is not JSON" in run.err


def test_other_fields_beside_the_schema(schema: str, configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(response_body(json.dumps(GOOD))))
    assert command(*R, "--schema", schema, "-o", "text.verbosity=low", "hi").code == 0
    assert configured.posts[-1].json["text"]["verbosity"] == "low"
    for options in ([*R, "-o", "text.format.type=text"], [*R, "-o", "text=x"], ["-o", "response_format.type=text"]):
        run = command(*options, "--schema", schema, "hi")
        assert (run.code, "--schema excludes -o" in run.err) == (2, True)
    assert len(configured.posts) == 1


def test_sources_do_not_follow_json(schema: str, configured: ScriptedServer, command: RunCommand) -> None:
    cited = {"type": "url_citation", "url": "https://example.com/", "title": "A page"}
    body = response_body(json.dumps(GOOD))
    body["output"][0]["content"][0]["annotations"] = [cited]
    configured.answers(reply(body))
    assert json.loads(command(*R, "--web-search", "--schema", schema, "hi").out) == GOOD


class TestLaterAnswers:
    def test_of_a_background_response(self, schema: str, configured: ScriptedServer, command: RunCommand) -> None:
        configured.script = polling("completed")  # its text is "done"
        run = command(*R, "--background", "--wait", "--schema", schema, "hi")
        assert (run.code, run.out) == (3, "done\n")
        assert command(*R, "--background", "--schema", schema, "hi").code == 0
        assert command("--retrieve", "resp_1", "--wait", "--schema", schema).code == 3
        assert command("--retrieve", "resp_1", "--wait").code == 0

    def test_the_line_that_picks_it_up_has_the_schema(
        self, schema: str, configured: ScriptedServer, command: RunCommand
    ) -> None:
        configured.script = polling("in_progress")
        run = command(*R, "--background", "--wait", "--schema", schema, "--timeout", "2", "hi")
        assert run.code == 4
        assert f"--retrieve resp_1 --wait --schema {schema}" in run.err

    def test_of_a_model_that_calls_functions(
        self, schema: str, configured: ScriptedServer, relay: FakeRelay, command: RunCommand
    ) -> None:
        call = calling('{"research_question": "Why?"}')
        for text, code in ((json.dumps(GOOD), 0), ("No JSON", 3)):
            Turns(configured, call, reply(response_body(text, id="resp_2")))
            run = command(*R, "--auto-tool-call", "--schema", schema, "Research noodles")
            assert (run.code, run.out) == (code, f"{text}\n")
        assert all(post.json["text"]["format"]["name"] == "A_noodle" for post in configured.posts)

    def test_of_a_relay(self, schema: str, relay: FakeRelay, command: RunCommand) -> None:
        for text, code in ((json.dumps(GOOD), 0), ("No JSON", 3)):
            relay.ends = reply(view(text=text, sources=[{"url": "https://example.com/"}]))
            run = command("--target", "relay", "--schema", schema, "Why?")
            assert (run.code, run.out) == (code, f"{text}\n")
        assert relay.starts[-1].json["arguments"]["text_format"] == {"type": "json_schema", **FORM}

    def test_a_conversation_goes_on(self, schema: str, configured: ScriptedServer, command: RunCommand) -> None:
        model = Remembering(configured)
        assert command("--schema", schema, "one").code == 3
        assert command("-c", "Only JSON, please").code == 0
        assert len(model.bodies[-1]["messages"]) == 3
        assert "response_format" not in model.bodies[-1]


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"format": "email", "pattern": "@"}, "[not checked: format, pattern]"),
        ({"oneOf": [{}], "not": {}, "title": "x"}, "[not checked: oneOf, not]"),
        ({"description": "x", "examples": ["y"]}, ""),
    ],
)
def test_keywords_that_are_not_checked_are_named(
    keywords: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = {"type": "object", "properties": {"mail": {"type": "string", **keywords}}}
    assert check_answer(schema, '{"mail": "x"}') == 0
    assert capsys.readouterr().err.strip() == named


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, [1, 1.0, -3], [1.5, "1", True, 1e999, None]),
        ({"type": "number"}, [1, 1.5], ["1", False]),
        ({"const": 1}, [1, 1.0], [True, "1"]),
        ({"enum": [True, None]}, [True, None], [1, 0, False]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "짜장면"], ["a", "abcd"]),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5, "not a number"], [0, 1]),
        ({"minItems": 1}, [[1], {}], [[]]),
        ({"allOf": [{"type": "string"}, {"minLength": 2}]}, ["ab"], ["a", 1]),
        ({"additionalProperties": {"type": "string"}}, [{"x": "y"}, {}], [{"x": 1}]),
        ({"properties": {"x": False}}, [{}], [{"x": 1}]),
        ({"definitions": {"a/b": {"type": "null"}}, "$ref": "#/definitions/a~1b"}, [None], [0]),
        ({"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}, "required": ["v"]}}, "$ref": "#/$defs/n"},
         [{"v": 1, "next": {"v": 2}}], [{"v": 1, "next": {}}]),
        ({"anyOf": [{"$ref": "#"}, {"type": "string"}]}, [], [1]),  # without an end
        ({}, [1, None, "x"], []),
    ],
)  # fmt: skip
def test_keywords(schema: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert check_answer(schema, json.dumps(value)) == 0, value
    for value in bad:
        assert check_answer(schema, json.dumps(value)) == 3, value


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe\x00", b'{"minimum": NaN}', b'{"const": 1e999}',
        b'{"const": "\\ud83d"}', b'{"type": "objekt"}', b'{"type": 5}', b'{"type": ["string", null]}', b'{"enum": []}',
        b'{"enum": "x"}', b'{"required": "x"}', b'{"required": [1]}', b'{"properties": []}',
        b'{"properties": {"x": "string"}}', b'{"items": []}', b'{"anyOf": {}}', b'{"minItems": "2"}',
        b'{"$ref": "#/$defs/none"}', b'{"$ref": "https://example.com/"}', b'{"$ref": 1}', b'{"$ref": "#"}',
        b'{"type": "json_schema", "json_schema": {}}', b'{"not": ' * 300 + b"{}" + b"}" * 300, b" " * 2_000_000,
    ],
    ids=lambda content: content[:30].decode("latin-1"),
)  # fmt: skip
def test_an_unusable_schema(content: bytes, configured: ScriptedServer, command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "schema").write_bytes(content)
    run = command("--schema", str(tmp_path / "schema"), "hi")
    assert (run.code, run.out, configured.seen) == (2, "", [])
    assert "--schema" in run.err


@pytest.mark.parametrize("name", ["", "missing", ".", "/dev/null", "a\0b"])
def test_an_unreadable_schema(name: str, configured: ScriptedServer, command: RunCommand) -> None:
    run = command("--schema", name, "hi")
    assert (run.code, run.out, configured.seen) == (2, "", [])


@pytest.mark.parametrize(
    "options",
    [["--retrieve", "resp_1"], ["--cancel", "resp_1"], ["--list"], ["--forget", "x"]],
    ids=str,
)
def test_where_a_schema_makes_no_sense(
    options: list[str], schema: str, configured: ScriptedServer, command: RunCommand
) -> None:
    assert command(*options, "--schema", schema).code == 2
    assert configured.seen == []


def test_the_name_of_a_format(tmp_path: Path) -> None:
    from litellm_openai_example.cli.main import command as main

    names = {"Noodle": "Noodle", "짜장면": "answer", "": "answer", "a  b/c": "a_b_c", "x" * 99: "x" * 64}
    for title, name in names.items():
        (tmp_path / "schema").write_text(json.dumps({"title": title}))
        schema = read_schema(str(tmp_path / "schema"))
        with main.make_context("x", ["hi"]) as context:
            fields = with_schema(read_options(context), schema).fields
        assert fields["response_format"]["json_schema"]["name"] == name
