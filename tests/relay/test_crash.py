"""kill -9 at the worst moments, on both databases: no run is paid twice or lost, and unknown outcomes are reported.

The relay runs as a separate process, with its default timings.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from litellm_openai_example import AsyncRelayClient, RelayClient
from litellm_openai_example.http_library import httpx
from litellm_openai_example.relay.settings import Settings
from litellm_openai_example.research.contract import INVOCATIONS_PATH

from ..fakes.gateway import Gateway, Json
from ..fakes.postgresql import PostgreSQL
from ..fakes.scripted import eventually, free_port
from ..tools.soak.burst import burst
from .conftest import assert_clean
from .running import PATIENCE, Api, RelayProcess, body, environment, relay_process

RUNNING = 200
BURST = 400
# A submission is marked as sent just before it leaves. A crash in between leaves at most this many marked in vain.
GATE = 8


class Relays:
    """Relay processes on one ledger, each killed at the end if it still runs."""

    def __init__(self, database_url: str, upstream: Gateway) -> None:
        self._env = environment(database_url, upstream, RELAY_MAX_RUNNING="1000", RELAY_MAX_QUEUED="2000")
        self._stack = ExitStack()
        self.all: list[RelayProcess] = []

    def start(self, port: int = 0) -> RelayProcess:
        process = RelayProcess(self._env, "--port", str(port))
        self.all.append(process)
        self._stack.callback(process.ensure_ended)
        return process.ready()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def relays(database_url: str, upstream: Gateway) -> Iterator[Relays]:
    running = Relays(database_url, upstream)
    yield running
    running.close()
    assert_clean("\n".join(process.log for process in running.all), upstream)


def accepted(api: Api, count: int, **arguments: object) -> list[Json]:
    """Start `count` invocations, 16 at a time."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda n: api.start(f"question {n}", **arguments), range(count)))


def all_running(upstream: Gateway, api: Api, started: list[Json]) -> None:
    """Wait until all runs are running. The relay is asked only once the gateway has received every submission."""
    assert eventually(lambda: len(upstream.posts) == len(started))
    for one in started:
        api.submitted(one)


def ended(api: Api, started: list[Json], timeout: float = PATIENCE) -> list[Json]:
    """Return the views of runs once they have ended."""
    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(lambda one: api.wait(one, timeout), started))


def numbers(upstream: Gateway) -> set[int]:
    """Return the numbers of the questions that reached the gateway."""
    lines = (line for post in upstream.posts for line in str(post["input"]).splitlines())
    return {int(line.removeprefix("question ")) for line in lines if line.startswith("question ")}


def assert_paid_once(upstream: Gateway) -> None:
    assert max(upstream.paid.values()) == 1
    assert len(upstream.posts) == len(upstream.paid)


def finish(upstream: Gateway) -> None:
    """Complete all responses that run at the gateway."""
    for work in upstream.works.values():
        work.seconds = 0.0


class TestKilled:
    def test_all_of_200_runs_complete(self, relays: Relays, upstream: Gateway) -> None:
        upstream.seconds = 3600.0
        relay = relays.start()
        started = accepted(relay.api, RUNNING)
        all_running(upstream, relay.api, started)
        relay.kill()
        finish(upstream)
        views = ended(relays.start().api, started)
        assert Counter(view["status"] for view in views) == {"completed": RUNNING}
        assert {view["output_text"] for view in views} == {"The answer."}
        assert len(upstream.paid) == RUNNING
        assert_paid_once(upstream)

    def test_a_running_run_is_followed_even_if_a_queued_one_took_the_last_place(
        self, upstream: Gateway, database_url: str
    ) -> None:
        """The gateway keeps the first result for minutes only, and the second run may take an hour."""
        upstream.seconds = 3600.0
        env = environment(database_url, upstream, RELAY_MAX_RUNNING="1")
        with relay_process(env) as relay:
            first = relay.api.start("first")
            relay.api.submitted(first)
            second = relay.api.start("second")
            relay.kill()
        finish(upstream)
        with relay_process(env) as relay:
            relay.api.submitted(second)
            assert relay.api.wait(first)["status"] == "completed"
            assert relay.api.view(second)["status"] == "running"

    def test_a_kill_in_a_burst_loses_no_run(self, relays: Relays, upstream: Gateway) -> None:
        upstream.accept = 0.3
        relay = relays.start()

        def kill() -> None:
            assert eventually(lambda: len(upstream.posts) >= 60)
            relay.process.kill()

        threading.Thread(target=kill).start()

        def start(number: int) -> Json | None:
            try:
                return relay.api.start(f"question {number}")
            except httpx.TransportError:
                return None

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(start, range(BURST)))
        relay.end()
        # Starts without an answer may have been accepted too; only the answered ones are promised a result.
        started = {number: answer for number, answer in enumerate(answers) if answer is not None}
        assert len(started) >= 60
        reached = numbers(upstream)
        views = dict(zip(started, ended(relays.start().api, list(started.values())), strict=True))
        unknown = {n for n, view in views.items() if view["error_code"] == "submission_indeterminate"}
        assert len(unknown) <= Settings.submits
        assert len(unknown - reached) <= GATE
        assert {views[n]["status"] for n in views.keys() - unknown} == {"completed"}
        assert_paid_once(upstream)

    def test_repeated_kills_in_bursts_of_slow_submissions(self, database_url: str) -> None:
        """Indeterminate runs had left this machine, except those killed between the mark and the first byte."""
        found = burst(database_url, kills=4, seed=int(time.time()))
        assert found.clean, found
        assert found.found.unknown["killed in flight"] > GATE  # slow submissions leave the gate: the README says so

    def test_in_a_burst_of_slow_submissions(self, relays: Relays, upstream: Gateway) -> None:
        """The outcome is unknown for runs that reached the gateway or were just about to leave, and for no others."""
        upstream.accept = 30.0
        relay = relays.start()
        started = accepted(relay.api, BURST // 4)
        assert eventually(lambda: len(upstream.posts) >= 20)
        relay.kill()
        # From here the gateway answers at once, so only the killed submissions can remain unknown.
        reached = numbers(upstream)
        upstream.accept = 0.0
        views = ended(relays.start().api, started)
        unknown = {n for n, view in enumerate(views) if view["error_code"] == "submission_indeterminate"}
        assert unknown >= reached
        assert len(unknown - reached) <= GATE
        assert Counter(view["status"] for view in views)["completed"] == len(started) - len(unknown)
        assert_paid_once(upstream)

    def test_unsent_runs_are_submitted_after_a_kill(self, relays: Relays, upstream: Gateway, database_url: str) -> None:
        """The gateway accepts no connection: no request has left this machine, so no run can have been paid."""
        # A listener with a full backlog keeps the connection pending: the submission begins and sends no byte.
        with socket.socket() as full, socket.socket() as first, socket.socket() as second:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for client in (first, second):  # they fill the backlog
                client.setblocking(False)
                client.connect_ex(full.getsockname())
            nowhere = environment(database_url, upstream, LITELLM_BASE_URL=f"http://127.0.0.1:{full.getsockname()[1]}")
            with relay_process(nowhere) as relay:
                started = accepted(relay.api, 4)
                for one in started:
                    relay.api.until(one, "running")  # it has left the gate
                relay.kill()
        views = ended(relays.start().api, started)
        assert Counter((view["status"], view["error_code"]) for view in views) == {("completed", None): 4}
        assert_paid_once(upstream)

    def test_blocking_clients_survive_a_restart(self, relays: Relays, upstream: Gateway) -> None:
        upstream.seconds, upstream.pieces = 5.0, list("durable!")
        relay = relays.start(port := free_port())
        url = relay.api.base_url
        research = {"research_question": "Why?"}
        with RelayClient(url, timeout=PATIENCE) as client, ThreadPoolExecutor(2) as pool:
            waited = client.invoke(research | {"background": True})
            watched = client.invoke(research | {"stream": True})
            wait = pool.submit(client.wait, waited.invocation_id, waited.invocation_token)
            events = pool.submit(lambda: list(client.events(watched.invocation_id, watched.invocation_token)))
            relay.api.submitted(waited.model_dump(mode="json"))
            assert eventually(lambda: relay.api.view(watched.model_dump(mode="json"))["output_text"])
            relay.kill()
            relays.start(port)
            assert wait.result(PATIENCE).status == "completed"
            heard = events.result(PATIENCE)
        assert [event.name for event in heard][-1] == "completed"
        assert [event.name for event in heard].count("completed") == 1
        # The stream resumed after the last event seen: no event is missing or repeated.
        ids = [int(event.id) for event in heard]
        assert ids == sorted(set(ids))
        assert len(upstream.posts) == 2

    def test_async_clients_survive_a_restart(self, relays: Relays, upstream: Gateway) -> None:
        upstream.seconds = 4.0
        relay = relays.start(port := free_port())

        async def ride() -> tuple[str, str]:
            async with AsyncRelayClient(relay.api.base_url, timeout=PATIENCE) as client:
                run = await client.invoke({"research_question": "Why?", "background": True})
                wait = asyncio.create_task(client.wait(run.invocation_id, run.invocation_token))
                names = asyncio.create_task(last_event(client, run.invocation_id, run.invocation_token))
                await asyncio.to_thread(relay.api.submitted, run.model_dump(mode="json"))
                await asyncio.to_thread(relay.kill)
                await asyncio.to_thread(relays.start, port)
                return (await wait).status, await names

        assert asyncio.run(ride()) == ("completed", "completed")
        assert len(upstream.posts) == 1

    def test_an_unanswered_start_is_repeated(self, relays: Relays, upstream: Gateway) -> None:
        """The client cannot know whether the run was accepted; its key makes the repeat safe."""
        upstream.seconds = 4.0
        relay = relays.start(port := free_port())
        with RelayClient(relay.api.base_url, timeout=PATIENCE) as client, ThreadPoolExecutor(1) as pool:
            invoked = pool.submit(client.invoke, {"research_question": "Why?"})
            assert eventually(lambda: " submitted" in relay.log)
            relay.kill()
            relays.start(port)
            assert invoked.result(PATIENCE).status == "completed"
        assert len(upstream.posts) == 1


async def last_event(client: AsyncRelayClient, invocation_id: str, token: str) -> str:
    name = ""
    async for event in client.events(invocation_id, token):
        name = event.name
    return name


def test_two_processes_share_a_ledger(relays: Relays, upstream: Gateway) -> None:
    first, second = relays.start(), relays.start()
    started = accepted(first.api, 20) + accepted(second.api, 20)
    # Each relay is asked for the runs that the other one accepted.
    for api, mine in ((first.api, started[20:]), (second.api, started[:20])):
        assert {view["status"] for view in ended(api, mine)} == {"completed"}
    assert len(upstream.posts) == 40


def test_a_graceful_stop_loses_no_run(relays: Relays, upstream: Gateway) -> None:
    """On SIGTERM waits are answered, event streams end with a time to reconnect, and no run is lost."""
    upstream.seconds = 6.0
    relay = relays.start()
    started = accepted(relay.api, 20)
    path = f"{INVOCATIONS_PATH}/{started[0]['invocation_id']}"
    headers = {"X-Invocation-Token": started[0]["invocation_token"]}
    relay.api.submitted(started[0])
    with ThreadPoolExecutor(3) as pool:
        wait = pool.submit(relay.api.call, "GET", f"{path}/wait", headers=headers, params={"timeout": 60})
        watch = pool.submit(relay.api.call, "GET", f"{path}/events", headers=headers)
        foreground = pool.submit(relay.api.post, body("question in the foreground"))
        assert eventually(lambda: len(upstream.posts) == 21)
        relay.process.terminate()
        answers = wait.result(PATIENCE), foreground.result(PATIENCE)
        assert [answer.status_code for answer in answers] == [202, 202]
        assert "retry: " in watch.result(PATIENCE).text.rstrip().splitlines()[-1]
        assert relay.end() == 0
    views = ended(relays.start().api, [*started, answers[1].json()])
    assert Counter(view["status"] for view in views) == {"completed": 21}
    assert len(upstream.posts) == 21


class TestPostgreSQL:
    @pytest.fixture
    def database_url(self, postgresql: PostgreSQL) -> str:
        return postgresql.new_database()

    def test_a_replica_takes_over(self, relays: Relays, upstream: Gateway) -> None:
        upstream.seconds = 3600.0
        first, second = relays.start(), relays.start()
        started = [*accepted(first.api, 50), *accepted(second.api, 50)]
        all_running(upstream, second.api, started)
        first.kill()
        finish(upstream)
        views = ended(second.api, started)
        assert Counter(view["status"] for view in views) == {"completed": 100}
        assert len(upstream.posts) == 100

    def test_a_restart_of_the_database_loses_no_run(
        self, relays: Relays, upstream: Gateway, postgresql: PostgreSQL
    ) -> None:
        upstream.seconds = 4.0
        relay = relays.start()
        started = accepted(relay.api, 50)
        postgresql.stop()
        try:
            answer = relay.api.post(body("while it is away", background=True))
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
            assert relay.api.call("GET", "/readyz").status_code == 503
            assert relay.api.call("GET", "/healthz").status_code == 200
        finally:
            postgresql.start()
        assert eventually(lambda: relay.api.call("GET", "/readyz").status_code == 200)
        views = ended(relay.api, started)
        unknown = [view for view in views if view["error_code"] == "submission_indeterminate"]
        assert not unknown
        assert Counter(view["status"] for view in views) == {"completed": 50}
        assert_paid_once(upstream)
        assert "while it is away" not in str(upstream.posts)
