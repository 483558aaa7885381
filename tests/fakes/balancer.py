"""A load balancer for TCP connections: round robin among the servers whose `/readyz` answers 200."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count

from litellm_openai_example.http_library import httpx

_CHECK_EVERY = 0.1  # seconds


class Balancer:
    """Forwards each new connection to the next ready server; all are tried in turn while none is ready."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = list(servers)
        self._ready = set(servers)
        self._turn = count()
        self._serving: set[asyncio.Task[None]] = set()

    async def check(self) -> None:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            while True:
                for server in self._servers:
                    try:
                        ready = (await client.get(f"{server}/readyz")).status_code == 200
                    except httpx.RequestError:
                        ready = False
                    (self._ready.add if ready else self._ready.discard)(server)
                await asyncio.sleep(_CHECK_EVERY)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        servers = [server for server in self._servers if server in self._ready] or self._servers
        host, port = servers[next(self._turn) % len(servers)].removeprefix("http://").split(":")
        try:
            there, back = await asyncio.open_connection(host, int(port))
            await asyncio.gather(_pass(reader, back), _pass(there, writer))
        except (OSError, asyncio.CancelledError):
            writer.close()

    async def end(self) -> None:
        """Close all connections."""
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def balanced(*servers: str) -> Iterator[str]:
    """Run a balancer in a thread, and return its address."""
    ready, addresses, loop = threading.Event(), list[str](), asyncio.new_event_loop()
    balancer = Balancer(servers)

    async def serve() -> None:
        async with await asyncio.start_server(balancer.serve, "127.0.0.1", 0) as server:
            addresses.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            ready.set()
            await balancer.check()

    def main() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(balancer.end())
        loop.close()

    task = loop.create_task(serve())
    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    try:
        assert ready.wait(60)
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(60)
