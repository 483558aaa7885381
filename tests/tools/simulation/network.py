"""The network between simulated processes: an HTTP transport for their clients, and exchanges that can break.

A request consists of the way there, the work in the server's process, and the way back. Any of the three may be lost,
and each side sees the death of the other as a broken connection.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from litellm_openai_example.http_library import httpx

from .loop import Process, current

Headers = list[tuple[str, str]]


@dataclass
class Server:
    """A listener at an address: its process, and its handler of exchanges."""

    process: Process
    serve: Callable[[Exchange], Awaitable[None]]
    listening: bool = True


class Network:
    """Addresses and latencies.

    Attributes:
        drop: the probability that a request, or its answer, is lost.
    """

    def __init__(self, chance: random.Random) -> None:
        self.servers: dict[str, Server] = {}
        self.chance = chance
        self.drop = 0.0

    def latency(self) -> float:
        return self.chance.choice((0.0005, 0.002, 0.02))

    def lost(self) -> bool:
        return self.chance.random() < self.drop


class Exchange:
    """One request and its answer, from the server's side."""

    def __init__(self, request: httpx.Request, body: bytes) -> None:
        self.method, self.url = request.method, request.url
        self.headers = request.headers
        self.body = body
        self.client = current.get()
        self.gone = asyncio.Event()  # the client has closed the connection
        self.broken = False
        self.answer: asyncio.Queue[Any] = asyncio.Queue()

    def start(self, status: int, headers: Headers) -> None:
        self.answer.put_nowait((status, headers))

    def write(self, piece: bytes) -> None:
        if piece:
            self.answer.put_nowait(piece)

    def end(self) -> None:
        self.answer.put_nowait(None)

    def send(self, status: int, body: bytes, kind: str = "application/json", headers: Headers | None = None) -> None:
        """Send a whole answer."""
        self.start(status, [("content-type", kind), *(headers or [])])
        self.write(body)
        self.end()

    def cut(self) -> None:
        """Break the connection, as the death of the server or of the network does."""
        if not self.broken:
            self.broken = True
            self.answer.put_nowait(httpx.ReadError("the connection broke"))


class Transport(httpx.AsyncBaseTransport):
    """An HTTP transport: the connections of one process."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeouts = request.extensions.get("timeout") or {}
        try:
            async with asyncio.timeout(timeouts.get("read")):
                return await self._exchange(request)
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time", request=request) from None

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        network = self._network
        body = await request.aread()
        await asyncio.sleep(network.latency())
        server = network.servers.get(f"{request.url.host}:{request.url.port}")
        if server is None or not (server.listening and server.process.alive):
            raise httpx.ConnectError("connection refused", request=request)
        trace = request.extensions.get("trace")
        if trace is not None:
            await trace("http11.send_request_headers.started", {"request": request})
        exchange = Exchange(request, body)
        mine = current.get()
        assert mine is not None
        deaths = (mine.on_death, exchange.gone.set), (server.process.on_death, exchange.cut)
        for on_death, told in deaths:
            on_death.append(told)
        try:
            if network.lost():
                raise httpx.ReadError("the connection broke", request=request)
            await asyncio.sleep(network.latency())
            if not server.process.alive:
                raise httpx.ReadError("the connection broke", request=request)
            server.process.spawn(_serve(server, exchange), f"{request.method} {request.url.path}")
            head = await exchange.answer.get()
            await asyncio.sleep(network.latency())
            if isinstance(head, Exception) or network.lost():
                raise httpx.ReadError("the connection broke", request=request)
        except BaseException:
            _forget(exchange, deaths)
            raise
        status, headers = head
        return httpx.Response(status, headers=headers, stream=_Body(exchange, lambda: _forget(exchange, deaths)))


def _forget(exchange: Exchange, deaths: Any) -> None:
    exchange.gone.set()
    for on_death, told in deaths:
        with suppress(ValueError):
            on_death.remove(told)


async def _serve(server: Server, exchange: Exchange) -> None:
    try:
        await server.serve(exchange)
    finally:
        exchange.cut()  # no effect on a complete answer: its reader has finished


class _Body(httpx.AsyncByteStream):
    def __init__(self, exchange: Exchange, close: Callable[[], None]) -> None:
        self._exchange = exchange
        self._close = close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._exchange.answer.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self) -> None:
        self._close()


def asgi(app: Any) -> Callable[[Exchange], Awaitable[None]]:
    """Serve an ASGI application, as uvicorn serves one request of a connection."""

    async def serve(exchange: Exchange) -> None:
        first = [{"type": "http.request", "body": exchange.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if first:
                return first.pop()
            await exchange.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                exchange.start(message["status"], [(k.decode(), v.decode()) for k, v in message["headers"]])
            else:
                exchange.write(bytes(message.get("body", b"")))
                if not message.get("more_body", False):
                    exchange.end()

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": exchange.method,
            "scheme": "http", "path": unquote(exchange.url.path), "raw_path": exchange.url.raw_path.split(b"?")[0],
            "query_string": exchange.url.query, "root_path": "",
            "headers": [(k.lower(), v) for k, v in exchange.headers.raw],
            "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", exchange.url.port),
        }  # fmt: skip
        await app(scope, receive, send)

    return serve
