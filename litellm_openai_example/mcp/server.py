"""The relay's tools for agents: an MCP server for any transport.

An agent gets one id, `inv_....TOKEN`, which reads and cancels the run, even after a restart of the agent or the relay.
Agents repeat calls after a timeout or a restart, and few of them send an idempotency key. So the same arguments find
the run that they started, unless the agent requests a new one. They find only the caller's own run (see `Caller`):
other callers with the same question may neither read nor cancel it.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations
from pydantic import Field, WithJsonSchema

from ..config import ConfigurationError
from ..errors import INTERNAL_ERROR, GatewayError
from ..json_object import JsonObject
from ..payer import Payer
from ..research.arguments import (
    DeepResearchArguments,
    ToolArguments,
    argument_schema,
    check_arguments,
    unknown_name,
)
from ..research.contract import Invocation, with_token
from ..research.relay_answers import RelayError, ResearchRunningError, ResearchUnconfirmedError
from ..research.relay_client import AsyncRelayClient
from ..state import kept_secret, state_dir
from ..window import FULL_PRICE, LONGEST_PAUSE

T = TypeVar("T")

_POLL_AGAIN = 20  # seconds; a run takes minutes
_PROGRESS = 5.0  # seconds between two progress notifications
_LONGEST_MESSAGE = 300
_NOT_OFFERED = {"require_citations"}  # an agent's report always names its sources
_CALLERS = ("window",)  # arguments that an agent may set, but no model that calls the function
_META_KEYS = ("idempotency_key", "idempotencyKey", "io.modelcontextprotocol/idempotency-key")
_WHOLE_ID = "pass the whole id that deep_research returned, inv_....TOKEN"
_ID = re.compile(r"([\w-]{1,200})\.([!-~]{1,500})", re.ASCII)

# What an agent can do after a refusal, by the relay's error code.
_WAYS_OUT = {
    "forbidden": f"the relay has no run of this id and token: {_WHOLE_ID}",
    "not_found": "this run was deleted because it ended long ago: deep_research starts and pays for a new one",
    "idempotency_conflict": "this idempotency key was used with other arguments: repeat those arguments, or send "
    "another key",
    "unauthorized": "the relay does not accept the key of this MCP server: tell the user to set RELAY_API_KEY for it",
    "body_too_large": "question, context and constraints are more than 1 MiB together: shorten them",
    "shutting_down": "the relay is stopping or restarting: repeat the call in a minute",
    "ledger_unavailable": "the relay's database is unavailable: repeat the call in a minute",
    "queue_full": "the relay's queue is full and nothing was started: repeat the call in a minute",
}
_AFTER_FAILURE = "tell the user why; deep_research with new_run=true starts and pays for a new run"
_NEXT = {
    "completed": "research_status with include_report=true gives the report and its sources",
    "incomplete": f"include_report=true gives the part that exists; {_AFTER_FAILURE}",
    "failed": _AFTER_FAILURE,
    "cancelled": "deep_research with new_run=true starts and pays for a new run",
}


@dataclass(frozen=True)
class Caller:
    """The verified identity of a tool's caller, stable across restarts.

    Attributes:
        name: idempotency keys find runs of the same name.
        place: arguments find runs of the same name and place; None if several callers may share both.
    """

    name: str
    place: str | None = ""


# Both take the transport's request, None on stdio.
Connect = Callable[[Any], AbstractAsyncContextManager[AsyncRelayClient]]
Identify = Callable[[Any], Caller]
RunId = Annotated[str, Field(description="The whole id that deep_research returned: inv_....TOKEN")]


class _StrictServer(MCPServer[object]):
    """A server whose tools treat null as absent, and refuse unknown arguments.

    The SDK drops unknown arguments: a run with a misspelt constraint would be paid for without it.
    """

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[object, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        arguments = {name: value for name, value in arguments.items() if value is not None}
        # The schema that agents see is the one place that knows the names.
        tool = next((tool for tool in await self.list_tools() if tool.name == name), None)
        if tool is not None:
            known = list(tool.input_schema["properties"])
            unknown = [unknown_name(one, known) for one in arguments if one not in known]
            if unknown:
                raise ToolError(f"nothing was done: an argument {unknown[0]}")
        return await super().call_tool(name, arguments, context)


def create_server(connect: Connect, identify: Identify) -> MCPServer[object]:
    """Return the server with its three tools.

    Args:
        connect: opens a client of the relay for one call. May raise ToolError.
        identify: returns the caller of a request.
    """
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # the SDK logs what clients send
    server = _StrictServer(
        "litellm-relay",
        instructions="deep_research starts a run and returns its id at once. Keep the id: research_status returns the "
        "status of the run, and its report and sources once it has ended, even after you restart.",
        log_level="WARNING",
        subscriptions=False,  # tools and resources never change
    )

    async def deep_research(
        ctx: Context[object, object],
        *,
        new_run: Annotated[
            bool, Field(description="Start and pay for a new run even if one was started with these arguments.")
        ] = False,
        **given: object,
    ) -> JsonObject:
        """Start a research run over many sources. It takes minutes and costs money. Returns at once: id, status, and
        when to poll. Keep the id. The same arguments return the existing run without paying for another, if it is
        certainly yours."""
        callers = {name: given.pop(name) for name in _CALLERS if given.get(name) is not None}
        try:
            checked = check_arguments(given)
        except ValueError as error:
            raise ToolError(str(error)) from None
        # Always in the background: an agent gives up on a call long before a run ends.
        arguments: JsonObject = (
            checked.model_dump(exclude=_NOT_OFFERED, exclude_none=True) | callers | {"background": True}
        )
        request = ctx.request_context.request
        async with connect(request) as relay:
            key = _key(ctx, identify(request), relay.payer, None if new_run else arguments)
            accepted = await relayed(relay.invoke(arguments, idempotency_key=key))
        facts = _slim(accepted, accepted.invocation_token)
        # Only here, as an agent pays for each byte of every poll.
        return facts if accepted.url is None else {**facts, "url": with_token(accepted.url, accepted.invocation_token)}

    _takes_arguments(deep_research)
    annotations = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
    server.add_tool(deep_research, annotations=annotations)

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=True))
    async def research_status(
        id: RunId,
        ctx: Context[object, object],
        include_report: Annotated[bool, Field(description="Include the report and its sources.")] = False,
        wait_seconds: Annotated[int, Field(ge=0, le=50, description="Wait this long for the end of the run.")] = 0,
    ) -> JsonObject:
        """Get the status, seconds and cost of a research run; its report and sources only with include_report."""
        invocation_id, token = _split(id)
        async with connect(ctx.request_context.request) as relay:
            until = time.monotonic() + wait_seconds
            view: Invocation = await relayed(relay.get(invocation_id, token))
            # Short waits, because a client may give up on a call without progress.
            while not view.finished and (left := until - time.monotonic()) > 0:
                await ctx.report_progress(wait_seconds - left, wait_seconds, f"research {view.status}")
                seconds = min(_PROGRESS, left)
                try:
                    view = await relayed(relay.wait(invocation_id, token, timeout=seconds))
                except ResearchRunningError:  # or the relay is briefly away, which may fail at once
                    await asyncio.sleep(max(0.0, until - left + seconds - time.monotonic()))
        facts = _slim(view, token)
        if include_report:
            facts["report"] = view.output_text
            facts["sources"] = [page.model_dump() for page in view.sources]
        return facts

    @server.tool(annotations=ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True))
    async def research_cancel(id: RunId, ctx: Context[object, object]) -> JsonObject:
        """Stop a research run. Its cost until then is spent."""
        invocation_id, token = _split(id)
        async with connect(ctx.request_context.request) as relay:
            return _slim(await relayed(relay.cancel(invocation_id, token)), token)

    return server


def agent_secret(warn: Callable[[str], None]) -> str:
    """Return this user's secret, which identifies runs together with their arguments.

    It is in no ledger, because a run's token follows from its idempotency key. If it cannot be stored, `warn` gets a
    line, and the secret holds until the end of the process.
    """
    try:
        return kept_secret(state_dir() / "agent-secret")
    except (ConfigurationError, OSError, ValueError):
        warn("the state directory is unusable: after a restart, a repeated call of an agent pays again")
        return secrets.token_urlsafe(32)


def _takes_arguments(start: Callable[..., object]) -> None:
    """Replace a function's last parameter, `**given`, with the tool's arguments: the SDK derives the tool's schema from
    the signature."""
    own = inspect.signature(start, eval_str=True)
    *first, new_run, _ = own.parameters.values()
    offered = [_parameter(name) for name in (*ToolArguments.model_fields, *_CALLERS) if name not in _NOT_OFFERED]
    start.__signature__ = own.replace(parameters=[*first, *offered, new_run])  # type: ignore[attr-defined]


def _parameter(name: str) -> inspect.Parameter:
    """Return an argument of the tool, with the schema that models get; null if it is absent."""
    argument = DeepResearchArguments.model_fields[name]
    kind: Any = argument.annotation
    default: Any = inspect.Parameter.empty
    # A factory, because a plain default of None would be part of the schema that models get.
    if not argument.is_required():
        kind, default = (
            kind | None,
            Field(default_factory=lambda: None),
        )
    schema = WithJsonSchema(argument_schema(name))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, schema])


def _slim(view: Invocation, token: str) -> JsonObject:
    """Return a view in a few hundred bytes: an agent pays for each of them with every poll."""
    end = view.updated_at if view.finished else datetime.now(UTC)
    facts = {
        "id": f"{view.invocation_id}.{token}",
        "status": view.status,
        "seconds": max(0, round((end - view.created_at).total_seconds())),
        "cost_usd": view.cost_usd,
        "cost_note": FULL_PRICE if view.window and view.cost_usd is not None else None,
        "window": view.window,
        "may_take_until": view.may_take_until and view.may_take_until.isoformat(timespec="minutes"),
        "error_code": view.error_code,
        "error_message": view.error_message and view.error_message[:_LONGEST_MESSAGE],
        "ask_again_in_seconds": None if view.finished else round(LONGEST_PAUSE) if view.window else _POLL_AGAIN,
        "next": _NEXT.get(view.status, "research_status, with wait_seconds or later; the run goes on without you"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _split(id: str) -> tuple[str, str]:
    parts = _ID.fullmatch(id.strip())
    if parts is None:
        raise ToolError(f"this is not the id of a research run: {_WHOLE_ID}")
    return parts[1], parts[2]


def _key(ctx: Context[object, object], caller: Caller, payer: Payer, arguments: JsonObject | None) -> str | None:
    """Return the idempotency key of a start, hashed to fit a header: the client's own, otherwise one of `arguments`;
    None without both."""
    meta: Any = ctx.request_context.meta or {}
    given = next((meta[name] for name in _META_KEYS if isinstance(meta.get(name), str) and meta[name]), None)
    # The names are part of every stored key: another text would not find the runs of earlier releases.
    if given is not None:
        name = f"mcp key\n{json.dumps([caller.name, payer.headers])}\n{given}"
    elif arguments is not None and caller.place is not None:
        whose = json.dumps([caller.name + caller.place, payer.headers])
        name = f"mcp arguments\n{whose}\n{json.dumps(arguments, sort_keys=True)}"
    else:
        return None
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()


async def relayed(answer: Awaitable[T]) -> T:
    """Return the relay's answer. Raises ToolError with advice for the agent, or ResearchRunningError."""
    try:
        return await answer
    except ResearchRunningError:
        raise
    except (RelayError, ResearchUnconfirmedError) as error:
        raise ToolError(_WAYS_OUT.get(error.code or "", str(error))) from None
    except (GatewayError, ValueError) as error:
        raise ToolError(f"the relay cannot be reached: {error}") from None
    except Exception as error:  # its text may hold anything
        raise ToolError(f"the MCP server {INTERNAL_ERROR} ({type(error).__name__}): tell the user") from None
