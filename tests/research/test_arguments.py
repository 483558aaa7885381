"""Arguments of deep_research: everything is derived from their fields."""

from __future__ import annotations

import json

import pytest

from litellm_openai_example.payer import Payer
from litellm_openai_example.relay.engine.request import research_prompt
from litellm_openai_example.relay.http.body import parse
from litellm_openai_example.relay.http.responses import Problem
from litellm_openai_example.relay.ledger.records import NewInvocation
from litellm_openai_example.research.arguments import (
    TOOL,
    DeepResearchArguments,
    ToolArguments,
    parse_arguments,
)
from litellm_openai_example.research.contract import InvocationRequest

from ..fakes.gateway import Json

EXAMPLES = {name: (argument.examples or [None])[0] for name, argument in ToolArguments.model_fields.items()}


def read(arguments: Json) -> DeepResearchArguments:
    """Return the arguments as the relay reads them."""
    return parse(json.dumps({"tool_name": "deep_research", "arguments": arguments}).encode())


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_argument_reaches_schema_prompt_and_request(name: str) -> None:
    schema = TOOL["parameters"]["properties"][name]
    assert schema["type"] in ("string", "array", "boolean")
    assert schema["description"]
    assert name in InvocationRequest.model_json_schema()["$defs"]["DeepResearchArguments"]["properties"]

    given = {"research_question": "Why?"} | {name: EXAMPLES[name]}
    assert parse_arguments(json.dumps(given)) == given
    assert getattr(read(given), name) == EXAMPLES[name]

    # Differs from the example: missing, or another value if the example is the default.
    other: Json = {
        "research_question": {"research_question": "Who?"},
        "require_citations": {"require_citations": False},
    }
    changed: Json = {"research_question": "Why?"} | other.get(name, {})
    assert research_prompt(read(given), searches=True) != research_prompt(read(changed), searches=True)


@pytest.mark.parametrize(
    ("arguments", "fingerprint"),
    [
        ({"research_question": "Why?"}, "f281e7008425396956e04454978ff308e12061f6e8327b84dec9ae7a3a9d406d"),
        (
            {
                "research_question": "Why?",
                "background": True,
                "context": ["a"],
                "constraints": ["b"],
                "deliverable_format": "json_outline",
                "require_citations": False,
                "system_prompt": "s",
                "text_format": {"type": "json_object"},
            },
            "40a95b6a7abe33dcce8f5344f9b53de5c1498464c80413155bbc21e193f3e531",
        ),
    ],
)
def test_the_fingerprint_of_a_request_survives_an_upgrade(arguments: Json, fingerprint: str) -> None:
    """Otherwise a repeat under the same idempotency key would be refused after an upgrade."""
    new = NewInvocation.of(read(arguments), None, Payer())
    assert new.fingerprint == fingerprint
    assert DeepResearchArguments.model_validate_json(new.arguments) == read(arguments)


@pytest.mark.parametrize(("language", "problem"), [("K" * 101, "at most 100 characters"), (["Korean"], "string")])
def test_the_language_is_a_short_text(language: object, problem: str) -> None:
    given = {"research_question": "Why?", "language": language}
    with pytest.raises(Problem) as refused:
        read(given)
    assert [(one.where, problem in one.problem) for one in refused.value.details] == [("arguments.language", True)]
    with pytest.raises(ValueError, match=r"language .*(at most 100 characters|must be a text)"):
        parse_arguments(json.dumps(given))
