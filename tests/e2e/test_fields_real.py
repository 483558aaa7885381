"""Every field of the SDK's create methods, through the real LiteLLM proxy: does the provider get it?

LiteLLM drops some fields without an error. `sdk.DROPPED` names them; a field that is lost and not named
there fails these tests.
"""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from openai.resources.chat import Completions
from openai.resources.responses import Responses

from litellm_openai_example import LiteLLM, LiteLLMClient, RelayClient
from litellm_openai_example.json_object import JsonObject
from litellm_openai_example.sdk import DROPPED

from ..conftest import RunCommand
from ..fakes.upstream import UpstreamControl
from .running import Gateway, asked, relay

FUNCTION = {"name": "look_up", "parameters": {"type": "object", "properties": {}}}
SEARCH = {
    "type": "web_search",
    "user_location": {"type": "approximate", "country": "KR"},
    "search_context_size": "high",
    "filters": {"allowed_domains": ["example.com"]},
    "return_token_budget": "unlimited",
}
# Valid values of every field.
RESPONSES: JsonObject = {
    "access_programs": ["trusted_access"],
    "background": True,
    "background_options": {"completion_window": "8h"},
    "context_management": [{"type": "compaction", "compact_threshold": 200000}],
    "conversation": "conv_1",
    "image": {"quality": "high"},
    "include": ["reasoning.encrypted_content"],
    "instructions": "Be kind",
    "max_output_tokens": 500,
    "max_tool_calls": 7,
    "metadata": {"a": "b"},
    "moderation": {"mode": "score"},
    "parallel_tool_calls": False,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"ttl": "1h"},
    "prompt_cache_retention": "24h",
    "reasoning": {"effort": "high", "summary": "auto", "context": "auto", "mode": "pro", "generate_summary": "auto"},
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": True,
    "stream_options": {"include_obfuscation": False},
    "temperature": 1,
    "text": {"verbosity": "low"},
    "tool_choice": "auto",
    "tools": [SEARCH, {"type": "function", "strict": True, **FUNCTION}],
    "top_logprobs": 2,
    "top_p": 1,
    "truncation": "auto",
    "user": "u",
}
CHAT: JsonObject = {
    "audio": {"voice": "ash", "format": "mp3"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [FUNCTION],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 500,
    "max_tokens": 400,
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "moderation": {"mode": "score"},
    "n": 1,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"ttl": "1h"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "response_format": {"type": "text"},
    "safety_identifier": "s",
    "seed": 7,
    "service_tier": "flex",
    "stop": ["END"],
    "store": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "temperature": 1,
    "tool_choice": "auto",
    "tools": [{"type": "function", "function": FUNCTION}],
    "top_logprobs": 2,
    "top_p": 1,
    "user": "u",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
# Options of the call rather than its body, fields set below, or names of objects that must exist at the provider.
ELSEWHERE = {"self", "model", "input", "messages", "extra_headers", "extra_query", "extra_body", "timeout", "stream"}
ELSEWHERE |= {"prompt", "previous_response_id"}
# LiteLLM refuses these for a model that reasons, with an error.
NOT_REASONING = {
    *("audio", "frequency_penalty", "logit_bias", "logprobs", "modalities", "prediction", "presence_penalty", "stop"),
    *("temperature", "top_logprobs", "top_p", "web_search_options"),
}
# LiteLLM forwards these to other models only.
REASONING = {"reasoning", "reasoning_effort", "verbosity"}


@pytest.fixture
def drop_in(gateway: Gateway) -> Iterator[LiteLLM]:
    with LiteLLM(base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0, timeout=60) as client:
        yield client


def lost(client: openai.OpenAI, upstream: UpstreamControl, model: str, path: str, fields: JsonObject) -> set[str]:
    """Return the fields of a create that do not reach the provider unchanged."""
    question = f"Reply with exactly: {uuid.uuid4().hex}"
    prompt = {"input": question} if path == "/responses" else {"messages": [{"role": "user", "content": question}]}
    client.post(path, body={"model": model, **prompt, **fields}, cast_to=object)
    (body,) = asked(upstream, model, question)
    assert "extra_body" not in body
    return {name for name, value in fields.items() if body.get(name) != value}


def test_every_field_has_a_value_to_test() -> None:
    for method, values in ((Responses.create, RESPONSES), (Completions.create, CHAT)):
        assert set(inspect.signature(inspect.unwrap(method)).parameters) - ELSEWHERE <= set(
            values
        )  # older SDKs have fewer


@pytest.mark.parametrize(
    ("path", "values"), [("/responses", RESPONSES), ("/chat/completions", CHAT)], ids=["responses", "chat"]
)
def test_every_field_arrives(
    path: str, values: JsonObject, sdk: openai.OpenAI, drop_in: LiteLLM, upstream: UpstreamControl
) -> None:
    reasoning = {name: value for name, value in values.items() if name not in NOT_REASONING}
    plain = {name: value for name, value in values.items() if name not in REASONING}
    if path == "/chat/completions":
        reasoning.pop("max_tokens")  # sent under its newer name, which is listed too
        # With functions LiteLLM bridges such a model to the Responses API.
        reasoning = {name: value for name, value in reasoning.items() if "tool" not in name and "func" not in name}
        plain.pop("web_search_options")  # for models whose name says so
        reasoning["stream"] = plain["stream"] = True  # `stream_options` require it
    assert lost(drop_in, upstream, "gpt-6.1-sol", path, reasoning) == set()
    assert lost(drop_in, upstream, "gpt-4o", path, plain) == set()
    assert lost(drop_in, upstream, "azure/gpt-6.1-sol", "/responses", {"conversation": "conv_1"}) == set()
    # The plain SDK loses them; which of them depends on LiteLLM's version.
    always = {"conversation", "background_options"} if path == "/responses" else {"metadata"}
    assert always <= lost(sdk, upstream, "gpt-6.1-sol", path, reasoning) <= always | set(DROPPED[path])


# The same fields, sent through each interface: command, library, drop-in and relay.

GIVEN: JsonObject = {
    "background_options": {"completion_window": "8h"},
    "conversation": "conv_1",
    "reasoning": {"effort": "high"},
}


def by_command(question: str, gateway: Gateway, command: RunCommand, folder: Path) -> None:
    options = [f"-o{name}={json.dumps(value)}" for name, value in GIVEN.items()]
    run = command("--api", "responses", "--model", "gpt-6.1-sol", "--background", *options, question)
    assert (run.code, run.err) == (0, "")


def by_drop_in(question: str, gateway: Gateway, command: RunCommand, folder: Path) -> None:
    with LiteLLM(base_url=gateway.base_url, api_key=gateway.api_key) as client:
        client.responses.create(model="gpt-6.1-sol", input=question, background=True, extra_body=GIVEN)


def by_library(question: str, gateway: Gateway, command: RunCommand, folder: Path) -> None:
    with LiteLLMClient(gateway.base_url, gateway.api_key, "gpt-6.1-sol") as client:
        client.create_response(question, background=True, **GIVEN)


def by_relay(question: str, gateway: Gateway, command: RunCommand, folder: Path) -> None:
    with relay(gateway, folder, "gpt-6.1-sol") as url, RelayClient(url, timeout=60) as client:
        view = client.invoke({"research_question": question})
        assert view.status == "completed", view


@pytest.mark.parametrize("way", [by_command, by_drop_in, by_library, by_relay], ids=lambda way: way.__name__)
def test_the_provider_gets_the_value_of_each_field(
    way: Callable[..., None],
    gateway: Gateway,
    upstream: UpstreamControl,
    command: RunCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "LITELLM_BASE_URL": gateway.base_url,
        "LITELLM_API_KEY": gateway.api_key,
        "RELAY_REQUEST": json.dumps(GIVEN),
    }.items():
        monkeypatch.setenv(name, value)
    question = f"Research the history of noodles, {uuid.uuid4().hex}"
    way(question, gateway, command, tmp_path)
    (body,) = asked(upstream, "gpt-6.1-sol", question)
    assert {name: body.get(name) for name in GIVEN} == GIVEN
    assert (body["background"], body["store"]) == (True, True)
    assert "extra_body" not in body


@pytest.mark.parametrize("way", ["command", "relay", "relay, refused"])
def test_a_provider_with_zero_data_retention(
    way: str,
    gateway: Gateway,
    upstream: UpstreamControl,
    command: RunCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LITELLM_BASE_URL", gateway.base_url)
    monkeypatch.setenv("LITELLM_API_KEY", gateway.api_key)
    model = upstream.model("zero-retention")
    if way == "command":
        assert command("--api", "responses", "--model", model, "--background", "hi").code == 0
        stored = [True, None]
        assert command("--api", "responses", "--model", model, "--background", "-o", "store=null", "hi").code == 0
        assert command("--api", "responses", "--model", model, "--background", "-o", "store=false", "hi").code == 0
        stored += [None, False]
    else:
        fields = {"store": True} if "refused" in way else {}
        monkeypatch.setenv("RELAY_REQUEST", json.dumps({"reasoning": None, **fields}))
        with relay(gateway, tmp_path, model) as url, RelayClient(url, timeout=60) as client:
            views = [client.invoke({"research_question": f"Why {n}?"}) for n in range(2)]
        if fields:
            assert [view.error_code for view in views] == ["gateway_rejected_request"] * 2
            stored = [True, True]
        else:
            assert [view.status for view in views] == ["completed"] * 2
            stored = [True, None, None]
    posts = [one.body or {} for one in upstream.requests(model) if one.method == "POST"]
    assert [body.get("store") for body in posts] == stored
