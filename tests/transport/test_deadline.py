"""Deadlines hold for hanging and dripping servers: over TLS, a proxy and a reused connection (forks: test_fork.py)."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import openai
import pytest
import trustme

from litellm_openai_example import AsyncLiteLLM, GatewayError, LiteLLM, LiteLLMClient
from litellm_openai_example.http_library import httpx
from litellm_openai_example.transport.policy import deadline

from ..fakes.proxy import Proxy, TLSServer
from ..fakes.raw import RawServer
from ..fakes.scripted import KEY, Answer, ScriptedServer, sse
from ..fakes.served import FakeGateway
from .creating import CREATE, OK, Call, both, sync_create


class Trickle:
    """A forwarder between a client and a server; once `slow` is set, the client gets one byte every 0.05 s."""

    def __init__(self, port: int, slow: Callable[[], bool]) -> None:
        self._server = port
        self._slow = slow
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port: int = self._sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._sockets[0].shutdown(socket.SHUT_RDWR)
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._sockets[0].accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            self._sockets += [client, server]
            threading.Thread(target=self._pass_on, args=(client, server, lambda: False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, self._slow), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, slow: Callable[[], bool]) -> None:
        try:
            while data := source.recv(65536):
                if not slow():
                    sink.sendall(data)
                    continue
                for byte in data:
                    sink.sendall(bytes([byte]))
                    time.sleep(0.05)
        except OSError:
            pass


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TLSServer]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with TLSServer(context) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Import all of the SDK first: its first use takes seconds on a busy machine, and no deadline can bound that."""
    with FakeGateway() as server:
        server.script = lambda seen: sse({"type": "ping"}) if seen.json.get("stream") else OK
        for kind in ("sync", "async"):
            create(kind, server.url, 60)
        with LiteLLM(base_url=server.url, api_key=KEY) as sdk:
            list(sdk.responses.create(**CREATE, stream=True))


def create(kind: str, url: str, seconds: float) -> None:
    if kind == "sync":
        with LiteLLM(base_url=url, api_key=KEY, timeout=seconds) as sdk:
            sdk.responses.create(**CREATE)
        return

    async def ask() -> None:
        async with AsyncLiteLLM(base_url=url, api_key=KEY, timeout=seconds) as sdk:
            await sdk.responses.create(**CREATE)

    asyncio.run(ask())


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("dripping", ["from the first byte", "the answer"])
@pytest.mark.parametrize("way", ["tls", "proxy", "tls through a proxy"])
def test_a_deadline_holds_for_a_dripping_server(
    way: str, dripping: str, kind: str, tls: TLSServer, gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: ScriptedServer = gateway if way == "proxy" else tls
    server.answers(OK)
    from_the_start = dripping == "from the first byte"
    seconds = 0.8 if from_the_start else 2
    with Proxy() as proxy:
        proxied = way != "tls"
        behind = int(proxy.url.rpartition(":")[2]) if proxied else server.port
        # Slow from the start hits the handshake or the CONNECT; slow after the POST hits the answer.
        with Trickle(behind, lambda: from_the_start or bool(server.posts)) as trickle:
            url = server.url if proxied else f"https://localhost:{trickle.port}"
            for name in ("HTTP_PROXY", "HTTPS_PROXY") if proxied else ():
                monkeypatch.setenv(name, f"http://127.0.0.1:{trickle.port}")
            with pytest.raises(openai.APITimeoutError, match=f"within {seconds:g} s") as caught:
                create(kind, url, seconds)
    sent = way == "proxy" or not from_the_start
    assert ("the outcome is unknown" in str(caught.value)) is sent
    assert len(server.posts) == (1 if sent else 0)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("drips", ["the proxy's handshake", "the gateway's handshake"])
def test_a_deadline_holds_for_tls_in_the_tls_of_a_proxy(
    drips: str, kind: str, tls: TLSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway's handshake takes many reads of the proxy's connection, each with a separate timeout."""
    left: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection: socket.socket = listener.accept()[0]
        if drips == "the gateway's handshake":
            connection = tls.context.wrap_socket(connection, server_side=True)
            while not connection.recv(65536).endswith(b"\r\n\r\n"):
                pass
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with connection, suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")  # the head of a long record
            # A byte every 0.05 s keeps each read within any read timeout; only the deadline can end this.
            for _ in range(1200):
                connection.sendall(b"\x02")
                time.sleep(0.05)
            left.append(b"still connected")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = threading.Thread(target=serve, args=(listener,))
        proxy.start()
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{listener.getsockname()[1]}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            with pytest.raises(openai.APITimeoutError, match="could not send the request"):
                create(kind, tls.url, 0.8)
        proxy.join()
    assert not left
    assert not tls.seen


def test_a_cancelled_handshake_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        async def ask() -> bytes:
            url = f"https://127.0.0.1:{silent.getsockname()[1]}"
            async with AsyncLiteLLM(base_url=url, api_key=KEY, timeout=0.5) as sdk:
                with pytest.raises(openai.APITimeoutError, match="could not send"):
                    await sdk.responses.create(**CREATE)
                return await asyncio.to_thread(heard)

        def heard() -> bytes:
            with silent.accept()[0] as connection:
                connection.settimeout(60)
                while data := connection.recv(65536):
                    last = data
            return last

        assert asyncio.run(ask())


@both
@pytest.mark.parametrize(
    "answer",
    [
        Answer(pause=30),
        Answer(body=b" " * 1000, drip=0.05),
        Answer(body=b" " * 1000, drip_head=0.05),
        Answer(events=[(0.05, b" ")] * 1000),
    ],
    ids=["hangs", "drips", "drips from the first byte", "drips without a length"],
)
@pytest.mark.parametrize("reused", [False, True], ids=["new connection", "reused connection"])
def test_a_deadline_holds(create: Call, answer: Answer, reused: bool, raw_gateway: RawServer) -> None:
    raw_gateway.answers(*([OK] if reused else []), answer)
    started = time.monotonic()
    with pytest.raises(openai.APITimeoutError, match=r"within 0\.6 s"):
        if create is sync_create:
            with LiteLLM(base_url=raw_gateway.url, api_key=KEY, timeout=0.6) as sdk:
                for _ in range(1 + reused):
                    sdk.responses.create(**CREATE)
        else:
            asyncio.run(_twice(raw_gateway.url, 1 + reused))
    assert time.monotonic() - started < 40  # the dripping answer takes 50 s


async def _twice(url: str, times: int) -> None:
    async with AsyncLiteLLM(base_url=url, api_key=KEY, timeout=0.6) as sdk:
        for _ in range(times):
            await sdk.responses.create(**CREATE)


def test_a_deadline_bounds_a_stream_too(gateway: ScriptedServer) -> None:
    gateway.answers(sse(*[{"type": "ping"}] * 900, pause=0.1))
    started = time.monotonic()
    with LiteLLM(base_url=gateway.url, api_key=KEY) as sdk, deadline(0.6):
        stream = sdk.responses.create(**CREATE, stream=True)
        with pytest.raises((openai.APITimeoutError, httpx.ReadTimeout)) as caught:
            list(stream)
    assert time.monotonic() - started < 60
    # Older SDKs do not wrap the HTTP library's errors while a stream is read.
    ping = b'data: {"type": "ping"}\n\n'
    gateway.answers(Answer(headers={"content-type": "text/event-stream"}, events=[(0, ping), (30, ping)]))
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, timeout=1, max_retries=0) as plain:
        stream = plain.responses.create(**CREATE, stream=True)
        with pytest.raises((openai.APITimeoutError, httpx.ReadTimeout)) as as_ever:
            list(stream)
    assert caught.type is as_ever.type


def test_a_timeout_does_not_cut_a_steady_stream(gateway: ScriptedServer) -> None:
    # 2.4 s in all, longer than the timeout, which bounds the pauses of a stream and not its length.
    gateway.answers(sse(*[{"type": "ping"}] * 8, pause=0.3))
    with LiteLLM(base_url=gateway.url, api_key=KEY, timeout=2.0) as sdk:
        assert len(list(sdk.responses.create(**CREATE, stream=True))) == 8


def test_a_nearer_deadline_outside_wins(gateway: ScriptedServer) -> None:
    gateway.answers(Answer(pause=60))
    started = time.monotonic()
    with deadline(0.5), LiteLLMClient(gateway.url, KEY) as client, pytest.raises(GatewayError, match="within"):
        client.create_response("hi", timeout=50)
    assert time.monotonic() - started < 40
