"""A proxy in front of PostgreSQL that loses the answer to a COMMIT, or falls silent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from sqlalchemy.engine import make_url


class Proxy:
    """Forwards bytes, with faults on request.

    Attributes:
        lose_commit: close instead of forwarding the answer to the next COMMIT. Bytes restrict this to a transaction
            that contains them. Reset to False afterwards.
        silent: forward nothing on open connections.
    """

    def __init__(self, url: str) -> None:
        self._socket = f"{make_url(url).query['host']}/.s.PGSQL.5432"
        self.lose_commit: bool | bytes = False
        self.silent = False
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            there, back = await asyncio.open_unix_connection(self._socket)
            try:
                await self._pass_on(reader, writer, there, back)
            finally:
                await _closed(back)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            await _closed(writer)
            self._serving.discard(task)

    async def end(self) -> None:
        """Close all connections."""
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> None:
        losing = False

        async def up() -> None:
            nonlocal losing
            since_commit = b""
            while data := await reader.read(65536):
                since_commit += data
                if b"COMMIT" in data:
                    wanted = self.lose_commit if isinstance(self.lose_commit, bytes) else b""
                    if self.lose_commit and wanted in since_commit:
                        losing, self.lose_commit = True, False
                    since_commit = b""
                await self._pass(data, back)
            back.close()

        async def down() -> None:
            while (data := await there.read(65536)) and not losing:
                await self._pass(data, writer)
            writer.close()
            back.close()

        await asyncio.gather(up(), down(), return_exceptions=True)

    async def _pass(self, data: bytes, to: asyncio.StreamWriter) -> None:
        while self.silent:
            await asyncio.sleep(0.02)
        to.write(data)
        await to.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await asyncio.wait_for(writer.wait_closed(), 1)
    except OSError:  # a timeout too: the other side does not read
        writer.transport.abort()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Start a proxy; return it and the URL of the same database through it."""
    proxy = Proxy(url)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            yield proxy, make_url(url).set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        finally:
            await proxy.end()


@contextmanager
def proxied_in_thread(url: str) -> Iterator[tuple[Proxy, str]]:
    """Run the proxy in a thread, for relays in separate processes; return the same as `proxied`."""
    found: list[tuple[Proxy, str]] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        async with proxied(url) as one:
            found.append(one)
            ready.set()
            await asyncio.Event().wait()

    def main() -> None:
        task = loop.create_task(serve())
        stop.append(lambda: loop.call_soon_threadsafe(task.cancel))
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    stop: list[Callable[[], object]] = []
    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield found[0]
    finally:
        found[0][0].silent = False
        stop[0]()
        thread.join(60)
