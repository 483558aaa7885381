"""Agents for tests: the MCP SDK's client, on stdio and over HTTP. Needs the extra `[mcp]`."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from litellm_openai_example.http_library import httpx

from ..fakes.gateway import Json

KEY = "sk-relay"
Reach = Callable[[str], AbstractAsyncContextManager[Client]]
Work = Callable[[Client], Awaitable[None]]


@asynccontextmanager
async def on_stdio(url: str, **env: str) -> AsyncIterator[Client]:
    """Connect an agent that starts the server on stdio."""
    env = {"RELAY_BASE_URL": url, "RELAY_API_KEY": KEY, **env}
    server = StdioServerParameters(command=sys.executable, args=["-m", "litellm_openai_example.mcp"], env=env)
    async with Client(stdio_client(server)) as client:
        yield client


@asynccontextmanager
async def over_http(url: str, mode: str = "auto", **headers: str) -> AsyncIterator[Client]:
    """Connect an agent to the relay's `/mcp`."""
    sent = {"Authorization": f"Bearer {KEY}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        httpx.AsyncClient(headers=sent, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@asynccontextmanager
async def over_http_of_2025(url: str, **headers: str) -> AsyncIterator[Client]:
    """Connect with the previous protocol version, which most agents use."""
    async with over_http(url, "legacy", **headers) as client:
        yield client


def agent(reach: Reach, url: str, work: Work) -> None:
    """Run `work` with a connected agent."""

    async def main() -> None:
        async with reach(url) as client:
            await work(client)

    anyio.run(main)


async def tell(client: Client, tool: str, meta: Any = None, progress: Any = None, **arguments: Any) -> tuple[bool, str]:
    """Make a call; return True if it failed, and its text."""
    answer = await client.call_tool(tool, arguments, meta=meta, progress_callback=progress)
    return bool(answer.is_error), getattr(answer.content[0], "text", "")


async def call(client: Client, tool: str, meta: Any = None, progress: Any = None, **arguments: Any) -> Json:
    """Return the result of a successful call."""
    is_error, text = await tell(client, tool, meta, progress, **arguments)
    assert not is_error, text
    told: Json = json.loads(text)
    return told
