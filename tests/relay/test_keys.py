"""Rotation of the relay's key: two keys are accepted at a time."""

from __future__ import annotations

import re

import pytest

from litellm_openai_example.config import ConfigurationError, keys
from litellm_openai_example.http_library import httpx
from litellm_openai_example.relay.settings import make_settings

from ..fakes.gateway import KEY, Gateway
from ..fakes.scripted import eventually
from .conftest import StartRelay
from .running import Api, body

OLD, NEW = "sk-relay-old", "sk-relay-new"
ENV = {"LITELLM_BASE_URL": "http://127.0.0.1:4000", "LITELLM_API_KEY": KEY}


def posted(api: Api, key: str, **headers: str) -> httpx.Response:
    """Start a run. On a busy machine the disk may take longer than the relay lets a client wait."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers.append(api.post(body(background=True), Authorization=f"Bearer {key}", **headers))
        return "ledger_unavailable" not in answers[-1].text

    assert eventually(answered)
    return answers[-1]


def status(api: Api, key: str) -> int:
    return posted(api, key).status_code


def test_both_keys_open_the_relay_and_no_other(start_relay: StartRelay) -> None:
    api = start_relay(api_key=NEW, previous_api_key=OLD).api
    assert [status(api, key) for key in (NEW, OLD)] == [202, 202]
    for other in ("sk-relay", NEW + OLD, f"{NEW},{OLD}", "None"):
        assert status(api, other) == 401
    assert api.post(body(background=True)).status_code == 401
    for key in (NEW, OLD):
        assert api.call("GET", "/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_the_key_changes_without_a_refusal(start_relay: StartRelay) -> None:
    """A replica of each step, on one ledger: clients have the old key in the first two, the new one in the last two."""
    before, between, after = (
        start_relay(api_key=OLD).api,
        start_relay(api_key=NEW, previous_api_key=OLD).api,
        start_relay(api_key=NEW).api,
    )
    assert [status(api, OLD) for api in (before, between, after)] == [202, 202, 401]
    assert [status(api, NEW) for api in (before, between, after)] == [401, 202, 202]
    run = posted(before, OLD, Idempotency_Key="one").json()
    again = posted(after, NEW, Idempotency_Key="one").json()
    assert (again["invocation_id"], again["invocation_token"]) == (run["invocation_id"], run["invocation_token"])
    assert after.wait(run)["status"] == "completed"


def test_an_agent_finds_its_run_at_a_replica_that_knows_the_new_key(start_relay: StartRelay, upstream: Gateway) -> None:
    pytest.importorskip("mcp", reason="the extra [mcp] is not installed")
    upstream.seconds = 60.0
    found = set()
    for api in (start_relay(api_key=OLD).api, start_relay(api_key=NEW, previous_api_key=OLD).api):
        params = {"name": "deep_research", "arguments": {"research_question": "Why?"}}
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {OLD}"}
        found |= set(re.findall(r"inv_[0-9a-f]{32}", api.call("POST", "/mcp", json=call, headers=headers).text))
    assert len(found) == 1
    assert len(upstream.posts) <= 1


def test_settings() -> None:
    settings = make_settings(ENV | {"RELAY_API_KEY": f" {NEW} ", "RELAY_API_KEY_PREVIOUS": f"{OLD}\n"})
    assert settings.api_keys == [NEW, OLD]
    assert make_settings(ENV | {"RELAY_API_KEY": NEW, "RELAY_API_KEY_PREVIOUS": " "}).api_keys == [NEW]
    assert make_settings(ENV).api_keys == []
    assert OLD not in repr(settings)
    assert NEW not in repr(settings)
    # A new key that was forgotten must not leave a relay that everybody may use, or the old key alone.
    with pytest.raises(ConfigurationError, match="without RELAY_API_KEY"):
        make_settings(ENV | {"RELAY_API_KEY_PREVIOUS": OLD})
    with pytest.raises(ConfigurationError, match="RELAY_API_KEY_PREVIOUS") as caught:
        make_settings(ENV | {"RELAY_API_KEY": NEW, "RELAY_API_KEY_PREVIOUS": f"'{OLD}'"})
    assert OLD not in str(caught.value)


def test_the_previous_key_is_redacted_too() -> None:
    assert set(keys({"RELAY_API_KEY": NEW, "RELAY_API_KEY_PREVIOUS": OLD})) == {NEW, OLD}
