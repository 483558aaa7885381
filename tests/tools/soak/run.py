"""Clients, a relay killed at random, and a failing provider; then a reconciliation of every run."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count

from litellm_openai_example.http_library import httpx

from ...fakes.gateway import Gateway, Json
from ...fakes.scripted import free_port
from ...relay.running import Api, RelayProcess, body, environment, token
from .faults import BadDay
from .reconcile import ENDED, Reconciliation, Run, reconcile

_CLIENTS = 8
_AT_THE_END = 150.0  # seconds in which everything that was accepted has to end


class Soak:
    """One ledger under load.

    Args:
        database_url: URL of an empty database.
        seed: seed of all random choices.
        rate: runs started per second.
    """

    def __init__(self, database_url: str, seed: int, rate: float = 5.0) -> None:
        self.gateway = Gateway().start()
        self.day = BadDay(self.gateway, seed)
        self.runs: list[Run] = []
        self.kills: list[float] = []
        self.slowest_start = 0.0
        self._random = random.Random(seed + 1)
        self._pause = _CLIENTS / rate
        self._env = environment(
            database_url, self.gateway, RELAY_MAX_RUNNING="100", RELAY_MAX_QUEUED="5000", RELAY_LOG_LEVEL="ERROR",
            RELAY_WAIT_SECONDS="1",
        )  # fmt: skip
        self._port = free_port()
        self._api = Api(f"http://127.0.0.1:{self._port}")
        self._numbers = count()
        self._stopping = threading.Event()

    def run(self, seconds: float, kill_every: float) -> Reconciliation:
        """Run for `seconds`, and kill the relay (-9) every `kill_every` seconds."""
        relay = self._start()
        try:
            with ThreadPoolExecutor(_CLIENTS) as clients:
                working = [clients.submit(self._client, self._random.random()) for _ in range(_CLIENTS)]
                try:
                    until = time.monotonic() + seconds
                    while (left := until - time.monotonic()) > 0:
                        time.sleep(min(left, kill_every))
                        if left > kill_every:
                            relay.kill()
                            self.kills.append(time.monotonic())
                            relay = self._start()
                finally:
                    self._stopping.set()
                    self.day.over = True
                for client in working:
                    client.result()
            self._look_at_all()
        finally:
            relay.ensure_ended()
            self._api.http.close()
            self.gateway.stop()
        return reconcile(self.runs, self.day.posts, self.kills)

    def _start(self) -> RelayProcess:
        began = time.monotonic()
        process = RelayProcess(self._env, "--port", str(self._port)).ready(120)
        self.slowest_start = max(self.slowest_start, time.monotonic() - began)
        return process

    def _client(self, seed: float) -> None:
        chance = random.Random(seed)
        while not self._stopping.wait(chance.uniform(0, 2 * self._pause)):
            run = Run(f"soak question {next(self._numbers)}")
            mode = chance.choice(("background", "background", "stream", "foreground"))
            started = self._accepted(run, mode, again=chance.random() < 0.1)
            self.runs.append(run)
            with suppress(httpx.HTTPError, AssertionError):  # the relay may be killed, or out of its ledger, meanwhile
                if chance.random() < 0.05:
                    run.cancelled = True
                    self._api.cancel(started)
                elif mode == "stream" and chance.random() < 0.3:
                    self._api.events(started)

    def _accepted(self, run: Run, mode: str, *, again: bool) -> Json:
        """Start a run under one key, as often as it takes."""
        arguments = {} if mode == "foreground" else {mode: True}
        while True:
            with suppress(httpx.HTTPError):
                answer = self._api.post(body(run.question, **arguments), Idempotency_Key=run.question.replace(" ", "-"))
                if answer.status_code in (200, 202):
                    view: Json = answer.json()
                    run.ids.add(view["invocation_id"])
                    run.token = view["invocation_token"]
                    if not again:
                        return view
                    again = False
                else:
                    assert answer.status_code == 503, answer.text
            time.sleep(0.2)

    def _look_at_all(self) -> None:
        until = time.monotonic() + _AT_THE_END
        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(lambda run: self._look_at(run, until), self.runs))

    def _look_at(self, run: Run, until: float) -> None:
        (invocation_id, *_) = run.ids
        started = {"invocation_id": invocation_id, "invocation_token": run.token}
        path = f"/api/v1/tool-invocations/{invocation_id}"
        while True:
            answer = self._api.call("GET", path, headers=token(started))
            if answer.status_code in (403, 404):
                return
            if answer.status_code == 200:
                view = answer.json()
                run.status, run.error_code, run.text = view["status"], view["error_code"], view["output_text"]
                if run.status in ENDED:
                    return
            if time.monotonic() > until:
                return
            time.sleep(0.5)
