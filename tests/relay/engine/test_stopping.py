"""Requests to stop a run: only a run that the gateway has stopped, or never received, is called cancelled."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from litellm_openai_example.config import GatewaySettings

from ...fakes.gateway import KEY, SECRET_WORDS, Fault, Gateway, Work
from ...fakes.scripted import eventually
from ..conftest import StartRelay
from ..running import FAST, Json, ThreadedRelay, environment, relay_process

HTML = {"content-type": "text/html"}
# Answers that do not confirm a cancel: errors, proxies' pages, and JSON of other programs that resembles a response.
OUTAGES = [
    Fault("status", 500),
    Fault("status", 503),
    Fault("status", 429),
    Fault("status", 401),
    Fault("drop"),
    Fault("hang"),
    Fault("cut"),
    Fault("empty"),
    Fault("garbage"),
    Fault("foreign", 404, "404 page not found", {"content-type": "text/plain"}),
    Fault("foreign", 403, f"<html>{SECRET_WORDS}</html>", HTML),
    Fault("foreign", 405, "<html>POST is not supported for this URL</html>", HTML),
    Fault("foreign", 302, "", {"location": "https://login.example/"}),
    Fault("status", 200, {"status": "cancelled"}),
    Fault("status", 200, {"id": "req-1", "status": "cancelled"}),
    Fault("status", 200, {"id": "job-1", "object": "job", "status": "cancelled"}),
    Fault("status", 200, {"id": "req-1", "status": "completed"}),
]


def named(fault: Fault) -> str:
    return f"{fault.kind}-{fault.status}-{str(fault.body)[:60]}"


def times(count: int, fault: Fault) -> Callable[[Work], Fault | None]:
    left = [fault] * count
    return lambda work: left.pop() if left else None


def running(relay: ThreadedRelay, **arguments: object) -> Json:
    started = relay.api.start(**arguments)
    relay.api.submitted(started)
    return started


def ask_to_cancel(relay: ThreadedRelay, started: Json) -> Json:
    """Cancel, and return the view in the answer, terminal or not."""
    return relay.api.cancel(started)


@pytest.fixture
def impatient(start_relay: StartRelay) -> ThreadedRelay:
    """A relay that answers a cancel soon, before the gateway has confirmed it."""
    return start_relay(timings=replace(FAST, cancel=0.2))


class TestBeforeTheGatewayAnswers:
    @pytest.mark.parametrize("gate", [60.0, 0.05], ids=["in the gate", "after it"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_cancel_waits_for_the_id_of_the_response(
        self, start_relay: StartRelay, upstream: Gateway, gate: float, stream: bool
    ) -> None:
        upstream.accept, upstream.seconds = 3600.0, 3600.0
        relay = start_relay(timings=replace(FAST, cancel=0.2, gate=gate))
        started = relay.api.start(stream=stream)
        assert eventually(lambda: upstream.posts)
        assert ask_to_cancel(relay, started)["status"] in ("queued", "running")
        upstream.accept = 0.0
        view = relay.api.wait(started)
        assert (view["status"], view["error_code"]) == ("cancelled", "cancelled_by_client")
        assert view["upstream_response_id"] == "resp_0"
        assert [work.cancelled for work in upstream.works.values()] == [True]

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_blocking_model_is_not_stopped_and_its_text_is_kept(
        self, impatient: ThreadedRelay, upstream: Gateway, stream: bool
    ) -> None:
        upstream.bridged, upstream.seconds = True, 3600.0
        started = impatient.api.start(stream=stream)
        impatient.api.until(started, "running")
        assert ask_to_cancel(impatient, started)["status"] == "running"
        upstream.finish()
        view = impatient.api.wait(started)
        assert (view["status"], view["output_text"], view["cost_usd"]) == ("completed", "The answer.", 0.25)

    def test_a_lost_submission_is_not_called_cancelled(self, impatient: ThreadedRelay, upstream: Gateway) -> None:
        # The gateway executes the submission and never answers, so its response has no known id to cancel.
        asked = []

        def lose(request: Json, n: int) -> Fault:
            asked.append(n)
            return Fault("hang", paid=True)

        upstream.on_post = lose
        started = impatient.api.start()
        assert eventually(lambda: asked)
        assert ask_to_cancel(impatient, started)["status"] in ("queued", "running")
        impatient.stop()
        with closing(ledger_of(impatient)) as ledger:
            states = ledger.execute("SELECT state, error_code, cancel_requested FROM relay_invocations").fetchall()
        assert states == [("failed", "submission_indeterminate", 1)]

    def test_a_refused_submission_is_reported_as_refused(self, impatient: ThreadedRelay, upstream: Gateway) -> None:
        upstream.on_post = lambda request, n: Fault("status", 400)
        view = impatient.api.wait(impatient.api.start())
        assert view["error_code"] == "gateway_rejected_request"

    def test_an_unsent_submission_is_cancelled_at_once(self, start_relay: StartRelay) -> None:
        with full_backlog() as port:
            relay = start_relay(gateway=GatewaySettings(f"http://127.0.0.1:{port}/v1", KEY))
            started = relay.api.start()
            assert eventually(lambda: states(relay) == ["submitting"])
            view = relay.api.cancel(started)
        assert (view["status"], view["error_code"]) == ("cancelled", "cancelled_by_client")

    def test_a_rejected_submission_is_cancelled_before_the_retry(
        self, start_relay: StartRelay, upstream: Gateway
    ) -> None:
        # Between the refusal and the retry the run is queued, so the cancel needs no gateway.
        upstream.on_post = lambda request, n: Fault("status", 429, headers={"retry-after": "30"})
        relay = start_relay(timings=replace(FAST, retry=15.0))
        started = relay.api.start()
        assert eventually(lambda: upstream.posts and states(relay) == ["queued"])
        assert relay.api.cancel(started)["status"] == "cancelled"
        assert not upstream.paid


class TestRepeated:
    @pytest.mark.parametrize("fault", OUTAGES, ids=named)
    def test_a_cancel_is_repeated_until_the_gateway_answers(
        self, relay: ThreadedRelay, upstream: Gateway, fault: Fault
    ) -> None:
        upstream.seconds = 60.0
        started = running(relay)
        upstream.on_cancel = times(3, fault)
        relay.api.cancel(started)
        view = relay.api.wait(started)
        assert (view["status"], view["error_code"]) == ("cancelled", "cancelled_by_client")
        assert upstream.cancels == 4

    def test_the_cancel_of_a_stream_is_repeated(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 60.0
        started = relay.api.start(stream=True)
        next(event for event in relay.api.stream(started) if event.name == "output_text")
        upstream.on_cancel = times(3, Fault("status", 503))
        relay.api.cancel(started)
        view = relay.api.wait(started)
        assert (view["status"], view["output_text"]) == ("cancelled", "The ")
        assert upstream.cancels == 4

    def test_a_cancel_is_repeated_until_the_run_ends(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 2.0
        started = running(relay)
        upstream.on_cancel = lambda work: Fault("status", 503)
        relay.api.cancel(started)
        view = relay.api.wait(started)
        assert (view["status"], view["output_text"]) == ("completed", "The answer.")
        assert upstream.cancels >= 2

    def test_pauses_between_cancels_grow(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 60.0
        relay = start_relay(timings=replace(FAST, longest_poll=5.0, cancel=2.0))
        started = running(relay)
        upstream.on_cancel = lambda work: Fault("status", 503)
        relay.api.cancel(started)
        assert 2 <= upstream.cancels <= 20  # 40 without growth

    def test_a_cancel_that_the_model_does_not_support_is_not_repeated(
        self, relay: ThreadedRelay, upstream: Gateway
    ) -> None:
        error = {"message": "cancel is not supported for custom", "type": None, "param": None, "code": "500"}
        upstream.seconds = 1.5
        started = running(relay)
        upstream.on_cancel = lambda work: Fault("status", 500, {"error": error})
        relay.api.cancel(started)
        assert relay.api.wait(started)["status"] == "completed"
        assert upstream.cancels == 1

    def test_when_the_process_is_killed(self, upstream: Gateway, database_url: str) -> None:
        upstream.seconds = 3600.0
        env = environment(database_url, upstream)
        upstream.on_cancel = lambda work: Fault("status", 503)
        with relay_process(env) as relay:
            started = relay.api.start()
            relay.api.submitted(started)
            assert relay.api.cancel(started)["status"] == "running"
            relay.kill()
        upstream.on_cancel = lambda work: None
        with relay_process(env) as relay:
            view = relay.api.wait(started)
        assert (view["status"], view["error_code"]) == ("cancelled", "cancelled_by_client")
        assert [work.cancelled for work in upstream.works.values()] == [True]

    def test_a_process_that_takes_over_repeats_the_cancel(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 3600.0
        upstream.on_cancel = lambda work: Fault("drop")
        first = start_relay(timings=replace(FAST, cancel=0.2))
        started = running(first)
        second = start_relay()
        assert first.api.cancel(started)["status"] == "running"
        first.stop()
        upstream.on_cancel = lambda work: None
        assert second.api.wait(started)["status"] == "cancelled"

    def test_a_response_that_arrives_too_late_is_cancelled(
        self, start_relay: StartRelay, upstream: Gateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Another process has given the run up as indeterminate: its result would be paid for and never read."""
        upstream.accept, upstream.seconds = 1.0, 3600.0
        upstream.on_cancel = times(3, Fault("status", 503))
        relay = start_relay()
        started = relay.api.start()
        assert eventually(lambda: upstream.posts)
        # The state that another process leaves when it declares this one dead.
        given_up = "state = 'failed', error_code = 'submission_indeterminate', owner = NULL"
        change(relay, f"UPDATE relay_invocations SET {given_up}")
        assert eventually(lambda: any(work.cancelled for work in upstream.works.values()))
        assert upstream.cancels == 4
        view = relay.api.wait(started)
        assert (view["error_code"], view["upstream_response_id"]) == ("submission_indeterminate", "resp_0")
        assert eventually(lambda: "cancelled at the gateway" in caplog.text)

    def test_the_log_names_a_late_response_that_could_not_be_stopped(
        self, start_relay: StartRelay, upstream: Gateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        upstream.accept, upstream.seconds = 1.0, 3600.0
        upstream.on_cancel = lambda work: Fault("status", 503)
        relay = start_relay()
        relay.api.start()
        assert eventually(lambda: upstream.posts)
        given_up = "state = 'failed', error_code = 'submission_indeterminate', owner = NULL"
        change(relay, f"UPDATE relay_invocations SET {given_up}")
        assert eventually(lambda: upstream.cancels >= 2)
        relay.stop()
        assert "before the gateway has confirmed the end of resp_0" in caplog.text


class TestTimeLimit:
    def test_the_time_limit_is_reported_once_the_gateway_has_confirmed_the_end(
        self, start_relay: StartRelay, upstream: Gateway
    ) -> None:
        upstream.seconds = 3600.0
        upstream.on_cancel = lambda work: Fault("status", 503)
        relay = start_relay(research_timeout=1.5)
        started = relay.api.start()
        assert eventually(lambda: upstream.cancels >= 2)
        assert relay.api.view(started)["status"] == "running"
        upstream.on_cancel = lambda work: None
        assert relay.api.wait(started)["error_code"] == "research_timeout"

    def test_a_run_that_ends_meanwhile_is_completed(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 3.0
        upstream.on_cancel = lambda work: Fault("drop")
        relay = start_relay(research_timeout=1.5)
        assert relay.api.wait(relay.api.start())["status"] == "completed"

    def test_a_run_that_ends_during_an_outage_is_completed(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 2.5
        upstream.on_cancel = lambda work: Fault("status", 502)
        # The limit passes during the outage; the run ends before the gateway can confirm a cancel.
        upstream.on_get = lambda work, n: Fault("status", 502) if n < 8 else None
        relay = start_relay(research_timeout=1.5)
        assert relay.api.wait(relay.api.start())["status"] == "completed"

    def test_an_exceeded_limit_survives_a_restart_with_another_one(
        self, start_relay: StartRelay, upstream: Gateway
    ) -> None:
        upstream.seconds = 3600.0
        upstream.on_cancel = lambda work: Fault("status", 503)
        first = start_relay(research_timeout=1.5)
        started = first.api.start()
        assert eventually(lambda: upstream.cancels >= 1)
        first.stop()
        upstream.on_cancel = lambda work: None
        second = start_relay()
        assert second.api.wait(started)["error_code"] == "research_timeout"

    def test_the_limit_counts_the_time_before_a_restart(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 3600.0
        first = start_relay()
        started = running(first)
        assert eventually(lambda: upstream.gets >= 5)
        first.stop()
        # Stands for 1,000 s of polls by the first relay, whose own limit is longer.
        change(first, "UPDATE relay_invocations SET followed = followed + 1000")
        assert upstream.cancels == 0
        second = start_relay(research_timeout=1000.0)
        assert second.api.wait(started)["error_code"] == "research_timeout"

    def test_a_recovered_run_is_polled_before_it_is_stopped(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 3600.0
        first = start_relay()
        started = running(first)
        first.stop()
        # The run ends while no relay is up. Over the limit and cancelled, it could be stopped at once; its paid
        # result must be read first.
        for work in upstream.works.values():
            work.seconds = 0.0
        change(first, "UPDATE relay_invocations SET followed = 1e6, cancel_requested = 1")
        second = start_relay()
        assert second.api.wait(started)["status"] == "completed"
        assert upstream.cancels == 0

    @pytest.mark.parametrize("hours", [9, -9, 24 * 365])
    def test_a_wrong_clock_at_a_restart_stops_no_run(self, upstream: Gateway, sqlite_url: str, hours: int) -> None:
        upstream.seconds = 3600.0
        env = environment(sqlite_url, upstream)
        with relay_process(env) as relay:
            started = [relay.api.start(str(n)) for n in range(3)]
            for one in started:
                relay.api.submitted(one)
            relay.kill()
        # Moving the rows in time equals a step of the clock in the other direction, without touching the machine's.
        columns = ("created_at", "updated_at", "started_at")
        moved = ", ".join(f"{column} = {column} - {hours * 3600}" for column in columns)
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite+aiosqlite:///"))) as ledger, ledger:
            ledger.execute(f"UPDATE relay_invocations SET {moved}")
        gets = upstream.gets
        with relay_process(env) as relay:
            assert eventually(lambda: upstream.gets >= gets + 3)
            assert upstream.cancels == 0
            for work in upstream.works.values():
                work.seconds = 0.0
            assert {relay.api.wait(one)["status"] for one in started} == {"completed"}

    def test_a_wrong_clock_does_not_end_an_unsent_run(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.on_post = lambda request, n: Fault("status", 429)
        first = start_relay(research_timeout=30.0)
        started = first.api.start()
        assert eventually(lambda: upstream.posts)
        first.stop()
        change(first, "UPDATE relay_invocations SET started_at = started_at - 1e6, not_before = 0")
        upstream.on_post = lambda request, n: None
        second = start_relay(research_timeout=30.0)
        assert second.api.wait(started)["status"] == "completed"


def states(relay: ThreadedRelay) -> list[str]:
    with closing(ledger_of(relay)) as ledger:
        return [state for (state,) in ledger.execute("SELECT state FROM relay_invocations ORDER BY created_at")]


def change(relay: ThreadedRelay, statement: str) -> None:
    with closing(ledger_of(relay)) as ledger, ledger:
        assert ledger.execute(statement).rowcount == 1


def ledger_of(relay: ThreadedRelay) -> sqlite3.Connection:
    return sqlite3.connect(str(relay.settings.database_url.database), timeout=60)


@contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port that neither accepts nor refuses connections, because its backlog is full."""
    # Linux queues one connection more than the backlog of 0; the second one stays pending, as every later one does.
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        yield full.getsockname()[1]
