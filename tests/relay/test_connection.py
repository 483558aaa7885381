"""Strangers on the wire: whoever says nothing, half of something, or does not listen costs little, and not for long."""

from __future__ import annotations

import importlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn.protocols.http.auto

from litellm_openai_example.relay import process
from litellm_openai_example.relay.http import connection as limits
from litellm_openai_example.research.contract import INVOCATIONS_PATH

from ..fakes.gateway import Gateway, message
from ..fakes.scripted import eventually
from .conftest import StartRelay
from .running import ThreadedRelay, token


@pytest.fixture(params=[("httptools_impl", "HttpToolsProtocol"), ("h11_impl", "H11Protocol")], ids=lambda p: p[0])
def relay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, start_relay: StartRelay) -> ThreadedRelay:
    """A relay on each of uvicorn's two implementations of HTTP."""
    module, name = request.param
    implementation = pytest.importorskip(f"uvicorn.protocols.http.{module}")
    monkeypatch.setattr(uvicorn.protocols.http.auto, "AutoHTTPProtocol", getattr(implementation, name))
    importlib.reload(limits)
    monkeypatch.setattr(process, "BoundedConnection", limits.BoundedConnection)
    return start_relay()


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch, relay: ThreadedRelay) -> Iterator[Any]:
    """Opens connections to a relay whose limits are short."""
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(limits, "STUCK_SECONDS", 0.5)
    relay.server.config.timeout_keep_alive = 2
    url = urlsplit(relay.api.base_url)
    with ExitStack() as stack:

        def connect(data: bytes = b"", *, window: int | None = None) -> socket.socket:
            wire = stack.enter_context(socket.socket())
            if window is not None:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            wire.settimeout(10)
            wire.connect((url.hostname, url.port))
            wire.sendall(data)
            return wire

        yield connect


def read_all(wire: socket.socket) -> bytes:
    """All that comes until the relay closes."""
    received = b""
    try:
        while data := wire.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def head(method: str, path: str, *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", *lines, "", ""]).encode()


HOST = "Host: 127.0.0.1"
GOOD = head("GET", "/healthz", HOST)


@pytest.mark.parametrize(
    "said",
    [b"", b"\r\n", b"GET /heal", head("POST", INVOCATIONS_PATH, HOST)[:-2], GOOD + b"GET /heal"],
    ids=["nothing", "a line break", "half a line", "half a head", "half of the next request"],
)
def test_who_does_not_finish_a_request_is_let_go(wires: Any, said: bytes) -> None:
    wire = wires(said)
    began = time.monotonic()
    answer = read_all(wire)
    assert time.monotonic() - began < 5
    assert (b" 200 " in answer) == said.startswith(GOOD)


def test_a_head_that_drips_is_bounded_as_a_whole(wires: Any) -> None:
    wire = wires()
    began = time.monotonic()
    with pytest.raises(OSError):
        for number in range(1000):
            wire.sendall(f"GET / HTTP/1.1\r\n{HOST}\r\n"[number : number + 1].encode() or b"X-A: b\r\n")
            time.sleep(0.05)
    assert time.monotonic() - began < 5


def test_a_head_without_an_end_is_bounded_in_size(wires: Any) -> None:
    wire = wires(f"GET /healthz HTTP/1.1\r\n{HOST}\r\nX-Long: ".encode())
    sent = 0
    with pytest.raises(OSError):
        while sent < 50_000_000:
            wire.sendall(b"x" * 65536)
            sent += 65536
    assert sent < 10_000_000


def test_a_connection_that_is_used_stays(wires: Any) -> None:
    wire = wires()
    for _ in range(4):
        wire.sendall(GOOD)
        received = b""
        while not received.endswith(b"}"):
            received += wire.recv(65536)
        assert b" 200 " in received
        time.sleep(0.4)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Host: 127.0.0.2"],
    ],
    ids=str,
)
def test_requests_that_can_be_read_in_two_ways_are_refused(wires: Any, upstream: Gateway, lines: list[str]) -> None:
    request = head("POST", INVOCATIONS_PATH, HOST, "Content-Type: application/json", *lines)
    answer = read_all(wires(request + b"0\r\n\r\n" + GOOD))
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert answer.count(b"\r\ncontent-type: ") == 1
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
class TestProbes:
    def test_head(self, wires: Any, path: str) -> None:
        answer = read_all(wires(head("HEAD", path, HOST, "Connection: close")))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")

    @pytest.mark.parametrize("lines", [[], ["Host: relay.internal:8080"]], ids=str)
    def test_without_the_name_of_this_machine(self, wires: Any, path: str, lines: list[str]) -> None:
        assert b" 200 " in read_all(wires(head("GET", path, *lines, version="1.0"))).partition(b"\r\n")[0]


def test_the_root_leads_to_the_documentation(relay: ThreadedRelay) -> None:
    answer = relay.api.call("GET", "/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


class TestReadersThatStop:
    @pytest.fixture
    def started(self, start_relay: StartRelay, relay: ThreadedRelay, upstream: Gateway) -> dict[str, Any]:
        upstream.final = lambda request: message("짜장면 " * 150_000)
        started = relay.api.start()
        relay.api.wait(started)
        return started

    @pytest.mark.parametrize("ending", ["", "/wait", "/events"])
    def test_are_let_go(self, wires: Any, relay: ThreadedRelay, started: dict[str, Any], ending: str) -> None:
        name, value = next(iter(token(started).items()))
        request = head("GET", f"{INVOCATIONS_PATH}/{started['invocation_id']}{ending}", HOST, f"{name}: {value}")
        stuck = [wires(request, window=4096) for _ in range(5)]
        connections = relay.server.server_state.connections
        assert eventually(lambda: len(connections) >= 5)
        assert eventually(lambda: len(connections) <= 1, 10)  # the test's own
        assert len(read_all(stuck[0])) < 3_000_000

    def test_slow_ones_are_not(self, wires: Any, relay: ThreadedRelay, started: dict[str, Any]) -> None:
        name, value = next(iter(token(started).items()))
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}"
        wire = wires(head("GET", path, HOST, f"{name}: {value}", "Connection: close"), window=65536)
        received = b""
        while data := wire.recv(400_000):
            received += data
            time.sleep(0.01)
        assert json.loads(received.partition(b"\r\n\r\n")[2])["status"] == "completed"

    def test_cost_a_bounded_amount(self, wires: Any, relay: ThreadedRelay, started: dict[str, Any]) -> None:
        name, value = next(iter(token(started).items()))
        request = head("GET", f"{INVOCATIONS_PATH}/{started['invocation_id']}/events", HOST, f"{name}: {value}")
        for _ in range(20):
            wires(request, window=4096)
        connections = relay.server.server_state.connections

        def waiting() -> list[int]:
            return [getattr(one, "transport").get_write_buffer_size() for one in list(connections)]  # noqa: B009

        assert eventually(lambda: sum(size > 0 for size in waiting()) >= 10, 5)
        assert max(waiting()) < 300_000
