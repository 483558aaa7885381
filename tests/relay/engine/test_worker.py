"""A worker whose ledger or gateway fails in odd ways: its loops go on, and it finds its own runs again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from litellm_openai_example.payer import Payer
from litellm_openai_example.relay.engine import job
from litellm_openai_example.relay.engine.poller import pause
from litellm_openai_example.relay.ledger.failures import LedgerUnavailable
from litellm_openai_example.relay.ledger.records import NewInvocation
from litellm_openai_example.relay.settings import Timings
from litellm_openai_example.research.arguments import DeepResearchArguments

from ...fakes.gateway import Gateway
from ...fakes.scripted import eventually
from ..conftest import StartRelay
from ..running import FAST, ThreadedRelay


class TestLoops:
    @pytest.mark.parametrize(
        ("name", "failures"), [("pending", 3), ("claim", 3), ("heartbeat", 3), ("owned", 1), ("cancel_requests", 3)]
    )
    def test_loops_survive_any_exception_and_log_it_once(
        self,
        relay: ThreadedRelay,
        upstream: Gateway,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        name: str,
        failures: int,
    ) -> None:
        calls = 0

        def broken(*_: Any, **__: Any) -> None:
            nonlocal calls
            calls += 1
            raise KeyError("words of a driver")

        upstream.seconds = 3600.0  # cancel requests are read for running runs only
        with monkeypatch.context() as patched:
            if name == "cancel_requests":
                relay.api.submitted(relay.api.start("before it"))
            patched.setattr(relay.relay.ledger, name, broken)
            started = relay.api.start("while it is broken")
            assert eventually(lambda: calls >= failures)
            said = [record.getMessage() for record in caplog.records if "failed (KeyError" in record.getMessage()]
            assert len(said) <= 1
        # The call works again: the loop must still be there to pick the run up.
        relay.api.submitted(started)
        upstream.seconds = 0.0
        upstream.finish()
        assert relay.api.wait(started)["status"] == "completed"
        assert relay.api.wait(relay.api.start("after it"))["status"] == "completed"
        assert "words of a driver" not in caplog.text

    def test_a_loop_that_ends_stops_the_process(self, relay: ThreadedRelay) -> None:
        loop = next(one for one in asyncio.all_tasks(relay.loop) if one.get_name() == "claiming")
        relay.loop.call_soon_threadsafe(loop.cancel)
        assert eventually(lambda: relay.relay.failed)
        assert relay.relay.hub.closing


class TestLostCommits:
    @pytest.mark.parametrize("answer", ["unavailable", "found nothing"])
    def test_a_lost_answer_to_a_claim_loses_no_run(
        self, relay: ThreadedRelay, upstream: Gateway, monkeypatch: pytest.MonkeyPatch, answer: str
    ) -> None:
        """The claim was committed without this process's knowledge, and a repeat finds nothing to claim."""
        claim = relay.relay.ledger.claim
        lost: list[str] = []

        # The real claim is committed, and only its answer is replaced.
        async def losing(limit: int, **how: Any) -> Any:
            claimed = await claim(limit, **how)
            if not claimed or lost:
                return claimed
            lost.extend(record.id for record in claimed)
            if answer == "unavailable":
                raise LedgerUnavailable
            return []

        monkeypatch.setattr(relay.relay.ledger, "claim", losing)
        view = relay.api.wait(relay.api.start())
        assert lost == [view["invocation_id"]]
        assert view["status"] == "completed"
        assert len(upstream.posts) == 1

    def test_a_lost_answer_to_a_take_over_loses_no_run(
        self, start_relay: StartRelay, upstream: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upstream.seconds = 3.0
        first = start_relay()
        started = first.api.start()
        first.api.submitted(started)
        second = start_relay()
        reclaim = second.relay.ledger.reclaim
        lost: list[str] = []

        async def losing(**how: Any) -> Any:
            taken = await reclaim(**how)
            lost.extend(record.id for record in taken)
            return []

        monkeypatch.setattr(second.relay.ledger, "reclaim", losing)
        first.stop()
        assert second.api.wait(started)["status"] == "completed"
        assert lost == [started["invocation_id"]]


def test_a_take_over_follows_all_runs_but_starts_none_beyond_the_limit(
    start_relay: StartRelay, upstream: Gateway
) -> None:
    """Following a paid run costs nothing more, and the gateway keeps its result for minutes only."""
    upstream.seconds = 3600.0
    first = start_relay()
    for one in [first.api.start(str(n)) for n in range(6)]:
        first.api.submitted(one)
    running = list(upstream.works.values())
    second = start_relay(max_running=2)
    first.stop()
    jobs = second.relay._worker.jobs
    assert eventually(lambda: len(jobs) == 6)
    new = second.api.start("new")
    for work in running[:4]:
        work.seconds = 0.0
    assert eventually(lambda: len(jobs) == 2)
    assert second.api.view(new)["status"] == "queued"
    assert len(upstream.posts) == 6
    running[4].seconds = 0.0
    assert eventually(lambda: len(upstream.posts) == 7)


def test_a_take_over_keeps_the_limit_of_polls(start_relay: StartRelay, upstream: Gateway) -> None:
    """Polls of all recovered runs at the same moment would keep the process from other work."""
    upstream.seconds = 3600.0
    first = start_relay(max_running=60)
    for one in [first.api.start(str(n)) for n in range(60)]:
        first.api.submitted(one)
    times: list[float] = []
    second = start_relay(timings=replace(FAST, polls_per_second=20.0))
    first.stop()

    def note(*_: object) -> None:
        times.append(time.monotonic())

    upstream.on_get = note
    assert eventually(lambda: len(times) > 60)
    # 60 polls at 20 a second take 3 s.
    assert times[60] - times[0] >= 2.9
    assert len(second.relay._worker.jobs) == 60


class TestPolls:
    @pytest.mark.parametrize("length", [0.4, 1.0, 2.5, 5.0, 7.3, 20.0, 60.0, 74.0, 76.0, 600.0, 3600.0, 8 * 3600.0])
    @pytest.mark.parametrize("just_missed", [False, True])
    def test_polls_find_an_end_soon(self, length: float, just_missed: bool) -> None:
        age, _ = self.polls_until(length + 1e-6 * just_missed)
        assert age - length <= min(15.0, max(1.0, 0.2 * length)) + 1e-5

    @pytest.mark.parametrize(("length", "most"), [(1.0, 2), (5.0, 6), (60.0, 20), (600.0, 55)])
    @pytest.mark.parametrize("just_missed", [False, True])
    def test_polls_are_few(self, length: float, most: int, just_missed: bool) -> None:
        _, polls = self.polls_until(length + 1e-6 * just_missed)
        assert polls <= most

    @staticmethod
    def polls_until(length: float) -> tuple[float, int]:
        """Return the age at which the end of a run of `length` seconds is found, and the polls until then."""
        age, polls = 0.0, 0
        while age < length:
            age += pause(None, age, Timings())
            polls += 1
        return age, polls

    def test_polls_follow_the_gateways_interval_within_limits(self) -> None:
        assert [pause(wish, 100.0, Timings()) for wish in (0.0, 1.5, 30.0, 3600.0)] == [1.0, 1.5, 30.0, 60.0]

    def test_a_slow_submission_does_not_advance_the_first_poll(
        self, start_relay: StartRelay, upstream: Gateway
    ) -> None:
        upstream.accept, upstream.seconds = 1.5, 2.4  # from the arrival of the submission
        relay = start_relay(timings=replace(FAST, first_poll=1.0, longest_poll=5.0))
        assert relay.api.wait(relay.api.start())["status"] == "completed"
        assert upstream.gets == 1

    def test_a_real_run_is_polled_rarely(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 4.0
        relay = start_relay(timings=Timings())
        assert relay.api.wait(relay.api.start())["status"] == "completed"
        assert upstream.gets <= 4


def test_a_run_with_a_newer_argument_is_left_to_the_newer_relay(
    relay: ThreadedRelay, upstream: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two releases share a ledger during an upgrade: the older relay leaves the run to the newer one."""

    class NewerArguments(DeepResearchArguments):
        newer: bool = False

    new = NewInvocation.of(NewerArguments.model_validate({"research_question": "Why?", "newer": True}), None, Payer())
    asyncio.run_coroutine_threadsafe(relay.relay.accept(new), relay.loop).result(60)
    started = {"invocation_id": new.id, "invocation_token": relay.relay.ledger.tokens.derived(new.id)}
    # Several rounds of claims: the older relay must not fail a run that it cannot read.
    time.sleep(1.0)
    assert relay.api.view(started)["status"] == "queued"
    assert not upstream.posts
    monkeypatch.setattr(job, "DeepResearchArguments", NewerArguments)
    assert relay.api.wait(started)["status"] == "completed"
    assert len(upstream.posts) == 1
