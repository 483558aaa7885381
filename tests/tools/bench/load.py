"""A minimal HTTP client, so that the machine is busy with the relay and not with the client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

Make = Callable[[], tuple[str, bytes, Mapping[str, str]]]


@dataclass(frozen=True)
class Reply:
    """A raw answer."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def expect(self, *statuses: int) -> Self:
        """Return the reply. Raise RuntimeError for other statuses: a failure must not pass for a fast answer."""
        if self.status not in statuses:
            raise RuntimeError(f"answered {self.status}: {self.body[:300]!r}")
        return self


class Connection:
    """One kept-alive HTTP/1.1 connection to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._head = f"host: 127.0.0.1:{port}\r\nauthorization: Bearer sk-bench\r\n"

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return await self._exchange("GET", path, b"", headers or {})

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        return await self._exchange("POST", path, body, {"content-type": "application/json", **(headers or {})})

    async def _exchange(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{lines}content-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        return Reply(int(answer[9:12]), await self._reader.readexactly(length))


async def post_rate(port: int, clients: int, seconds: float, make: Make, *statuses: int) -> float:
    """Post as fast as `clients` can for `seconds`.

    Args:
        make: returns path, body and headers of the next request.
        statuses: expected statuses; any other one is a failure.

    Returns:
        requests per second.
    """
    done = 0
    started = time.perf_counter()

    async def client() -> None:
        nonlocal done
        async with Connection(port) as connection:
            while time.perf_counter() - started < seconds:
                path, body, headers = make()
                (await connection.post(path, body, headers)).expect(*statuses)
                done += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - started)
