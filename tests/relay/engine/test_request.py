"""The research request: its fields for each kind of model, and its second form after a refusal."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from litellm_openai_example.relay.engine.request import research_prompt, research_request
from litellm_openai_example.research.arguments import DeepResearchArguments

from ...fakes.gateway import Fault, Gateway, Json
from ...fakes.scripted import eventually
from ..conftest import StartRelay
from ..running import FAST, ThreadedRelay

NEW, OLD = {"type": "web_search"}, {"type": "web_search_preview"}


def request(model: str, overrides: Json | None = None, **arguments: Any) -> Json:
    return research_request(
        DeepResearchArguments(research_question="Why?", **arguments), model, {} if overrides is None else overrides
    )


class TestRecipe:
    @pytest.mark.parametrize(
        ("model", "tool", "effort"),
        [
            ("gpt-6.1-sol", NEW, "high"),
            ("openai/gpt-6.1-sol", NEW, "high"),
            ("o3-deep-research", OLD, None),
            ("azure/o4-mini-deep-research-2025-06-26", OLD, None),
            ("azure/O3-Deep-Research", OLD, None),
            ("my-deep-research", OLD, None),
            ("gpt-6.2-sol", NEW, "high"),
            ("gpt-6.1-terra", NEW, "high"),
            ("openai/gpt-6.1-sol-2026-09-29", NEW, "high"),
            ("anthropic/claude-x", NEW, "high"),
            ("my-own-name", NEW, "high"),
        ],
    )
    def test_each_model_can_search(self, model: str, tool: Json, effort: str | None) -> None:
        made = request(model)
        assert (made["tools"], made["store"]) == ([tool], True)
        assert made.get("reasoning") == (None if effort is None else {"effort": effort})
        assert "Name the source" in made["input"]

    def test_the_operators_fields_are_merged(self) -> None:
        made = request("gpt-6.1-sol", {"max_tool_calls": 20, "reasoning": {"effort": "xhigh"}, "include": ["x"]})
        assert (made["tools"], made["max_tool_calls"], made["include"]) == ([NEW], 20, ["x"])
        assert made["reasoning"] == {"effort": "xhigh"}

    @pytest.mark.parametrize("tools", [None, [], [{"type": "code_interpreter"}]])
    def test_sources_are_requested_only_with_a_search_tool(self, tools: Any) -> None:
        made = request("gpt-6.1-sol", {"tools": tools, "reasoning": None})
        assert "Name the source" not in made["input"]
        assert "reasoning" not in made
        assert made.get("tools") == (tools or None)

    @pytest.mark.parametrize("kind", ["file_search", "mcp", "web_search_preview"])
    def test_any_data_source_counts_as_a_search_tool(self, kind: str) -> None:
        assert "Name the source" in request("x", {"tools": [{"type": kind}]})["input"]

    def test_the_clients_arguments_override_the_operators(self) -> None:
        overrides = {"instructions": "Be brief.", "text": {"verbosity": "low"}}
        made = request("x", overrides, system_prompt="Be long.", text_format={"type": "json_object"})
        assert made["instructions"] == "Be long."
        assert made["text"] == {"verbosity": "low", "format": {"type": "json_object"}}
        assert request("x", overrides)["instructions"] == "Be brief."


# The exact text of the prompt for each value of an argument: models were tried with these words.
CONTEXTS: list[tuple[list[str], list[str]]] = [
    ([], []),
    ([" ", ""], []),
    (["a fact", " ", " another\nin two lines "], ["# Context\n\n- a fact\n- another\nin two lines"]),
]
CONSTRAINTS: list[tuple[list[str], list[str]]] = [
    ([], []),
    (["{not} filled in"], ["# Constraints\n\n- {not} filled in"]),
]
FORMATS = [
    (
        "markdown_brief",
        "A brief in Markdown: the answer first in a few sentences, then the findings that carry it as a short list, "
        "then what remains uncertain. At most about 600 words.",
    ),
    (
        "markdown_report",
        "A full report in Markdown: a summary, sections with headings for each part of the question, the evidence with "
        "figures and dates, points on which sources disagree, and what remains uncertain.",
    ),
    (
        "json_outline",
        'One JSON object and nothing around it: {"title": string, "summary": string, "sections": [{"heading": string, '
        '"points": [string], "sources": [string]}], "open_questions": [string]}.',
    ),
]
TEXT_FORMATS: list[tuple[Json | None, str | None]] = [
    (None, None),
    ({"type": "text"}, None),
    ({"type": "json_object"}, "JSON in the form that was asked for, and nothing around it."),
    (
        {"type": "json_schema", "name": "n", "schema": {}},
        "JSON in the form that was asked for, and nothing around it.",
    ),
]
CITATIONS = [
    (
        True,
        True,
        "Name the source of each finding, with its URL, where the finding is stated. Do not invent sources.",
    ),
    (True, False, "There is nothing to search with: do not invent sources or addresses."),
    (False, True, "Sources need not be named."),
    (False, False, "Sources need not be named."),
]


def test_the_prompt_has_its_exact_words() -> None:
    for chosen in product(CONTEXTS, CONSTRAINTS, FORMATS, TEXT_FORMATS, CITATIONS):
        (context, facts), (constraints, limits), (form, deliverable), (text_format, given), (cited, searches, to) = (
            chosen
        )
        arguments = DeepResearchArguments.model_validate(
            {
                "research_question": " Why {so}?\n",
                "context": context,
                "constraints": constraints,
                "deliverable_format": form,
                "text_format": text_format,
                "require_citations": cited,
            }
        )
        sections = [*facts, *limits, f"# Deliverable\n\n{given or deliverable}", f"# Citations\n\n{to}"]
        expected = "\n\n".join(["# Research question\n\nWhy {so}?", *sections])
        assert research_prompt(arguments, searches=searches) == expected, chosen


def test_the_prompt_names_the_language_of_the_report() -> None:
    plain = request("x")["input"]
    asked = "# Language of the report\n\nKorean\n\n# Citations"
    assert request("x", language=" Korean ")["input"] == plain.replace("# Citations", asked)
    assert request("x", language=None)["input"] == request("x", language=" ")["input"] == plain


TOOLS, REASONING, STORE = "unsupported_tool", "unsupported_reasoning", "unsupported_store"


def refusal(text: str, param: str | None, **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault("status", 400, {"error": {"message": text, "param": param, "code": "400"}}, named)


def refusing(*fields: str) -> Any:
    """Return a gateway hook whose model refuses these tool names, `reasoning` or `store`."""

    def on_post(asked: Json, _: int) -> Fault | None:
        kind = asked["tools"][0]["type"]
        if kind in fields:
            return refusal(f"Web search tool is not supported with this model: {kind}", "tools")
        if "reasoning" in fields and "reasoning" in asked:
            text = "Unsupported parameter: 'reasoning.effort' is not supported with this model."
            return refusal(text, "reasoning.effort")
        if "store" in fields and asked.get("store") is True:
            return refusal("Responses cannot be stored: Zero Data Retention is enabled.", "store")
        return None

    return on_post


def adapted(relay: ThreadedRelay, kind: str) -> float:
    """Return the number of adapted requests of a kind, from the metrics; it sums all relays of this process."""
    text = relay.api.call("GET", "/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith(f'litellm_relay_adapted_total{{kind="{kind}"}}')]
    return float(line.split()[-1])


class TestRefusedRequest:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("refused", "posts"),
        [
            (("web_search",), 2),
            (("reasoning",), 2),
            (("store",), 2),
            (("web_search", "reasoning"), 3),
            (("web_search", "reasoning", "store"), 4),
        ],
    )
    def test_the_request_is_adapted_to_the_model_and_remembered(
        self, start_relay: StartRelay, upstream: Gateway, refused: tuple[str, ...], posts: int, stream: bool
    ) -> None:
        upstream.on_post = refusing(*refused)
        relay = start_relay()
        kinds = [kind for name, kind in (("web_search", TOOLS), ("reasoning", REASONING), ("store", STORE))]
        before = [adapted(relay, kind) for kind in kinds]
        assert relay.api.wait(relay.api.start("one", stream=stream))["status"] == "completed"
        assert (len(upstream.posts), sum(upstream.paid.values())) == (posts, 1)
        assert relay.api.wait(relay.api.start("two", stream=stream))["status"] == "completed"
        assert len(upstream.posts) == posts + 1  # adapted from the start, as the relay remembers the refusal
        told = [2.0 if name in refused else 0.0 for name in ("web_search", "reasoning", "store")]
        assert [adapted(relay, kind) - was for kind, was in zip(kinds, before, strict=True)] == told

    def test_a_model_that_refuses_both_search_tools_fails_the_run(
        self, relay: ThreadedRelay, upstream: Gateway
    ) -> None:
        upstream.on_post = refusing("web_search", "web_search_preview")
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["error_code"]) == ("failed", "gateway_rejected_request")
        assert len(upstream.posts) == 2

    @pytest.mark.parametrize("name", ["reasoning", "store"])
    def test_the_operators_fields_are_never_removed(
        self, start_relay: StartRelay, upstream: Gateway, name: str
    ) -> None:
        upstream.on_post = refusing(name)
        fields = {"reasoning": {"effort": "xhigh"}} if name == "reasoning" else {"store": True}
        relay = start_relay(request=fields)
        for question in ("one", "two"):
            view = relay.api.wait(relay.api.start(question))
            assert (view["status"], view["error_code"]) == ("failed", "gateway_rejected_request")
        assert [post[name] for post in upstream.posts] == [fields[name]] * 2

    def test_an_adaptation_expires(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.on_post = refusing("reasoning")
        relay = start_relay(timings=replace(FAST, learned=1.0))
        assert relay.api.wait(relay.api.start("one"))["status"] == "completed"
        upstream.on_post = lambda asked, n: None

        def asked_again() -> bool:
            assert relay.api.wait(relay.api.start("more"))["status"] == "completed"
            return "reasoning" in upstream.posts[-1]

        assert eventually(asked_again)

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("model", "learned"),
        [
            ("fallback", False),
            ("gpt-4o", False),
            ("gpt-6.1-terra", False),
            ("gpt-6.1-sol-mini", False),
            ("gpt-6.1-sol", True),
            ("openai/gpt-6.1-sol", True),
            ("gpt-6.1-sol-2026-09-29", True),
            (None, True),
            (7, True),
        ],
    )
    def test_a_fallback_model_does_not_cause_an_adaptation(
        self, start_relay: StartRelay, upstream: Gateway, model: object, learned: bool, stream: bool
    ) -> None:
        upstream.on_post = lambda asked, n: refusing("reasoning")(asked, n) if n == 1 else None
        upstream.answers_as = model
        relay = start_relay()
        assert relay.api.wait(relay.api.start("one", stream=stream))["status"] == "completed"
        assert relay.api.wait(relay.api.start("two", stream=stream))["status"] == "completed"
        assert ["reasoning" in post for post in upstream.posts] == [True, False, not learned]

    def test_one_refusing_deployment_does_not_cause_an_adaptation(
        self, start_relay: StartRelay, upstream: Gateway
    ) -> None:
        refused = refusal("Unsupported parameter", "reasoning.effort", x_litellm_model_id="wrong")
        upstream.on_post = lambda asked, n: refused if n == 1 else None
        upstream.headers = {"x-litellm-model-id": "right", "x-litellm-model-group": "gpt-6.1-sol"}
        relay = start_relay()
        for question in ("one", "two"):
            assert relay.api.wait(relay.api.start(question))["status"] == "completed"
        assert ["reasoning" in post for post in upstream.posts] == [True, False, True]

    def test_null_removes_store(self, start_relay: StartRelay, upstream: Gateway) -> None:
        relay = start_relay(request={"store": None})
        assert relay.api.wait(relay.api.start())["status"] == "completed"
        assert "store" not in upstream.posts[0]
