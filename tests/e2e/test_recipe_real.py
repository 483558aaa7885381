"""The relay's research requests through the real LiteLLM proxy: each model gets the fields it needs to search."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litellm_openai_example import RelayClient
from litellm_openai_example.json_object import JsonObject

from ..fakes.formats import PAGES, REPORT
from ..fakes.upstream import UpstreamControl
from .running import Gateway, asked, relay


@pytest.mark.parametrize(
    ("model", "request_fields", "tools", "effort"),
    [
        ("gpt-6.1-sol", None, ["web_search"], ["high"]),
        ("o3-deep-research", None, ["web_search_preview"], [None]),
        ("gpt-4o-mini", None, ["web_search"], [None]),
        # A 400 was not executed: the request is repeated without the refused field.
        (
            "gpt-6.1-sol",
            '{"tools": [{"type": "web_search_preview"}]}',
            ["web_search_preview", "web_search"],
            ["high"] * 2,
        ),
        # LiteLLM refuses it by its own table for OpenAI, and passes it on to Azure.
        ("gpt-4o", None, ["web_search"], [None]),
        ("azure/gpt-4o", None, ["web_search"] * 2, ["high", None]),
        ("azure/gpt-6.1-sol", None, ["web_search"], ["high"]),
        ("azure/o3-deep-research", None, ["web_search_preview"], [None]),
    ],
    ids=[
        "default",
        "deep-research",
        "plain",
        "refused tool",
        "effort refused by the gateway",
        "effort refused by the provider",
        "azure",
        "azure deep-research",
    ],
)
def test_a_run_is_completed_with_one_paid_post(
    model: str,
    request_fields: str | None,
    tools: list[str],
    effort: list[str | None],
    gateway: Gateway,
    upstream: UpstreamControl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if request_fields is not None:
        monkeypatch.setenv("RELAY_REQUEST", request_fields)
    question = f"Research the history of noodles, {uuid.uuid4().hex}"
    with relay(gateway, tmp_path, model) as url, RelayClient(url, timeout=60) as client:
        view = client.invoke({"research_question": question})
        assert (view.status, view.error_code) == ("completed", None)
        assert view.output_text
    bodies = asked(upstream, model, question)
    assert [body["tools"][0]["type"] for body in bodies] == tools
    assert [(body.get("reasoning") or {}).get("effort") for body in bodies] == effort
    assert all(body["background"] is True for body in bodies)
    assert len(bodies) == len(tools)  # all but the last one were refused


@pytest.mark.parametrize("mode", ["foreground", "stream"])
@pytest.mark.parametrize(
    ("model", "tool", "thinking", "sources"),
    [
        # LiteLLM lists every page that Anthropic's search has read, but the titles only in a complete answer.
        (
            "anthropic/claude-opus-5-5",
            {"type": "web_search_20250305", "name": "web_search"},
            lambda body: body.get("output_config"),
            PAGES,
        ),
        # LiteLLM lists those of Gemini that are cited after the first character; from 1.110 on, all.
        (
            "gemini/gemini-3.8-flash",
            {"googleSearch": {}},
            lambda body: body.get("generationConfig", {}).get("thinkingConfig"),
            PAGES[:1],
        ),
    ],
    ids=["anthropic", "gemini"],
)
def test_another_provider_gets_its_native_search_tool(
    model: str,
    tool: JsonObject,
    thinking: Callable[[JsonObject], Any],
    sources: tuple[tuple[str, str], ...],
    mode: str,
    gateway: Gateway,
    upstream: UpstreamControl,
    tmp_path: Path,
) -> None:
    question = f"Research the history of noodles, {uuid.uuid4().hex}"
    with relay(gateway, tmp_path, model) as url, RelayClient(url, timeout=60) as client:
        started = client.invoke({"research_question": question, "stream": mode == "stream"})
        view = client.wait(started.invocation_id, started.invocation_token)
        assert (view.status, view.error_code) == ("completed", None)
        assert view.output_text == REPORT
        if model.startswith("gemini/") and len(view.sources) > len(sources):
            sources = PAGES
        assert [page.url for page in view.sources] == [url for url, _ in sources]
        if mode == "foreground" or model.startswith("gemini/"):
            assert [page.title for page in view.sources] == [title for _, title in sources]
    (body,) = asked(upstream, model, question)
    assert body["tools"] == [tool]
    assert "high" in str(thinking(body))
    assert "background" not in body


def test_a_bridged_model_blocks_and_gets_one_request(
    gateway: Gateway, upstream: UpstreamControl, tmp_path: Path
) -> None:
    question = f"Research the history of noodles, {uuid.uuid4().hex}"
    with relay(gateway, tmp_path, "bridged") as url, RelayClient(url, timeout=60) as client:
        view = client.invoke({"research_question": question})
        assert (view.status, view.error_code) == ("completed", None)
    (body,) = asked(upstream, "bridged", question)
    assert "messages" in body
    assert "background" not in body
    assert "tools" not in body  # LiteLLM drops the search without a word on this route
