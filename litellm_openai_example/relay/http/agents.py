"""`/mcp`: the relay's tool for agents (streamable HTTP). It is there where the extra `[mcp]` is installed.

The tools reach the relay by its own API, within this process: what holds for every other client holds for agents. No
session is kept, so an agent goes on after a restart of the relay, and any replica answers any request.
"""

from __future__ import annotations

import asyncio
import logging
from importlib.util import find_spec
from typing import Any

import httpx2
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...research.relay_client import AsyncRelayClient
from .access import TheRelay, may_pay
from .body import read_body

_ADDRESS = "http://127.0.0.1"  # nothing connects to it: the application is called itself

agents = APIRouter(include_in_schema=False)


class AgentServer:
    """The MCP server of one relay, made when the first agent comes: the SDK takes a second to import.

    Args:
        app: the relay's application.
        key: what the relay wants of those who start a run. Whoever comes here has shown it.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = key or ""
        self._lock = asyncio.Lock()
        self._face: ASGIApp | None = None
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._lock:
            if self._face is None or self._running is None or self._running.done():
                self._face = await self._start()
        await self._face(scope, receive, send)

    def _connect(self) -> AsyncRelayClient:
        return AsyncRelayClient(_ADDRESS, self._key, transport=httpx2.ASGITransport(self._app))

    async def _start(self) -> ASGIApp:
        server = await asyncio.to_thread(_make_server, self._connect)
        from mcp.server.transport_security import TransportSecuritySettings

        # Its own check of the Host header stays off: `Guard` has one that knows where the relay listens.
        unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        face: ASGIApp = server.streamable_http_app(stateless_http=True, transport_security=unchecked)
        started = asyncio.Event()

        async def run() -> None:
            async with server.session_manager.run():
                started.set()
                await asyncio.Event().wait()  # until the process ends

        self._running = asyncio.create_task(run())
        await started.wait()
        return face


def _make_server(connect: Any) -> Any:
    from ...mcp.server import create_server

    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # it repeats what clients send
    return create_server(connect)


class _Exchange(Response):
    """The answer of the MCP server to a request whose body is there already."""

    def __init__(self, server: AgentServer, body: bytes) -> None:
        super().__init__()
        self._server = server
        self._request = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        first: list[Message] = [{"type": "http.request", "body": self._request, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        await self._server({**scope, "root_path": ""}, replay, send)


@agents.post("/mcp", dependencies=[Depends(may_pay)])
async def agent(request: Request, relay: TheRelay) -> Response:
    """One message of an agent. There is no GET: nothing is told unasked."""
    return _Exchange(request.app.state.agent_server, await read_body(request, relay.settings.timings.body))


def mount_agents(app: FastAPI, served: ASGIApp) -> None:
    """Give `app` the route, if the SDK is installed.

    Args:
        served: the whole application, which the tools call.
    """
    if find_spec("mcp") is not None:
        app.state.agent_server = AgentServer(served, app.state.relay.settings.api_key)
        app.include_router(agents)
