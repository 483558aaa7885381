"""The offline demo model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from litellm_openai_example.gateway.offline.model import DEMO, SOURCE, Item, Request, complete

RESEARCH: Mapping[str, Mapping[str, Any]] = {"deep_research": {}}


def ask(*texts: str, model: str = "gpt-4o", **how: Any) -> Request:
    return Request(model, [Item("user", text) for text in texts], **how)


@pytest.mark.parametrize(
    "wanted", ["OK", "안녕하세요 🎉", "two\nlines\n\n  indented", '"quoted" $HOME \\n', "a: b", "e\u0301👩‍👩‍👧"]
)
def test_a_reply_is_exactly_the_requested_text(wanted: str) -> None:
    assert complete(ask(f"Reply with exactly: {wanted}")).text == wanted
    assert complete(ask(f"\nreply with exactly:{wanted}  \n")).text == wanted


def test_other_prompts_get_an_echo_that_names_the_demo() -> None:
    text = complete(ask("How are you?")).text
    assert text == f"{DEMO} You said: How are you?"


def test_the_echo_quotes_conversation_and_instructions() -> None:
    items = [Item("system", "Be brief"), Item("user", "one"), Item("assistant", "x"), Item("user", "two")]
    text = complete(Request("m", items)).text
    assert "You said: two\nBefore that you said: one\nInstructions: Be brief" in text


@pytest.mark.parametrize(
    "prompt",
    ["Research the history of jajangmyeon", "Investigate tides", "compare A and B", "Analyse this", "a survey of maps",
     "짜장면의 역사를 조사해줘", "시장 분석", "연구해 주세요"],
)  # fmt: skip
def test_a_research_prompt_calls_deep_research(prompt: str) -> None:
    reply = complete(ask(prompt, functions=RESEARCH))
    assert (reply.text, reply.call) == ("", "deep_research")
    assert json.loads(reply.arguments) == {"research_question": prompt, "deliverable_format": "markdown_brief"}


@pytest.mark.parametrize("prompt", ["What is 2 + 2?", "Reply with exactly: research", "안녕하세요"])
def test_a_simple_question_needs_no_research(prompt: str) -> None:
    assert complete(ask(prompt, functions=RESEARCH)).call == ""


def test_without_deep_research_no_function_is_called() -> None:
    assert complete(ask("Research tides", functions={"other": {}})).call == ""


def test_the_final_answer_has_the_question_and_the_research() -> None:
    request = Request(
        "gpt-4o",
        [Item("user", "Research tides"), Item("call", "{}", "c", "deep_research"), Item("output", "MOON", "c")],
        functions=RESEARCH,
    )
    reply = complete(request)
    assert reply.call == ""
    assert "You asked: Research tides" in reply.text
    assert "MOON" in reply.text
    assert DEMO in reply.text


def test_a_new_question_after_research_may_be_researched_again() -> None:
    items = [
        Item("user", "Research a"),
        Item("call", "{}", "c"),
        Item("output", "A", "c"),
        Item("assistant", "A"),
    ]
    assert complete(Request("m", [*items, Item("user", "Research b")], functions=RESEARCH)).call == "deep_research"


def test_a_research_model_reports() -> None:
    reply = complete(ask("Why tides?", model="o3-deep-research", searches=True))
    for part in ("# Offline demo research", "Why tides?", DEMO, "[1]", "[2]"):
        assert part in reply.text
    assert "://" not in reply.text  # the sources stand in the annotations alone
    assert [url for url, _ in reply.sources] == [SOURCE, f"{SOURCE}/second"]


@pytest.mark.parametrize(("effort", "reports"), [("high", True), ("xhigh", True), ("low", False), ("", False)])
def test_other_models_report_if_they_search_at_high_effort(effort: str, reports: bool) -> None:
    asked = complete(ask("Why tides?", model="gpt-6.1-sol", searches=True, effort=effort))
    assert asked.text.startswith("# Offline demo research") is reports
    assert not complete(ask("Why?", model="gpt-6.1-sol", effort=effort)).text.startswith("#")


CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}


@pytest.mark.parametrize(
    "prompt",
    [
        "Please call get_weather for Busan",
        "get_weather(Busan)",
        "get_weather를 호출해줘",
        "get_weather로 알아봐",
    ],
)
def test_a_function_named_in_the_prompt_is_called(prompt: str) -> None:
    reply = complete(ask(prompt, functions={"other": {}, "get_weather": CITY}))
    assert (reply.call, json.loads(reply.arguments)) == ("get_weather", {"city": prompt, "days": 0})


def test_arguments_in_the_prompt_are_used() -> None:
    reply = complete(ask('Call get_weather with {"city": "부산", "days": 3}', functions={"get_weather": CITY}))
    assert json.loads(reply.arguments) == {"city": "부산", "days": 3}
    reply = complete(ask("Call get_weather with {city: Busan}", functions={"get_weather": CITY}))
    assert json.loads(reply.arguments)["days"] == 0


@pytest.mark.parametrize("prompt", ["my_get_weather", "get_weather2", "Reply with exactly: get_weather", "weather"])
def test_a_function_not_named_in_the_prompt_is_not_called(prompt: str) -> None:
    assert complete(ask(prompt, functions={"get_weather": CITY})).call == ""


def test_a_named_function_without_a_schema_gets_an_object() -> None:
    assert complete(ask("call ping", functions={"ping": {}})).arguments == "{}"


def test_a_forced_function_gets_arguments_that_fit_its_schema() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    reply = complete(ask("Busan", functions={"weather": schema}, forced="weather"))
    assert (reply.call, json.loads(reply.arguments)) == ("weather", {"city": "Busan", "days": 0})


def test_an_answer_follows_its_schema() -> None:
    shape = {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "kind": {"enum": ["a", "b"]},
            "version": {"const": 2},
            "part": {"$ref": "#/$defs/Part"},
            "maybe": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "nullable": {"type": ["boolean", "null"]},
        },
        "$defs": {"Part": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    made = json.loads(complete(ask("hello", shape=shape)).text)
    assert made.pop("title").endswith("You said: hello")
    assert made.pop("part")["name"].endswith("You said: hello")
    assert made == {"kind": "a", "version": 2, "maybe": 0, "tags": [], "nullable": False}


def test_a_recursive_schema_ends() -> None:
    shape = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert json.loads(complete(ask("hello", shape=shape)).text)["next"]
