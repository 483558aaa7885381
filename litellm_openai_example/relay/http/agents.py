"""`/mcp`: the relay's tools for agents (streamable HTTP), if the extra `[mcp]` is installed.

The tools call the relay's own API, within this process: the rules for all other clients hold for agents too. There are
no sessions, so an agent carries on after a restart of the relay, and any replica answers any request.
"""

from __future__ import annotations

import asyncio
import json
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...config import is_loopback
from ...http_library import httpx
from ...payer import Payer
from ...research.relay_client import AsyncRelayClient
from ..log import log
from ..service import Relay
from .access import payer_of, relay_of, require_key
from .body import read_body
from .responses import Problem

if TYPE_CHECKING:
    from ...mcp.server import Caller

# Headers in which proxies, load balancers and sign-ins name the client that they serve.
_FORWARDED = re.compile(
    r"via|forwarded|(x-)?(remote|forwarded|auth-request|envoy|goog-authenticated|amzn-oidc|ms-client-principal)(-.*)?"
    r"|(x-|cf-|true-|fly-|fastly-|x-cluster-|x-original-|x-azure-)*(real-ip|client-?ip|connecting-ip|forwarded-for)"
)
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
_ADDRESS = "http://127.0.0.1"  # no connection is made: the application is called directly

agents = APIRouter(include_in_schema=False)


class AgentServer:
    """The MCP server of one relay, created for the first agent: the SDK takes a second to import.

    Args:
        app: the relay's application.
        relay: its relay, whose key a caller has already shown.
        streams: answer with an event stream, which carries progress; otherwise with JSON.
    """

    def __init__(self, app: ASGIApp, relay: Relay, *, streams: bool) -> None:
        self._app = app
        self._relay = relay
        self._streams = streams
        self._lock = asyncio.Lock()
        self._server_app: ASGIApp | None = None
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._lock:  # one start, however many agents come first
            if self._server_app is None or self._running is None or self._running.done():
                self._server_app = await self._start()
        await self._server_app(scope, receive, send)

    def _connect(self, request: Request) -> AsyncRelayClient:
        key, payer = self._relay.settings.api_key or "", Payer.of(request.headers)
        return AsyncRelayClient(_ADDRESS, key, payer=payer, transport=httpx.ASGITransport(self._app))

    def _identify(self, request: Request) -> Caller:
        """Return the caller by its key, and by its address for calls without an idempotency key.

        A client with the relay's key may name any end user, and any address as forwarded by a proxy. A request that
        names one shows that several share this key, so its arguments do not identify the run's owner.
        """
        from ...mcp.server import Caller

        # Without a key or a proxy in front, only the address distinguishes callers; all local ones count as one user.
        several = Payer.of(request.headers).headers or any(_FORWARDED.fullmatch(name) for name in request.headers)
        host = request.client.host if request.client else ""
        place = "" if is_loopback(host) else f"\n{host}"
        return Caller(f"agent\n{self._secret}", None if several else place)

    async def _start(self) -> ASGIApp:
        server = await asyncio.to_thread(self._make_server)
        from mcp.server.transport_security import TransportSecuritySettings

        # The SDK's check of the Host header is off: `Guard` checks it, and knows where the relay listens.
        unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        app: ASGIApp = server.streamable_http_app(
            stateless_http=True, json_response=not self._streams, transport_security=unchecked
        )
        started = asyncio.Event()

        async def run() -> None:
            async with server.session_manager.run():
                started.set()
                await asyncio.Event().wait()  # until the process ends

        self._running = asyncio.create_task(run())
        await started.wait()
        return app

    def _make_server(self) -> Any:
        from ...mcp.server import agent_secret, create_server

        # Runs are found by a key made from this secret and the arguments, which are in the ledger. While the key of
        # the relay changes, replicas that accept both keys find the runs of those that accept the old one alone.
        settings = self._relay.settings
        self._secret = settings.previous_api_key or settings.api_key or agent_secret(log.warning)
        return create_server(self._connect, self._identify)


class _Exchange(Response):
    """The MCP server's answer to a request whose body has been read."""

    def __init__(self, server: AgentServer, body: bytes) -> None:
        super().__init__()
        self._server = server
        self._request = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        first: list[Message] = [{"type": "http.request", "body": self._request, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        # The SDK requires both types, whichever it sends, and compares that of the body case-sensitively.
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"accept", b"content-type")]
        headers.append((b"accept", b"application/json, text/event-stream"))
        headers.append((b"content-type", b"application/json"))  # `read_body` takes no other
        await self._server({**scope, "root_path": "", "headers": headers}, replay, send)


async def refuse_other_origins(request: Request) -> None:
    """Raise Problem for a web page of another origin, as the protocol requires. Agents send no Origin."""
    own = request.url.hostname
    for origin in request.headers.getlist("origin"):
        try:
            host = urlsplit(origin).hostname or ""
        except ValueError:
            host = ""
        if host != own and not is_loopback(host):
            raise Problem("forbidden", "A page of another origin may not use the relay.")


@agents.post("/mcp", dependencies=[Depends(refuse_other_origins), Depends(require_key)])
async def agent(request: Request) -> Response:
    """Answer one message of an agent. GET is not served, because the server sends nothing unasked."""
    payer_of(request)  # so that an invalid header is refused here, not in a tool's answer
    server = request.app.state.agent_servers[_wants_stream(request)]
    return _Exchange(server, _without_nulls(await read_body(request, relay_of(request).settings.timings.body)))


def _without_nulls(body: bytes) -> bytes:
    """Return a message without the nulls among its parameters and their fields, which mean the same as absent ones.

    Clients in languages with typed messages send them for every unset field; the SDK refuses most of them.
    """
    if b"null" not in body:
        return body
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return body  # the SDK refuses it
    params = message.get("params") if isinstance(message, dict) else None
    if not isinstance(params, dict):
        return body
    message["params"] = {name: _present(value) for name, value in _present(params).items()}
    return json.dumps(message).encode()


def _present(value: Any) -> Any:
    return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


def _wants_stream(request: Request) -> bool:
    """Does the client accept an event stream by name, and prefer it at least as much as JSON?

    The protocol requires clients to name both types. All others (curl names neither) get JSON: RFC 9110 (12.5.1) lets a
    server send a type that the client does not accept.
    """
    accepted = ",".join(request.headers.getlist("accept"))
    stream = _quality(accepted, "text/event-stream", "text/*")
    return 0 < stream >= _quality(accepted, "application/json", "application/*", "*/*")


def _quality(accepted: str, *ranges: str) -> float:
    """Return the weight of the first of `ranges` that an Accept header names (RFC 9110, 12.5.1); 0 if it names none."""
    weights: dict[str, float] = {}
    for one in accepted.split(","):
        name, *parameters = (part.strip().lower() for part in one.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        weights[name] = float(weight) if _WEIGHT.fullmatch(weight) else 1.0
    return next((weights[name] for name in ranges if name in weights), 0.0)


def mount_agents(app: FastAPI, served: ASGIApp) -> None:
    """Add the route to `app`, if the SDK is installed.

    Args:
        served: the whole application, which the tools call.
    """
    if find_spec("mcp") is not None:
        app.state.agent_servers = [AgentServer(served, app.state.relay, streams=streams) for streams in (False, True)]
        app.include_router(agents)
