"""`/mcp`: the relay's tool for agents (streamable HTTP). It is there where the extra `[mcp]` is installed.

The tools reach the relay by its own API, within this process: what holds for every other client holds for agents. No
session is kept, so an agent goes on after a restart of the relay, and any replica answers any request.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...config import ConfigurationError, is_loopback
from ...http_library import httpx
from ...payer import Payer
from ...research.relay_client import AsyncRelayClient
from ...state import kept_secret, state_dir
from ..log import log
from ..relay import Relay
from .access import may_pay, relay_of
from .body import Problem, read_body
from .payers import payer_of

if TYPE_CHECKING:
    from ...mcp.server import Caller

# Headers by which proxies, load balancers and sign-ins pass on whom they serve.
_FORWARDED = re.compile(
    r"via|forwarded|(x-)?(remote|forwarded|auth-request|envoy|goog-authenticated|amzn-oidc|ms-client-principal)(-.*)?"
    r"|(x-|cf-|true-|fly-|fastly-|x-cluster-|x-original-|x-azure-)*(real-ip|client-?ip|connecting-ip|forwarded-for)"
)
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
_ADDRESS = "http://127.0.0.1"  # nothing connects to it: the application is called itself

agents = APIRouter(include_in_schema=False)


class AgentServer:
    """The MCP server of one relay, made when the first agent comes: the SDK takes a second to import.

    Args:
        app: the relay's application.
        relay: its relay. Whoever comes here has shown its key.
        streams: answer by an event stream, which carries progress; else by one JSON text.
    """

    def __init__(self, app: ASGIApp, relay: Relay, *, streams: bool) -> None:
        self._app = app
        self._relay = relay
        self._streams = streams
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
        return AsyncRelayClient(_ADDRESS, key, payer=payer, transport=httpx.ASGITransport(self._app))

    def _identify(self, request: Request) -> Caller:
        """Return the caller by its key alone, and by its address for what has no key of its own.

        Whoever has the relay's key may name any end user and any address that a proxy forwards. A request that names
        one says that several use this key, so its arguments do not tell whose run it means.
        """
        from ...mcp.server import Caller

        several = Payer.of(request.headers).headers or any(_FORWARDED.fullmatch(name) for name in request.headers)
        host = request.client.host if request.client else ""
        place = "" if is_loopback(host) else f"\n{host}"
        return Caller(f"agent\n{self._secret}", None if several else place)

    async def _start(self) -> ASGIApp:
        server = await asyncio.to_thread(self._make_server)
        from mcp.server.transport_security import TransportSecuritySettings

        # Its own check of the Host header stays off: `Guard` has one that knows where the relay listens.
        unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        face: ASGIApp = server.streamable_http_app(
            stateless_http=True, json_response=not self._streams, transport_security=unchecked
        )
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

        # Runs are found again by a key made of the arguments, which stand in the ledger, and of this.
        self._secret = self._relay.settings.api_key or _kept_secret()
        return create_server(self._connect, self._identify)


def _kept_secret() -> str:
    """Return a secret that is not in the ledger: whoever can compute a run's idempotency key has its token."""
    try:
        return kept_secret(state_dir() / "agent-secret")
    except (ConfigurationError, OSError, ValueError):
        log.warning("the state directory cannot be used: after a restart, a repeated call of an agent pays again")
        return secrets.token_urlsafe(32)


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

        # The SDK wants both types named, whichever of them it then sends, and reads that of the body by its case.
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"accept", b"content-type")]
        headers.append((b"accept", b"application/json, text/event-stream"))
        headers.append((b"content-type", b"application/json"))  # `read_body` takes no other
        await self._server({**scope, "root_path": "", "headers": headers}, replay, send)


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
    server = request.app.state.agent_servers[_wants_stream(request)]
    return _Exchange(server, await read_body(request, relay_of(request).settings.timings.body))


def _wants_stream(request: Request) -> bool:
    """Does the client take an event stream by name, and like it no less than JSON?

    The protocol has clients name both types. All others (curl names neither) get JSON, which RFC 9110 (12.5.1) lets a
    server send to whoever accepts nothing that it has.
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
    """Give `app` the route, if the SDK is installed.

    Args:
        served: the whole application, which the tools call.
    """
    if find_spec("mcp") is not None:
        app.state.agent_servers = [AgentServer(served, app.state.relay, streams=streams) for streams in (False, True)]
        app.include_router(agents)
