"""Callers: an agent finds only its own runs, with their payer, over every transport."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the extra [mcp] is not installed")

from mcp import Client

from ..fakes.gateway import Gateway
from ..fakes.scripted import eventually
from ..relay.conftest import StartRelay
from ..relay.running import ThreadedRelay
from .agents import KEY, agent, call, on_stdio, over_http, over_http_of_2025, tell

Known = Callable[..., AbstractAsyncContextManager[Client]]
TAGS, USER, SESSION = "x-litellm-tags", "x-litellm-end-user-id", "x-litellm-session-id"


@pytest.fixture
def relay(start_relay: StartRelay, upstream: Gateway) -> ThreadedRelay:
    upstream.seconds = 60.0
    return start_relay(api_key=KEY)


def started(reach: Known, relay: ThreadedRelay, meta: Any = None, question: str = "Why?", **who: str) -> str:
    """Start a run as a new agent and return its id."""
    ids: list[str] = []

    async def work(client: Client) -> None:
        ids.append((await call(client, "deep_research", meta, research_question=question))["id"])

    agent(partial(reach, **who), relay.api.base_url, work)
    return ids[0]


@pytest.mark.parametrize("meta", [None, {"idempotency_key": "1"}], ids=["arguments", "key"])
def test_users_on_stdio_get_only_their_own_runs(
    meta: Any, relay: ThreadedRelay, upstream: Gateway, tmp_path: Path
) -> None:
    ann = {"XDG_STATE_HOME": str(tmp_path / "ann")}
    bob = {"XDG_STATE_HOME": str(tmp_path / "bob")}
    hers = started(on_stdio, relay, meta, **ann)
    assert started(on_stdio, relay, meta, **bob) != hers
    assert started(on_stdio, relay, meta, **ann) == hers
    assert started(on_stdio, relay, meta, **ann, LITELLM_TAGS="another-purse") != hers
    assert eventually(lambda: len(upstream.posts) >= 3)
    assert len(upstream.posts) == 3
    secret = tmp_path / "ann" / "litellm-openai-example" / "agent-secret"
    assert secret.stat().st_mode & 0o777 == 0o600


HTTP = pytest.mark.parametrize("reach", [over_http, over_http_of_2025], ids=lambda way: way.__name__)
NAMED: list[dict[str, str]] = [
    {USER: "ann"},
    {SESSION: "s-1"},
    {TAGS: "team-a"},
    {USER: "ann", TAGS: "team-a", SESSION: "s-1"},
    {"X-Forwarded-For": "192.0.2.1"},
    {"Forwarded": "for=192.0.2.1"},
    {"X-Real-IP": "192.0.2.1"},
    {"Via": "1.1 proxy"},
    {"X-Forwarded-Host": "relay.example"},
    {"CF-Connecting-IP": "192.0.2.1"},
    {"X-Client-IP": "192.0.2.1"},
    {"Remote-User": "ann"},
    {"X-Auth-Request-Email": "ann@example.org"},
]


@HTTP
def test_the_holder_of_the_key_finds_the_run(reach: Known, relay: ThreadedRelay, upstream: Gateway) -> None:
    ids = {started(reach, relay) for _ in range(2)}
    assert len(ids) == 1
    assert started(reach, relay, question="Who?") not in ids
    assert eventually(lambda: len(upstream.posts) >= 2)
    assert len(upstream.posts) == 2


@pytest.mark.parametrize("who", NAMED, ids=str)
def test_an_unverified_name_finds_no_run(relay: ThreadedRelay, who: dict[str, str]) -> None:
    """The caller finds neither a run under the same name, nor one of a caller without a name."""
    hers = [started(over_http, relay), started(over_http, relay, **who)]
    assert started(over_http, relay, **who) not in hers


@HTTP
def test_an_idempotency_key_counts_over_http(reach: Known, relay: ThreadedRelay, upstream: Gateway) -> None:
    meta = {"idempotency_key": "2f1c"}
    payers: list[dict[str, str]] = [{}, {USER: "ann"}, {USER: "bob"}, {USER: "ann", TAGS: "team-a"}]
    ids = [started(reach, relay, meta, **who) for who in payers]
    assert len(set(ids)) == len(payers)
    moved = {"X-Forwarded-For": "192.0.2.9"}
    assert [started(reach, relay, meta, **who, **moved) for who in payers] == ids
    assert started(reach, relay, {"idempotency_key": "2f1d"}) not in ids
    assert eventually(lambda: len(upstream.posts) >= len(payers) + 1)
    assert len(upstream.posts) == len(payers) + 1


def test_the_key_of_an_agent_cannot_be_computed_from_the_ledger(start_relay: StartRelay, upstream: Gateway) -> None:
    """A run's token follows from its idempotency key, so that depends on the relay's key too."""
    upstream.seconds = 60.0
    ids = {started(over_http, start_relay(api_key=KEY)) for _ in range(2)}
    assert len(ids) == 1
    other = start_relay(api_key="sk-relay-another")
    answer = other.api.call(
        "POST",
        "/mcp",
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "deep_research", "arguments": {"research_question": "Why?"}},
        },
        headers={"Authorization": "Bearer sk-relay-another", "Accept": "application/json, text/event-stream"},
    )
    assert answer.status_code == 200
    assert "inv_" in answer.text
    assert not any(id in answer.text for id in ids)


@pytest.mark.parametrize("reach", [on_stdio, over_http, over_http_of_2025], ids=lambda way: way.__name__)
def test_the_gateway_gets_the_payer(
    reach: Known, relay: ThreadedRelay, upstream: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if reach is on_stdio:
        who, session = {"LITELLM_TAGS": "team-a,deep", "LITELLM_END_USER": "ann"}, ""
    else:
        monkeypatch.setenv("LITELLM_TAGS", "of-the-relay")  # does not apply to its clients
        who, session = {TAGS: "team-a,deep", USER: "ann", SESSION: "s-1"}, "s-1"
    id = started(reach, relay, **who)
    view = {"invocation_id": id.partition(".")[0], "invocation_token": id.partition(".")[2]}
    relay.api.submitted(view)
    (headers,) = upstream.post_headers
    assert (headers[TAGS], headers[USER], headers.get(SESSION, "")) == ("team-a,deep", "ann", session)


def test_no_payer_is_sent_by_default(relay: ThreadedRelay, upstream: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_TAGS", "of-the-relay")
    id = started(over_http, relay)
    relay.api.submitted({"invocation_id": id.partition(".")[0], "invocation_token": id.partition(".")[2]})
    assert TAGS not in upstream.post_headers[0]


def test_an_invalid_payer_is_refused(relay: ThreadedRelay) -> None:
    answer = relay.api.call(
        "POST",
        "/mcp",
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        headers={"Authorization": f"Bearer {KEY}", "Accept": "application/json, text/event-stream", USER: "a b"},
    )
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["where"] == USER


def test_an_unusable_state_directory(relay: ThreadedRelay, tmp_path: Path) -> None:
    """A repeat within the same process is free, and no caller finds another's run."""
    (tmp_path / "file").write_text("")
    who = {"XDG_STATE_HOME": str(tmp_path / "file")}
    ids: list[str] = []

    async def work(client: Client) -> None:
        for _ in range(2):
            ids.append((await call(client, "deep_research", research_question="Why?"))["id"])
        assert not (await tell(client, "research_status", id=ids[0]))[0]

    for _ in range(2):
        agent(partial(on_stdio, **who), relay.api.base_url, work)
    assert ids[0] == ids[1] != ids[2] == ids[3]
