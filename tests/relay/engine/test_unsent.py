"""A submission that certainly never left this machine is retried, for every reason that kept it here."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from litellm_openai_example.config import GatewaySettings
from litellm_openai_example.relay.engine.replies import NotSent, OutcomeUnknown
from litellm_openai_example.relay.engine.upstream import Upstream

from ...fakes.gateway import KEY, Gateway
from ...fakes.scripted import eventually
from ..running import OURS, RelayProcess, environment


def submitted_to(base_url: str) -> tuple[Exception | None, int]:
    """Submit to this address; return the error, and the number of times the request was about to leave."""
    left = 0

    async def prepare() -> None:
        nonlocal left
        left += 1

    async def submit() -> Exception | None:
        upstream = Upstream(GatewaySettings(f"{base_url}/v1", KEY), longest=1000)
        request = {"model": "m", "input": "Why?"}
        try:
            async for _ in upstream.submit(request, stream=False, call_id="c", timeout=1.5, prepare=prepare):
                pass
        except Exception as error:
            return error
        finally:
            await upstream.close()
        return None

    return asyncio.run(submit()), left


@contextmanager
def answering(*answer: bytes) -> Iterator[int]:
    """Yield a port that answers the first bytes of each connection with these, then closes it."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(60)
            if answer:
                self.request.recv(65536)
                for piece in answer:
                    self.request.sendall(piece)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class TestNotSent:
    def test_a_port_without_a_listener(self) -> None:
        error, left = submitted_to("http://127.0.0.1:9")
        assert (type(error), left) == (NotSent, 0)

    def test_a_name_that_does_not_resolve(self) -> None:
        error, left = submitted_to("https://gateway.invalid")
        assert (type(error), left) == (NotSent, 0)

    @pytest.mark.parametrize("name", ["a" * 70 + ".example", "x..example", "\N{SNOWMAN}" * 70 + ".example"])
    def test_an_invalid_host_name(self, name: str) -> None:
        try:
            error, left = submitted_to(f"https://{name}")
        except ValueError:  # refused before a client was made
            return
        assert (type(error), left) == (NotSent, 0)

    @pytest.mark.parametrize("address", ["https://240.0.0.1", "https://[100::1]", "https://0.0.0.0:1"])
    def test_an_unreachable_network(self, address: str) -> None:
        error, left = submitted_to(address)
        assert (type(error), left) == (NotSent, 0)

    @pytest.mark.parametrize(
        "answer",
        [(), (b"HTTP/1.1 400 Bad Request\r\n\r\n",), (b"\x15\x03\x01\x00\x02\x02\x28",), (b"\x00" * 2000,)],
        ids=["closed", "plain HTTP", "alert", "noise"],
    )
    def test_a_failed_tls_handshake(self, answer: tuple[bytes, ...]) -> None:
        with answering(*answer) as port:
            error, left = submitted_to(f"https://127.0.0.1:{port}")
        assert (type(error), left) == (NotSent, 0)

    @pytest.mark.parametrize(
        "answer",
        [
            (),
            (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",),
            (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",),
            (b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",),
            (b"noise that is no HTTP\r\n\r\n",),
            (b"HTTP/1.1 200 Connection established\r\n\r\n", b"noise" * 500),
        ],
        ids=["closed", "403", "407", "502", "noise", "noise in the tunnel"],
    )
    def test_a_proxy_that_does_not_connect(self, monkeypatch: pytest.MonkeyPatch, answer: tuple[bytes, ...]) -> None:
        with answering(*answer) as port:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            error, left = submitted_to("https://gateway.example")
        assert (type(error), left) == (NotSent, 0)

    def test_no_file_descriptor(self, upstream: Gateway) -> None:
        error, left = within_files_of_this_process(lambda: submitted_to(upstream.base_url))
        assert (type(error), left) == (NotSent, 0)
        assert not upstream.posts


def test_the_outcome_of_an_unanswered_submission_is_unknown() -> None:
    with answering(b"") as port:
        error, left = submitted_to(f"http://127.0.0.1:{port}")
    assert (type(error), left) == (OutcomeUnknown, 1)


def within_files_of_this_process(work: Callable[[], tuple[Exception | None, int]]) -> tuple[Exception | None, int]:
    """Run `work` with file descriptors for an event loop, but none for a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        spare = [stack.enter_context(socket.socket()) for _ in range(3)]  # for the event loop
        highest = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        # Fill the gaps below the limit, so that closing `spare` leaves exactly three free descriptors.
        while (filler := socket.socket()).fileno() < highest:
            stack.enter_context(filler)
        filler.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
        for one in spare:
            one.close()
        try:
            return work()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_relay_survives_a_lack_of_file_descriptors(sqlite_url: str, upstream: Gateway) -> None:
    program = ("prlimit", "--nofile=48", *OURS)
    relay = RelayProcess(environment(sqlite_url, upstream), program=program)
    try:
        relay.ready()
        assert relay.api.call("GET", "/healthz").status_code == 200  # opens the connection that the starts below reuse
        with ExitStack() as stack:
            port = int(relay.api.base_url.rpartition(":")[2])
            for _ in range(80):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            upstream.accept = 1.0  # so that no submission can reuse the previous one's connection
            started = [relay.api.start(f"meanwhile {n}") for n in range(3)]
            assert eventually(lambda: "not accepting" in relay.log), relay.log
        assert {relay.api.wait(one)["status"] for one in started} == {"completed"}
        assert sorted(upstream.paid.values()) == [1, 1, 1]
        assert len([line for line in relay.lines if "not accepting" in line]) == 1
        assert len(relay.log) < 20_000
    finally:
        relay.ensure_ended()
