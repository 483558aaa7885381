"""The head and the body of a request are sent together, and nothing is held back for good."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from litellm_openai_example import AsyncLiteLLMClient, LiteLLMClient
from litellm_openai_example.transport.connections import join_writes, join_writes_async

from ..fakes.scripted import KEY, response_body

HEAD = b"POST /v1/responses HTTP/1.1\r\nhost: a\r\n\r\n"


class Written:
    """A network stream that records its writes."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        assert timeout == 60
        if buffer:
            self.packets.append(buffer)


class WrittenAsync(Written):
    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # type: ignore[override]
        super().write(buffer, timeout)


@pytest.mark.parametrize(
    ("writes", "packets"),
    [
        ([HEAD, b"{}", b""], [HEAD + b"{}"]),
        ([HEAD, b""], [HEAD]),  # without a body
        ([HEAD, b"a", b"b", b""], [HEAD + b"a", b"b"]),
        ([HEAD, HEAD, HEAD, b""], [HEAD + HEAD, HEAD]),  # a body that looks like a head
        ([HEAD, b"x" * 100_000, b""], [HEAD, b"x" * 100_000]),
        ([HEAD, b"1", b"", HEAD, b"2", b""], [HEAD + b"1", HEAD + b"2"]),
        ([b"GET / HTTP/1.1\r\n\r\n", b""], [b"GET / HTTP/1.1\r\n\r\n"]),
        ([b"CONNECT a:443 HTTP/1.1\r\n\r\n", b""], [b"CONNECT a:443 HTTP/1.1\r\n\r\n"]),
        (
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00\x00\x04\x04"],
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00\x00\x04\x04"],
        ),
    ],
)
def test_writes_become_packets(writes: list[bytes], packets: list[bytes]) -> None:
    stream, stream_async = Written(), WrittenAsync()
    join_writes(stream)
    join_writes_async(stream_async)

    async def write_all() -> None:
        for buffer in writes:
            await stream_async.write(buffer, timeout=60)

    for buffer in writes:
        stream.write(buffer, timeout=60)
    asyncio.run(write_all())
    assert stream.packets == packets
    assert stream_async.packets == packets


@contextmanager
def first_packets() -> Iterator[tuple[str, list[bytes]]]:
    """Yield a server's address, and the bytes that its first read of each request returned."""
    found: list[bytes] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(60)
            for _ in range(2):
                request = connection.recv(65536)
                found.append(request)
                while not request.endswith(b"}"):
                    request += connection.recv(65536)
                body = json.dumps(response_body()).encode()
                head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", found
        thread.join(60)


def test_a_server_sees_the_body_with_the_head() -> None:
    with first_packets() as (url, found), LiteLLMClient(url, KEY, timeout=60) as client:
        for _ in range(2):
            assert client.create_response("hi") == "OK"
    assert [packet[-1:] for packet in found] == [b"}", b"}"]


def test_a_server_sees_the_body_with_the_head_of_an_asynchronous_client() -> None:
    async def ask(url: str) -> None:
        async with AsyncLiteLLMClient(url, KEY, timeout=60) as client:
            for _ in range(2):
                assert await client.create_response("hi") == "OK"

    with first_packets() as (url, found):
        asyncio.run(ask(url))
    assert [packet[-1:] for packet in found] == [b"}", b"}"]
