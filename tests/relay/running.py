"""Relays for tests: in a thread of this process, or in a separate process that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy.engine import make_url

from litellm_openai_example.config import GatewaySettings
from litellm_openai_example.http_library import httpx
from litellm_openai_example.relay.process import RelayServer, bind
from litellm_openai_example.relay.service import Relay
from litellm_openai_example.relay.settings import Settings, Timings
from litellm_openai_example.research.contract import INVOCATIONS_PATH, TERMINAL, TOKEN_HEADER

from ..fakes.gateway import KEY, Gateway

Json = dict[str, Any]

# Seconds that a test waits for a fact. Only a failure takes as long, on a busy machine too; pytest stops it after 300.
PATIENCE = 150.0
FAST = Timings(
    first_poll=0.05, longest_poll=0.2, poll_timeout=0.6, missing=1.5, gate=0.4, lease=1.5, tick=0.1, flush=0.02,
    stall=0.3, retry=0.3, keep_alive=0.3, body=0.6, cancel=3.0, drain=1.5,
)  # fmt: skip


def body(question: str = "Why?", /, **arguments: Any) -> Json:
    return {"tool_name": "deep_research", "arguments": {"research_question": question, **arguments}}


def token(view: Json) -> dict[str, str]:
    return {TOKEN_HEADER: view["invocation_token"]}


def settings(database_url: str, gateway: Gateway, /, **changes: Any) -> Settings:
    return Settings(
        **{
            "gateway": GatewaySettings(f"{gateway.base_url}/v1", KEY),
            "database_url": make_url(database_url),
            "port": 0,
            "timings": FAST,
            "wait": 10.0,
            **changes,
        }
    )


@dataclass
class Event:
    id: int
    name: str
    data: Json


class Api:
    """The relay's API over HTTP, blocking. Each answer is checked to reveal nothing of the gateway."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.http = httpx.Client(base_url=base_url, timeout=90, trust_env=False)

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, path, **options)

    def post(self, data: Json, **headers: str) -> httpx.Response:
        return self.call(
            "POST", INVOCATIONS_PATH, json=data, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    def persist(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        """Repeat a call while the ledger is unavailable: a busy disk may outlast the time a client is let wait."""
        until = time.monotonic() + PATIENCE
        while (answer := call()).status_code == 503 and "ledger_unavailable" in answer.text:
            assert time.monotonic() < until, answer.text
        return answer

    def start(self, question: str = "Why?", /, **arguments: Any) -> Json:
        """Start a background run."""
        if not arguments.get("stream"):
            arguments.setdefault("background", True)
        # A start that the ledger did not keep in time is withdrawn, so its repeat is the only one.
        answer = self.persist(lambda: self.post(body(question, **arguments)))
        assert answer.status_code in (200, 202), answer.text
        return dict(answer.json())

    def view(self, started: Json) -> Json:
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}"
        answer = self.persist(lambda: self.call("GET", path, headers=token(started)))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, started: Json, timeout: float = PATIENCE) -> Json:
        """Return the view of a run once it has ended; one request waits no longer than the relay's own limit."""
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}/wait"
        until = time.monotonic() + timeout
        while True:
            left = max(0.0, until - time.monotonic())
            params = {"timeout": left}
            answer = self.persist(lambda params=params: self.call("GET", path, headers=token(started), params=params))  # type: ignore[misc]
            if answer.status_code != 202 or not left:
                assert answer.status_code == 200, answer.text
                return dict(answer.json())

    def cancel(self, started: Json) -> Json:
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}/cancel"
        answer = self.persist(lambda: self.call("POST", path, headers=token(started)))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def until(self, started: Json, *statuses: str, timeout: float = PATIENCE) -> Json:
        return self._poll(started, lambda view: view["status"] in statuses, timeout)

    def submitted(self, started: Json) -> None:
        """Wait until the relay has the gateway's id. A run whose submission takes long is shown as running before."""

        def has_id(view: Json) -> bool:
            assert view["upstream_response_id"] or view["status"] in ("queued", "running"), view
            return view["upstream_response_id"] is not None

        self._poll(started, has_id, PATIENCE)

    def _poll(self, started: Json, holds: Callable[[Json], bool], timeout: float) -> Json:
        until = time.monotonic() + timeout
        while not holds(view := self.view(started)):
            assert time.monotonic() < until, view
            time.sleep(0.02)
        return view

    def events(self, started: Json, last: int | None = None) -> list[Event]:
        """Return all events until the stream ends."""
        return list(self.stream(started, last))

    def stream(self, started: Json, last: int | None = None) -> Iterator[Event]:
        headers = token(started) | ({} if last is None else {"Last-Event-ID": str(last)})
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}/events"
        with self.http.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    yield Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                    fields = {}


class ThreadedRelay:
    """A relay in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        if self._failure is not None:
            raise self._failure
        self.api = Api(next(line for line in self.lines if "listening on" in line).split()[-1])
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.server.stop)
            self._thread.join(60)
            assert not self._thread.is_alive()
            self.api.http.close()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.relay = Relay(self.settings)
        await self.relay.open()
        with bind(self.settings.host, 0) as listener:
            try:
                await self.relay.start()
                self.server = RelayServer(self.settings, self.relay, listener, self._tell)
                await self.server.serve(sockets=[listener])
            finally:
                await self.relay.stop()

    def _tell(self, line: str) -> None:
        self.lines.append(line)
        if "listening" in line:
            self._ready.set()


OURS = (sys.executable, "-m", "litellm_openai_example.relay")


class RelayProcess:
    """A relay process with the given environment: this release, or the program of another one."""

    def __init__(self, env: Mapping[str, str], *arguments: str, program: Sequence[str] = OURS) -> None:
        base = {name: value for name, value in os.environ.items() if not name.startswith(("LITELLM_", "RELAY_"))}
        command = [*program, *(arguments or ("--port", "0"))]
        self.process = subprocess.Popen(command, env=base | dict(env), stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ready(self, seconds: float = PATIENCE) -> Self:
        assert self._listening.wait(seconds), f"not ready after {seconds} s: {self.log}"
        said = [line for line in self.lines if "listening on" in line]
        assert said, self.log
        self.api = Api(said[-1].split()[-1])
        return self

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def ensure_ended(self) -> None:
        if self.process.poll() is None:
            self.kill()

    def terminate(self) -> int:
        self.process.terminate()
        return self.end()

    def end(self) -> int:
        code = self.process.wait(60)
        self._reader.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()
        if hasattr(self, "api"):
            self.api.http.close()
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if "listening" in line:
                self._listening.set()
        self._listening.set()


@contextmanager
def relay_process(env: Mapping[str, str], *arguments: str) -> Iterator[RelayProcess]:
    """Start a relay process that ends with the block."""
    process = RelayProcess(env, *arguments)
    try:
        yield process.ready()
    finally:
        process.ensure_ended()


def environment(database_url: str, gateway: Gateway, **more: str) -> dict[str, str]:
    return {
        "LITELLM_BASE_URL": gateway.base_url,
        "LITELLM_API_KEY": KEY,
        "RELAY_DATABASE_URL": database_url,
        **more,
    }


def finished(view: Json) -> bool:
    return view["status"] in TERMINAL
