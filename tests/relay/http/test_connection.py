"""Strangers on the wire: whoever says nothing, half of something, or does not listen costs little, and not for long."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn.protocols.http.auto

from litellm_openai_example.relay import process
from litellm_openai_example.relay.http import connection as limits
from litellm_openai_example.research.contract import INVOCATIONS_PATH

from ...fakes.gateway import Gateway, message
from ...fakes.scripted import eventually
from ..conftest import StartRelay
from ..running import ThreadedRelay, body, token


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
            wire.settimeout(60)
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
    answer = read_all(wire)
    assert (b" 200 " in answer) == said.startswith(GOOD)


def test_a_head_that_drips_is_bounded_as_a_whole(wires: Any) -> None:
    wire = wires()
    with pytest.raises(OSError):
        for number in range(1000):
            wire.sendall(f"GET / HTTP/1.1\r\n{HOST}\r\n"[number : number + 1].encode() or b"X-A: b\r\n")
            time.sleep(0.05)


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


def start_of_a_run(*lines: str, chunked: bool = False, question: str = "Why?") -> bytes:
    content = json.dumps(body(question, background=True)).encode()
    if chunked:
        content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (content[:9], content[9:])) + b"0\r\n\r\n"
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}"
    return head("POST", INVOCATIONS_PATH, HOST, "Content-Type: application/json", length, *lines) + content


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAA")


class TestAWishForAnotherProtocol:
    """It is ignored, as RFC 9110 7.8 lets a server: the request is answered over HTTP/1.1."""

    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
    @pytest.mark.parametrize(
        "lines",
        [
            H2C,
            H2C[::-1],
            ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13"),
            ("cOnNeCtIoN: keep-alive, uPgRaDe", "UPGRADE: H2C"),
            ("Connection: upgrade", "Upgrade: h2c, TLS/1.3", "Upgrade: another/1"),
            ("Connection: upgrade", "Connection: keep-alive", "Upgrade: "),
            ("Connection: upgrade",),
            ("Upgrade: h2c",),
        ],
        ids=str,
    )
    def test_leaves_the_body_alone(self, wires: Any, upstream: Gateway, lines: tuple[str, ...], chunked: bool) -> None:
        wire = wires(start_of_a_run(*lines, chunked=chunked) + head("GET", "/healthz", HOST, "Connection: close"))
        assert statuses(read_all(wire)) == [202, 200]
        assert eventually(lambda: len(upstream.posts) == 1)
        assert "Why?" in upstream.posts[0]["input"]

    def test_with_every_request_of_a_pipeline(self, wires: Any, upstream: Gateway) -> None:
        starts = [start_of_a_run(*H2C, chunked=number % 2 == 1, question=f"No {number}?") for number in range(4)]
        last = head("GET", "/healthz", HOST, "Connection: Upgrade, close", "Upgrade: h2c")
        assert statuses(read_all(wires(b"".join(starts) + last))) == [202] * 4 + [200]
        assert eventually(lambda: len(upstream.posts) == 4)

    def test_in_bytes_that_come_one_by_one(self, wires: Any) -> None:
        wire = wires()
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = start_of_a_run(*H2C, "Connection: close")
        for start in range(len(request)):
            wire.sendall(request[start : start + 1])
        assert statuses(read_all(wire)) == [202]

    def test_in_thousands_of_requests_at_once(self, wires: Any) -> None:
        wire = wires(head("GET", "/healthz", HOST, *H2C) * 2000 + head("GET", "/healthz", HOST, "Connection: close"))
        assert statuses(read_all(wire)) == [200] * 2001

    def test_of_who_waits_to_be_told_to_go_on(self, wires: Any) -> None:
        request = start_of_a_run(*H2C, "Expect: 100-continue", "Connection: close")
        end = request.index(b"\r\n\r\n") + 4
        wire = wires(request[:end])
        assert wire.recv(65536).startswith(b"HTTP/1.1 100 ")
        wire.sendall(request[end:])
        assert statuses(read_all(wire)) == [202]

    def test_does_not_loosen_what_is_checked(self, wires: Any, upstream: Gateway) -> None:
        request = head("POST", INVOCATIONS_PATH, HOST, *H2C, "Content-Length: 5", "Transfer-Encoding: chunked")
        assert statuses(read_all(wires(request + b"0\r\n\r\n" + GOOD))) == [400]
        assert statuses(read_all(wires(head("POST", INVOCATIONS_PATH, "Host: rebound.example", *H2C) + GOOD)))[0] == 400
        assert statuses(read_all(wires(head("CONNECT", "127.0.0.1:80", HOST, *H2C))))[:1] != [200]
        assert not upstream.posts

    def test_of_a_client_that_stops_in_the_middle(self, wires: Any) -> None:
        answer = read_all(wires(start_of_a_run(*H2C)[:-9]))
        assert statuses(answer) == [408]

    @pytest.mark.skipif(shutil.which("java") is None, reason="needs Java (Debian: default-jdk-headless)")
    def test_of_the_client_of_java(self, relay: ThreadedRelay, upstream: Gateway, tmp_path: Path) -> None:
        (tmp_path / "Start.java").write_text(JAVA)
        content = json.dumps(body("Why?", background=True))
        command = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", str(tmp_path / "Start.java")]
        answer = subprocess.run(
            [*command, relay.api.base_url + INVOCATIONS_PATH, content], capture_output=True, text=True, timeout=60
        )
        assert answer.stdout.split() == ["202", "202"], answer.stderr
        assert eventually(lambda: len(upstream.posts) == 2)


JAVA = """
import java.net.URI;
import java.net.http.*;

class Start {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
            .header("Content-Type", "application/json").POST(HttpRequest.BodyPublishers.ofString(given[1])).build();
        for (int i = 0; i < 2; i++)
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
    }
}
"""


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
        assert eventually(lambda: len(connections) <= 1)  # the test's own
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

        assert eventually(lambda: sum(size > 0 for size in waiting()) >= 10)
        assert max(waiting()) < 300_000
