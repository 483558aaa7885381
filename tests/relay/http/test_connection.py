"""Untrusted clients on the wire: silent, half-finished and unread connections cost little, for a short time."""

from __future__ import annotations

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

from litellm_openai_example.relay.http import connection as limits
from litellm_openai_example.research.contract import INVOCATIONS_PATH

from ...fakes.gateway import Gateway, message
from ...fakes.scripted import eventually
from ..conftest import StartRelay
from ..running import ThreadedRelay, body, token


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch, relay: ThreadedRelay) -> Iterator[Any]:
    """A function that opens connections to a relay with short limits."""
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
    """Return everything until the relay closes."""
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
def test_an_unfinished_request_is_closed(wires: Any, said: bytes) -> None:
    wire = wires(said)
    answer = read_all(wire)
    assert (b" 200 " in answer) == said.startswith(GOOD)


def test_a_dripping_head_has_one_time_limit(wires: Any) -> None:
    wire = wires()
    with pytest.raises(OSError):
        for number in range(1000):
            wire.sendall(f"GET / HTTP/1.1\r\n{HOST}\r\n"[number : number + 1].encode() or b"X-A: b\r\n")
            time.sleep(0.05)


def test_an_endless_head_has_a_size_limit(wires: Any) -> None:
    wire = wires(f"GET /healthz HTTP/1.1\r\n{HOST}\r\nX-Long: ".encode())
    sent = 0
    with pytest.raises(OSError):
        while sent < 50_000_000:
            wire.sendall(b"x" * 65536)
            sent += 65536
    assert sent < 10_000_000


def test_a_used_connection_stays_open(wires: Any) -> None:
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
def test_ambiguous_requests_are_refused(wires: Any, upstream: Gateway, lines: list[str]) -> None:
    request = head("POST", INVOCATIONS_PATH, HOST, "Content-Type: application/json", *lines)
    answer = read_all(wires(request + b"0\r\n\r\n" + GOOD))
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert answer.count(b"\r\ncontent-type: ") == 1
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
class TestProbes:
    def test_a_head_request_has_no_body(self, wires: Any, path: str) -> None:
        answer = read_all(wires(head("HEAD", path, HOST, "Connection: close")))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")

    @pytest.mark.parametrize("lines", [[], ["Host: relay.internal:8080"]], ids=str)
    def test_probes_accept_any_host_name(self, wires: Any, path: str, lines: list[str]) -> None:
        assert b" 200 " in read_all(wires(head("GET", path, *lines, version="1.0"))).partition(b"\r\n")[0]


def start_of_a_run(*lines: str, chunked: bool = False, question: str = "Why?") -> bytes:
    content = json.dumps(body(question, background=True)).encode()
    if chunked:
        content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (content[:9], content[9:])) + b"0\r\n\r\n"
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}"
    return head("POST", INVOCATIONS_PATH, HOST, "Content-Type: application/json", length, *lines) + content


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAA")


class TestUpgrade:
    """A request for another protocol is ignored, as RFC 9110 7.8 permits, and answered over HTTP/1.1."""

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
    def test_it_is_ignored_and_the_body_is_read(
        self, wires: Any, upstream: Gateway, lines: tuple[str, ...], chunked: bool
    ) -> None:
        wire = wires(start_of_a_run(*lines, chunked=chunked) + head("GET", "/healthz", HOST, "Connection: close"))
        assert statuses(read_all(wire)) == [202, 200]
        assert eventually(lambda: len(upstream.posts) == 1)
        assert "Why?" in upstream.posts[0]["input"]

    def test_it_is_ignored_in_every_request_of_a_pipeline(self, wires: Any, upstream: Gateway) -> None:
        starts = [start_of_a_run(*H2C, chunked=number % 2 == 1, question=f"No {number}?") for number in range(4)]
        last = head("GET", "/healthz", HOST, "Connection: Upgrade, close", "Upgrade: h2c")
        assert statuses(read_all(wires(b"".join(starts) + last))) == [202] * 4 + [200]
        assert eventually(lambda: len(upstream.posts) == 4)

    def test_it_is_ignored_in_single_bytes(self, wires: Any) -> None:
        wire = wires()
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = start_of_a_run(*H2C, "Connection: close")
        for start in range(len(request)):
            wire.sendall(request[start : start + 1])
        assert statuses(read_all(wire)) == [202]

    def test_it_is_ignored_in_thousands_of_pipelined_requests(self, wires: Any) -> None:
        wire = wires(head("GET", "/healthz", HOST, *H2C) * 2000 + head("GET", "/healthz", HOST, "Connection: close"))
        assert statuses(read_all(wire)) == [200] * 2001

    def test_it_is_ignored_with_expect_100_continue(self, wires: Any) -> None:
        request = start_of_a_run(*H2C, "Expect: 100-continue", "Connection: close")
        end = request.index(b"\r\n\r\n") + 4
        wire = wires(request[:end])
        assert wire.recv(65536).startswith(b"HTTP/1.1 100 ")
        wire.sendall(request[end:])
        assert statuses(read_all(wire)) == [202]

    def test_checks_stay_as_strict(self, wires: Any, upstream: Gateway) -> None:
        request = head("POST", INVOCATIONS_PATH, HOST, *H2C, "Content-Length: 5", "Transfer-Encoding: chunked")
        assert statuses(read_all(wires(request + b"0\r\n\r\n" + GOOD))) == [400]
        assert statuses(read_all(wires(head("POST", INVOCATIONS_PATH, "Host: rebound.example", *H2C) + GOOD)))[0] == 400
        assert statuses(read_all(wires(head("CONNECT", "127.0.0.1:80", HOST, *H2C))))[:1] != [200]
        assert not upstream.posts

    def test_a_client_that_stops_midway_is_closed(self, wires: Any) -> None:
        answer = read_all(wires(start_of_a_run(*H2C)[:-9]))
        assert statuses(answer) == [408]

    @pytest.mark.skipif(shutil.which("java") is None, reason="needs Java (Debian: default-jdk-headless)")
    def test_the_java_client(self, relay: ThreadedRelay, upstream: Gateway, tmp_path: Path) -> None:
        (tmp_path / "Start.java").write_text(JAVA)
        content = json.dumps(body("Why?", background=True))
        command = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", str(tmp_path / "Start.java")]
        answer = subprocess.run(
            [*command, relay.api.base_url + INVOCATIONS_PATH, content], capture_output=True, text=True, timeout=60
        )
        assert answer.stdout.split() == ["202", "202"], answer.stderr
        assert eventually(lambda: len(upstream.posts) == 2)


# Java's client asks for HTTP/2 by `Upgrade: h2c` on plain connections.
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


class TestStuckReaders:
    @pytest.fixture
    def started(self, start_relay: StartRelay, relay: ThreadedRelay, upstream: Gateway) -> dict[str, Any]:
        # Larger than the buffers of both sockets, so that an unread answer has to wait in the relay.
        upstream.final = lambda request: message("짜장면 " * 150_000)
        started = relay.api.start()
        relay.api.wait(started)
        return started

    @pytest.mark.parametrize("ending", ["", "/wait", "/events"])
    def test_stuck_readers_are_closed(
        self, wires: Any, relay: ThreadedRelay, started: dict[str, Any], ending: str
    ) -> None:
        name, value = next(iter(token(started).items()))
        request = head("GET", f"{INVOCATIONS_PATH}/{started['invocation_id']}{ending}", HOST, f"{name}: {value}")
        stuck = [wires(request, window=4096) for _ in range(5)]
        connections = relay.server.server_state.connections
        assert eventually(lambda: len(connections) >= 5)
        assert eventually(lambda: len(connections) <= 1)  # the API client's own
        assert len(read_all(stuck[0])) < 3_000_000

    def test_slow_readers_are_not_closed(self, wires: Any, relay: ThreadedRelay, started: dict[str, Any]) -> None:
        name, value = next(iter(token(started).items()))
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}"
        # Slower than the view is sent, but never idle for the relay's limit: progress keeps the connection alive.
        wire = wires(head("GET", path, HOST, f"{name}: {value}", "Connection: close"), window=65536)
        received = b""
        while data := wire.recv(400_000):
            received += data
            time.sleep(0.01)
        assert json.loads(received.partition(b"\r\n\r\n")[2])["status"] == "completed"

    def test_stuck_readers_cost_bounded_memory(self, wires: Any, relay: ThreadedRelay, started: dict[str, Any]) -> None:
        name, value = next(iter(token(started).items()))
        request = head("GET", f"{INVOCATIONS_PATH}/{started['invocation_id']}/events", HOST, f"{name}: {value}")
        for _ in range(20):
            wires(request, window=4096)
        connections = relay.server.server_state.connections

        def waiting() -> list[int]:
            return [getattr(one, "transport").get_write_buffer_size() for one in list(connections)]  # noqa: B009

        assert eventually(lambda: sum(size > 0 for size in waiting()) >= 10)
        assert max(waiting()) < 300_000
