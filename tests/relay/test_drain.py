"""`litellm-relay drain`: a replica ends up without work, and no client or run notices."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import pytest
from sqlalchemy import create_engine, delete, insert, text

from litellm_openai_example import RelayClient
from litellm_openai_example.http_library import httpx
from litellm_openai_example.relay.ledger.leases import this_host
from litellm_openai_example.relay.ledger.schema import workers

from ..fakes.balancer import balanced
from ..fakes.gateway import Gateway, Json
from ..fakes.scripted import eventually
from .conftest import StartRelay, assert_clean
from .ledger.ledgers import opened, run
from .operating import operate
from .running import Api, RelayProcess, body, environment

CLIENTS = 12
T = TypeVar("T")


def change(url: str, statement: str) -> None:
    engine = create_engine(url.replace("+aiosqlite", ""))
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def name_of(relay: RelayProcess) -> str:
    return next(line for line in relay.lines if "replica: " in line).rpartition("replica: ")[2]


class Replicas:
    """Relay processes on one ledger, each killed at the end if it still runs."""

    def __init__(self, url: str, upstream: Gateway) -> None:
        self.url = url
        self._upstream = upstream
        self.all: list[RelayProcess] = []

    def start(self, **env: str) -> RelayProcess:
        self.all.append(RelayProcess(environment(self.url, self._upstream, **env)))
        return self.all[-1].ready()


@contextmanager
def replicas_on(url: str, upstream: Gateway) -> Iterator[Replicas]:
    started = Replicas(url, upstream)
    yield started
    for process in started.all:
        process.ensure_ended()
    assert_clean("\n".join(process.log for process in started.all), upstream)


@pytest.fixture
def replicas(sqlite_url: str, upstream: Gateway) -> Iterator[Replicas]:
    with replicas_on(sqlite_url, upstream) as started:
        yield started


class Load:
    """Clients that start runs through a load balancer, one after the other, until they are told to stop.

    Attributes:
        started: the accepted runs.
        refusals: how often a start was refused, by its key.
    """

    def __init__(self, address: str) -> None:
        self.started: list[Json] = []
        self.refusals: Counter[str] = Counter()
        self._address = address
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS + 1)
        self._clients = [self._pool.submit(self._post) for _ in range(CLIENTS)]
        self._clients.append(self._pool.submit(self._invoke))

    def stop(self) -> None:
        self._over.set()
        for client in self._clients:
            client.result(60)
        self._pool.shutdown()

    def _post(self) -> None:
        """Start runs, repeating a refused start as the answer asks for."""
        api = Api(self._address)
        while not self._over.is_set():
            key = uuid.uuid4().hex
            start = partial(api.post, body(key, background=True), Idempotency_Key=key)
            while (answer := _repeated(start)).status_code != 202:
                assert answer.status_code == 503, answer.text
                self.refusals[key] += 1
                time.sleep(int(answer.headers["Retry-After"]))
            self.started.append(answer.json())
            assert _repeated(partial(api.wait, self.started[-1]))["status"] == "completed"
        api.http.close()

    def _invoke(self) -> None:
        """Start runs with the library, and wait for each."""
        with RelayClient(self._address, timeout=60) as client:
            while not self._over.is_set():
                client.check()
                key = uuid.uuid4().hex
                run = client.invoke({"research_question": key, "background": True}, idempotency_key=key)
                self.started.append({"invocation_id": run.invocation_id, "invocation_token": run.invocation_token})
                assert client.wait(run.invocation_id, run.invocation_token).status == "completed"


def _repeated(call: Callable[[], T]) -> T:
    """Call until it is answered: a server that ends closes idle connections, perhaps as a request is on its way."""
    while True:
        with suppress(httpx.TransportError):
            return call()


def test_under_load_nothing_is_refused_twice_or_lost(database_url: str, upstream: Gateway) -> None:
    upstream.accept, upstream.seconds = 0.5, 1.0
    limits = {"RELAY_MAX_RUNNING": "1000", "RELAY_MAX_QUEUED": "5000"}
    with replicas_on(database_url, upstream) as replicas:
        leaving, staying = replicas.start(**limits), replicas.start(**limits)
        with balanced(leaving.api.base_url, staying.api.base_url) as address:
            load = Load(address)
            assert eventually(lambda: len(upstream.works) > 2 * CLIENTS)
            done = operate(database_url, "drain", name_of(leaving))
            assert (done.returncode, done.stdout) == (0, f"{name_of(leaving)}  drained\n"), done.stderr
            # Also behind a load balancer that does not look at /readyz: the next start goes there by itself.
            refused = leaving.api.post(body())
            how = refused.status_code, refused.headers["Retry-After"], refused.headers["Connection"]
            assert how == (503, "1", "close")
            assert name_of(leaving) not in operate(database_url, "list").stdout
            assert leaving.terminate() == 0
            count = len(load.started)
            assert eventually(lambda: len(load.started) > count + 2 * CLIENTS)
            load.stop()
        assert max(load.refusals.values(), default=0) <= 1
        with ThreadPoolExecutor(16) as pool:
            views = list(pool.map(staying.api.wait, load.started))
        assert Counter(view["status"] for view in views) == {"completed": len(load.started)}
        assert set(upstream.paid.values()) == {1}
        assert len(upstream.posts) == len(load.started)


def test_alone_a_replica_follows_its_runs_to_their_ends(replicas: Replicas, upstream: Gateway) -> None:
    upstream.accept, upstream.seconds = 1.0, 3600.0
    relay = replicas.start(RELAY_MAX_RUNNING="1")
    first, second = relay.api.start("first"), relay.api.start("second")
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(operate, replicas.url, "drain")  # while the gateway takes its time to accept it
        assert eventually(lambda: "shutting_down" in relay.api.call("GET", "/readyz").text)
        relay.api.submitted(first)
        assert not draining.done()
        upstream.works[next(iter(upstream.works))].seconds = 0.0
        done = draining.result()
    assert (done.returncode, done.stdout) == (0, f"{name_of(relay)}  drained\n")
    assert "1 queued run" in done.stderr
    assert relay.api.view(first)["status"] == "completed"  # it still answers
    assert relay.api.view(second)["status"] == "queued"
    assert operate(replicas.url, "drain").returncode == 0  # again
    assert relay.terminate() == 0
    upstream.seconds = 0.0
    assert replicas.start().api.wait(second)["status"] == "completed"
    assert set(upstream.paid.values()) == {1}


def test_a_run_that_is_watched_goes_on_at_another_replica(replicas: Replicas, upstream: Gateway) -> None:
    upstream.seconds = 3600.0
    leaving = replicas.start(RELAY_WAIT_SECONDS="20")
    started = leaving.api.start()
    leaving.api.submitted(started)
    staying = replicas.start()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(leaving.api.wait, started, 240)
        assert operate(replicas.url, "drain", name_of(leaving)).returncode == 0
        assert eventually(lambda: name_of(staying) in operate(replicas.url, "list").stdout, 120)
        for work in upstream.works.values():
            work.seconds = 0.0
        assert waiting.result()["status"] == "completed"
    # Cancelled by the replica that follows it, wherever the wish was written.
    upstream.seconds = 3600.0
    another = staying.api.start()
    staying.api.submitted(another)
    assert leaving.api.cancel(another)["status"] == "cancelled"


def test_the_last_replica_that_takes_work_keeps_what_others_hand_over(replicas: Replicas, upstream: Gateway) -> None:
    """Two replicas are drained, one after the other: the second follows its runs itself."""
    upstream.seconds = 3600.0
    first, second = replicas.start(), replicas.start()
    started = [api.start(str(n)) for n, api in enumerate((first.api, second.api, first.api, second.api))]
    for one in started:
        first.api.submitted(one)
    assert operate(replicas.url, "drain", name_of(first)).returncode == 0
    late = operate(replicas.url, "drain", name_of(second), "--timeout", "1")
    assert late.returncode == 1
    assert "it goes on draining" in late.stderr.splitlines()[-1]
    first.kill()
    for work in upstream.works.values():
        work.seconds = 0.0
    assert [second.api.wait(one)["status"] for one in started] == ["completed"] * 4
    assert operate(replicas.url, "drain", name_of(second)).returncode == 0


def test_a_ledger_that_forgets_the_wish_does_not_undo_it(start_relay: StartRelay, sqlite_url: str) -> None:
    relay = start_relay()
    assert operate(sqlite_url, "drain").returncode == 0
    change(sqlite_url, "UPDATE relay_workers SET drain = NULL")
    refused = relay.api.post(body())
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert operate(sqlite_url, "drain").returncode == 0


def test_a_stopped_replica_is_drained(start_relay: StartRelay, sqlite_url: str, upstream: Gateway) -> None:
    """As after a drain that took too long for the operator."""
    upstream.seconds = 3600.0
    relay = start_relay()
    relay.api.submitted(relay.api.start())
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(operate, sqlite_url, "drain", relay.relay.name)
        assert eventually(lambda: "shutting_down" in relay.api.call("GET", "/readyz").text, 120)
        relay.stop()
        done = draining.result()
    assert (done.returncode, done.stdout) == (0, f"{relay.relay.name}  drained\n")
    assert f"{relay.relay.name} has ended" in done.stderr


class TestNames:
    """Replicas that live by their leases, whose processes never answer."""

    HERE = f"{this_host()}:1:0a", f"{this_host()}:2:0b"
    ELSEWHERE = "pod-7:1:0c", "pod-8:1:0d"

    def living(self, url: str, *names: str, version: int | None = 5) -> None:
        async def work() -> None:
            async with opened(url) as ledger:
                rows = [{"id": name, "expires_at": time.time() + 9000, "version": version} for name in names]
                mine = delete(workers).where(workers.c.id == ledger.worker)
                await ledger.database.run(lambda connection: connection.execute(mine))
                if rows:
                    await ledger.database.run(lambda connection: connection.execute(insert(workers), rows))

        run(work)

    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            ((), HERE[0]),
            ((this_host(),), HERE[0]),
            ((HERE[0],), HERE[0]),
            (("pod-7",), ELSEWHERE[0]),
            (("pod-8:1",), ELSEWHERE[1]),
        ],
    )
    def test_one_is_meant(self, given: tuple[str, ...], meant: str, sqlite_url: str) -> None:
        self.living(sqlite_url, self.HERE[0], *self.ELSEWHERE)
        done = operate(sqlite_url, "drain", *given, "--timeout", "0")
        assert done.returncode == 1
        assert f"{meant} still has work after 0 s" in done.stderr

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ((), f"several replicas run on this machine: name one of {', '.join(HERE)}"),
            ((this_host(),), f"begin with {this_host()}: name one of {', '.join(HERE)}"),
            (("pod",), f"begin with pod: name one of {', '.join(ELSEWHERE)}"),
            (("0c",), "no replica is named 0c: name one of "),
        ],
    )
    def test_none_or_several(self, given: tuple[str, ...], told: str, sqlite_url: str) -> None:
        self.living(sqlite_url, *self.HERE, *self.ELSEWHERE)
        done = operate(sqlite_url, "drain", *given)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert told in done.stderr

    def test_no_relay_runs(self, sqlite_url: str) -> None:
        self.living(sqlite_url)
        done = operate(sqlite_url, "drain")
        assert (done.returncode, done.stderr) == (2, "[relay] Error: no relay runs on this ledger\n")
        self.living(sqlite_url, *self.ELSEWHERE)
        assert "no replica runs on this machine: name one of pod-7" in operate(sqlite_url, "drain").stderr

    @pytest.mark.parametrize("version", [None, 4])
    def test_an_older_release(self, version: int | None, sqlite_url: str) -> None:
        self.living(sqlite_url, "0123456789abcdef", version=version)
        done = operate(sqlite_url, "drain", "0123")
        assert done.returncode == 2
        assert "runs an older release" in done.stderr
