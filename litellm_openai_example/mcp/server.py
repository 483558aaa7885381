"""The relay's tool for agents: one MCP server, whatever the transport.

An agent gets one id, `inv_....TOKEN`: it reads and cancels the run, after the agent or the relay was restarted too.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from ..errors import GatewayError
from ..research.contract import DeliverableFormat, Invocation
from ..research.relay_client import AsyncRelayClient

_ASK_AGAIN = 20  # seconds; a run takes minutes
_LOOK = 5.0  # seconds between two progress notifications
_META_KEYS = ("idempotency_key", "idempotencyKey", "io.modelcontextprotocol/idempotency-key")

Connect = Callable[[], AbstractAsyncContextManager[AsyncRelayClient]]
RunId = Annotated[str, Field(description="The id that deep_research returned, whole: inv_....TOKEN")]


def create_server(connect: Connect = AsyncRelayClient) -> MCPServer[Any]:
    """The server with its three tools.

    Args:
        connect: gives a helper that talks to the relay; it is closed after each call.
    """
    server: MCPServer[Any] = MCPServer(
        "litellm-relay",
        instructions="deep_research starts a run and returns its id at once; ask research_status until it has ended.",
    )

    @server.tool()
    async def deep_research(
        research_question: Annotated[str, Field(description="The question, complete in itself.")],
        ctx: Context[Any, Any],
        deliverable_format: DeliverableFormat = "markdown_brief",
        context: list[str] | None = None,
        constraints: list[str] | None = None,
    ) -> dict[str, Any]:
        """Start a research run over many sources. It takes minutes and costs money; returns at once with its id."""
        arguments: dict[str, Any] = {
            "research_question": research_question,
            "deliverable_format": deliverable_format,
            "context": context or [],
            "constraints": constraints or [],
            "background": True,
        }
        async with connect() as relay:
            accepted = await _told(relay.invoke(arguments, idempotency_key=_key(ctx)))
        return {**_slim(accepted, accepted.invocation_token), "ask_again_in_seconds": _ASK_AGAIN}

    @server.tool()
    async def research_status(
        id: RunId,
        ctx: Context[Any, Any],
        include_report: Annotated[bool, Field(description="With the report and its sources.")] = False,
        wait_seconds: Annotated[int, Field(ge=0, le=50, description="Wait this long for the end.")] = 0,
    ) -> dict[str, Any]:
        """How a research run stands; its report and sources when asked for."""
        invocation_id, token = _split(id)
        async with connect() as relay:
            view = await _told(relay.get(invocation_id, token))
            until = time.monotonic() + wait_seconds
            while not view.finished and (left := until - time.monotonic()) > 0:
                await ctx.report_progress(wait_seconds - left, wait_seconds, f"research {view.status}")
                await anyio.sleep(min(_LOOK, left, 1.0 + wait_seconds / 20))
                view = await _told(relay.get(invocation_id, token))
        told = _slim(view, token)
        if not view.finished:
            told["ask_again_in_seconds"] = _ASK_AGAIN
        if include_report:
            told["report"] = view.output_text
            told["sources"] = [page.model_dump() for page in view.sources]
        return told

    @server.tool()
    async def research_cancel(id: RunId) -> dict[str, Any]:
        """Stop a research run. What was spent until then is spent."""
        invocation_id, token = _split(id)
        async with connect() as relay:
            return _slim(await _told(relay.cancel(invocation_id, token)), token)

    return server


def _slim(view: Invocation, token: str) -> dict[str, Any]:
    end = view.updated_at if view.finished else datetime.now(UTC)
    facts = {
        "id": f"{view.invocation_id}.{token}",
        "status": view.status,
        "seconds": max(0, round((end - view.created_at).total_seconds())),
        "cost_usd": view.cost_usd,
        "error_code": view.error_code,
        "error_message": view.error_message and view.error_message[:300],
    }
    return {name: value for name, value in facts.items() if value is not None}


def _split(id: str) -> tuple[str, str]:
    invocation_id, dot, token = id.strip().partition(".")
    if not (invocation_id and dot and token):
        raise ToolError("this is not an id of a research run: pass the whole id that deep_research returned")
    return invocation_id, token


def _key(ctx: Context[Any, Any]) -> str | None:
    """The idempotency key that the client sent with its request, in a form that a header holds."""
    meta: Any = ctx.request_context.meta or {}
    given = next((meta[name] for name in _META_KEYS if isinstance(meta.get(name), str) and meta[name]), None)
    return None if given is None else hashlib.sha256(f"mcp\n{given}".encode("utf-8", "replace")).hexdigest()


async def _told(answer: Any) -> Any:
    """What the relay answers. Raises ToolError with words by which an agent can act."""
    try:
        return await answer
    except GatewayError as error:
        raise ToolError(str(error)) from None
    except ValueError as error:
        raise ToolError(f"the relay cannot be asked: {error}") from None


def main() -> None:
    """`litellm-relay-mcp`: the server on stdio, for the relay at RELAY_BASE_URL."""
    create_server().run("stdio")
