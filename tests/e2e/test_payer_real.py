"""Billing identity in the log of the real LiteLLM proxy: tags, end user and session of every call, each cost once."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from litellm_openai_example import LiteLLMClient

from ..conftest import RunCommand
from ..fakes.scripted import eventually
from .running import QUESTION, Gateway, Relay, submit

Logged = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def end_user(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> str:
    """A separate end user for each test."""
    name = f"user-{uuid.uuid4().hex}"
    monkeypatch.setenv("LITELLM_BASE_URL", gateway.base_url)
    monkeypatch.setenv("LITELLM_API_KEY", gateway.api_key)
    monkeypatch.setenv("LITELLM_END_USER", name)
    return name


def tags_of(call: dict[str, Any]) -> set[str]:
    """Return the tags without those that LiteLLM adds."""
    return {tag for tag in call["request_tags"] if not tag.startswith("User-Agent")}


def test_a_call(end_user: str, command: RunCommand, logged: Logged) -> None:
    assert command("--tag", "team-a", "--tag", "project:7", "hello").code == 0
    assert eventually(lambda: logged(end_user))
    (call,) = logged(end_user)
    assert tags_of(call) == {"team-a", "project:7"}


def test_a_background_response_is_billed_by_its_retrieve(end_user: str, command: RunCommand, logged: Logged) -> None:
    response_id = submit(command, "--tag", "team-a", "hello")
    assert command("--retrieve", response_id, "--wait").code == 0
    assert eventually(lambda: any(call["response_cost"] for call in logged(end_user)))
    assert [tags_of(call) for call in logged(end_user)] == [{"team-a"}] * len(logged(end_user))
    assert sum(bool(call["response_cost"]) for call in logged(end_user)) == 1


def test_an_automatic_conversation(end_user: str, relay: Relay, logged: Logged) -> None:
    with LiteLLMClient(timeout=60, tags=["team-a"]) as client:
        result = client.create_response_with_tool_calling(QUESTION, relay.url)
    assert result.tool_called
    assert eventually(lambda: sum(bool(call["response_cost"]) for call in logged(end_user)) >= 3)
    calls = logged(end_user)
    sessions = {call["trace_id"] for call in calls}  # what LiteLLM keeps in the column session_id of its spend logs
    assert sessions == {result.session_id}
    assert all(tags_of(call) == {"team-a"} for call in calls)
    billed = sorted(call["call_type"] for call in calls if call["response_cost"])
    assert billed == ["aget_responses", "aresponses", "aresponses"], calls  # the research run's, and two turns
