"""What the relay asks a provider for, behind the real LiteLLM proxy: each model gets what it needs to search."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from litellm_openai_example import RelayClient

from ..fakes.upstream import UpstreamControl
from .conftest import Gateway
from .test_tools_real import Relay

Json = dict[str, Any]


@contextmanager
def relay(gateway: Gateway, folder: Path, model: str | None) -> Iterator[str]:
    """A relay with this model; None for its default."""
    running = Relay(gateway, folder, model or "gpt-6.1-sol")
    try:
        yield running.url
    finally:
        running.stop()


def asked(upstream: UpstreamControl, model: str, question: str) -> list[Json]:
    """The bodies of the creates for a question, as the provider got them."""
    found = [one.body for one in upstream.requests(model) if one.method == "POST"]
    return [body for body in found if body is not None and question in str(body)]


@pytest.mark.parametrize(
    ("model", "request_fields", "tools", "effort"),
    [
        ("gpt-6.1-sol", None, ["web_search"], ["high"]),
        ("o3-deep-research", None, ["web_search_preview"], [None]),
        ("gpt-4o-mini", None, ["web_search"], [None]),
        # Refused with a 400, which was not executed, and asked once more without what was refused.
        (
            "gpt-6.1-sol",
            '{"tools": [{"type": "web_search_preview"}]}',
            ["web_search_preview", "web_search"],
            ["high"] * 2,
        ),
        ("gpt-4o", '{"reasoning": {"effort": "high"}}', ["web_search"], [None]),  # LiteLLM drops it itself
    ],
    ids=["default", "deep-research", "plain", "refused tool", "effort that the gateway drops"],
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


def test_a_bridged_model_blocks_and_is_asked_once(gateway: Gateway, upstream: UpstreamControl, tmp_path: Path) -> None:
    question = f"Research the history of noodles, {uuid.uuid4().hex}"
    with relay(gateway, tmp_path, "bridged") as url, RelayClient(url, timeout=60) as client:
        view = client.invoke({"research_question": question})
        assert (view.status, view.error_code) == ("completed", None)
    (body,) = asked(upstream, "bridged", question)
    assert "messages" in body
    assert "background" not in body
    assert "tools" not in body  # LiteLLM drops the search without a word on this route
