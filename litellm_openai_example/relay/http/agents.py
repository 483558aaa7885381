"""`/mcp`: the relay's tool for agents (streamable HTTP). It is there where the extra `[mcp]` is installed.

The tools reach the relay by its own API, within this process: what holds for every other client holds for agents. No
session is kept, so an agent goes on after a restart of the relay, and any replica answers any request.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import httpx2
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...config import is_loopback
from ...payer import Payer
from ...research.relay_client import AsyncRelayClient
from ..relay import Relay
from .access import may_pay, relay_of
from .body import Problem, read_body
from .payers import payer_of

_ADDRESS = "http://127.0.0.1"  # nothing connects to it: the application is called itself

agents = APIRouter(include_in_schema=False)


class AgentServer:
    """The MCP server of one relay, made when the first agent comes: the SDK takes a second to import.

    Args:
        app: the relay's application.
        relay: its relay. Whoever comes here has shown its key.
    """

    def __init__(self, app: ASGIApp, relay: Relay) -> None:
        self._app = app
        self._relay = relay
        self._lock = asyncio.Lock()
        self._face: ASGIApp | None = None
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._lock:
            if self._face is None or self._running is None or self._running.done():
                self._face = await self._start()
        await self._face(scope, receive, send)

    def _connect(self, request: Request) -> AsyncRelayClient:
        key, payer = self._relay.settings.api_key or "", Payer.of(request.headers)
        return AsyncRelayClient(_ADDRESS, key, payer=payer, transport=httpx2.ASGITransport(self._app))

    def _caller(self, request: Request) -> str:
        """Who asks, as far as can be known: the end user that is named, else where the request comes from.

        The key is no help, a team shares it. With the ledger's secret, so that nobody can make up what comes of it.
        """
        host = request.client.host if request.client else ""
        forwarded = ", ".join(request.headers.getlist("x-forwarded-for"))
        place = f"{'' if is_loopback(host) else host}\n{forwarded}"
        return self._relay.ledger.token(f"agent\n{Payer.of(request.headers).end_user or place}")

    async def _start(self) -> ASGIApp:
        server = await asyncio.to_thread(self._make_server)
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

    def _make_server(self) -> Any:
        from ...mcp.server import create_server

        return create_server(self._connect, self._caller)


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


async def no_page_of_another(request: Request) -> None:
    """Raises Problem for a browser with a page of another place, as the protocol demands. Agents send no Origin."""
    own = request.url.hostname
    for origin in request.headers.getlist("origin"):
        try:
            host = urlsplit(origin).hostname or ""
        except ValueError:
            host = ""
        if host != own and not is_loopback(host):
            raise Problem("forbidden", "A page of another origin may not speak to the relay.")


@agents.post("/mcp", dependencies=[Depends(no_page_of_another), Depends(may_pay)])
async def agent(request: Request) -> Response:
    """One message of an agent. There is no GET: nothing is told unasked."""
    payer_of(request)  # refused here, and not in the answer of a tool
    return _Exchange(request.app.state.agent_server, await read_body(request, relay_of(request).settings.timings.body))


def mount_agents(app: FastAPI, served: ASGIApp) -> None:
    """Give `app` the route, if the SDK is installed.

    Args:
        served: the whole application, which the tools call.
    """
    if find_spec("mcp") is not None:
        app.state.agent_server = AgentServer(served, app.state.relay)
        app.include_router(agents)
