"""The MCP face by the SDK's own client: on stdio against a real relay, and what an agent is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

pytest.importorskip("mcp", reason="the extra [mcp] is not installed")

from mcp import Client, StdioServerParameters

from ..fakes.gateway import Gateway, message
from .running import ThreadedRelay

NOTE = {"type": "url_citation", "url": "https://a.example/1", "title": "One"}


def agent(url: str, work: Callable[[Client], Awaitable[None]]) -> None:
    """One agent with its own process of the server, ended afterwards."""
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "litellm_openai_example.mcp"], env={"RELAY_BASE_URL": url}
    )

    async def main() -> None:
        async with Client(server) as client:
            await work(client)

    anyio.run(main)


async def call(client: Client, tool: str, meta: Any = None, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments, meta=meta)
    text = getattr(answer.content[0], "text", "")
    assert not answer.is_error, text
    told: dict[str, Any] = json.loads(text)
    return told


def test_a_run_is_had_again_by_an_agent_that_was_restarted(relay: ThreadedRelay, upstream: Gateway) -> None:
    upstream.seconds = 1.0
    upstream.final = lambda request: message("The report. " * 500)
    ids: list[str] = []

    async def start(client: Client) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools} == {
            "deep_research",
            "research_status",
            "research_cancel",
        }
        for _ in range(2):
            told = await call(client, "deep_research", {"idempotency_key": "k 1"}, research_question="Why?")
            ids.append(told["id"])
            assert told["ask_again_in_seconds"] > 0

    async def read(client: Client) -> None:
        told = await call(client, "research_status", id=ids[0], wait_seconds=30)
        assert told["status"] == "completed"
        assert len(json.dumps(told)) < 1024
        told = await call(client, "research_status", id=ids[0], include_report=True)
        assert told["report"].startswith("The report. ")
        assert told["sources"] == []

    agent(relay.api.base_url, start)
    agent(relay.api.base_url, read)
    assert ids[0] == ids[1]
    assert len(upstream.posts) == 1


def test_a_run_is_cancelled(relay: ThreadedRelay, upstream: Gateway) -> None:
    upstream.seconds = 60.0

    async def work(client: Client) -> None:
        started = await call(client, "deep_research", research_question="Why?", context=["a"], constraints=["b"])
        assert (await call(client, "research_cancel", id=started["id"]))["status"] == "cancelled"

    agent(relay.api.base_url, work)


@pytest.mark.parametrize(
    ("id", "said"),
    [("inv_1", "pass the whole id"), ("inv_1.wrong", "RELAY_INVOCATION_TOKEN"), ("", "pass the whole id")],
)
def test_an_agent_is_told_what_to_do(id: str, said: str, relay: ThreadedRelay) -> None:
    async def work(client: Client) -> None:
        answer = await client.call_tool("research_status", {"id": id})
        assert answer.is_error
        assert said in getattr(answer.content[0], "text", "")

    agent(relay.api.base_url, work)
