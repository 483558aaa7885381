"""The gate: it adapts the rate of submissions and polls to the gateway's answers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from litellm_openai_example.relay.engine.gate import Gate, Place

from ..fakes.gateway import Fault, Gateway
from ..fakes.scripted import eventually
from .conftest import StartRelay
from .running import FAST

REFUSED = 6  # four at a time, then one by one


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", clock)
        yield clock


def flight(gate: Gate, wanted: int = 10_000) -> list[Place]:
    """Begin as many submissions as the gate admits now."""
    return [gate.enter() for _ in range(gate.room(wanted))]


def accepted(clock: Clock, gate: Gate, places: list[Place], seconds: float = 0.5) -> None:
    for place in places:
        place.left_at = clock.now
    clock.now += seconds
    for place in places:
        gate.accepted(place, finished=False)
        gate.free(place)


def refused(clock: Clock, gate: Gate, places: list[Place], delay: float | None = None) -> None:
    clock.now += 0.01
    for place in places:
        gate.refused(place, delay)
        gate.free(place)


class TestWindow:
    def test_the_window_doubles_each_round_trip_up_to_the_setting(self, clock: Clock) -> None:
        gate = Gate(200)
        sizes = []
        for _ in range(4):
            places = flight(gate)
            sizes.append(len(places))
            accepted(clock, gate, places)
        assert sizes == [64, 128, 200, 200]

    @pytest.mark.parametrize("most", [1, 3, 64])
    def test_the_first_window_is_within_the_setting(self, clock: Clock, most: int) -> None:
        gate = Gate(most)
        places = flight(gate)
        assert len(places) == most
        accepted(clock, gate, places)
        assert len(flight(gate)) == most

    def test_a_round_of_refusals_halves_the_window_once(self, clock: Clock) -> None:
        gate = Gate(200)
        places = flight(gate)
        refused(clock, gate, places)
        assert gate.window == 32

    def test_a_halved_window_grows_by_one_each_round_trip(self, clock: Clock) -> None:
        gate = Gate(200)
        refused(clock, gate, flight(gate))
        clock.now += 1
        accepted(clock, gate, flight(gate))  # the probe
        for size in (32, 33, 34):
            clock.now += 1
            places = flight(gate)
            assert len(places) == size
            accepted(clock, gate, places)

    def test_the_window_never_closes_permanently(self, clock: Clock) -> None:
        gate = Gate(200)
        for _ in range(100):
            refused(clock, gate, flight(gate))
            clock.now += 60
        assert gate.room(10) == 1

    def test_an_unused_window_does_not_grow(self, clock: Clock) -> None:
        gate = Gate(200)
        for _ in range(1000):
            accepted(clock, gate, flight(gate, 5))
        assert gate.window == 64

    def test_the_window_does_not_grow_while_the_gateway_queues(self, clock: Clock) -> None:
        gate = Gate(200)
        accepted(clock, gate, flight(gate), seconds=0.3)
        for _ in range(20):
            accepted(clock, gate, flight(gate), seconds=1.5)
        assert gate.window == 128

    def test_the_window_grows_if_the_gateway_is_always_slow(self, clock: Clock) -> None:
        gate = Gate(200)
        accepted(clock, gate, flight(gate, 5), seconds=0.1)
        clock.now += 100  # the quick answer expires as the measure of a normal delay
        accepted(clock, gate, flight(gate), seconds=1.5)
        accepted(clock, gate, flight(gate), seconds=1.5)
        assert gate.window > 150

    def test_a_blocking_model_does_not_open_the_window(self, clock: Clock) -> None:
        gate = Gate(200)
        for place in flight(gate):
            gate.accepted(place, finished=True)
            gate.free(place)
        assert gate.blocks
        assert gate.window == 64

    def test_a_place_is_freed_once(self, clock: Clock) -> None:
        gate = Gate(2)
        places = flight(gate)
        for _ in range(3):
            gate.free(places[0])
        assert gate.room(10) == 1


class TestClosedGate:
    def test_one_submission_at_a_time_probes_with_growing_pauses(self, clock: Clock) -> None:
        gate = Gate(200)
        refused(clock, gate, flight(gate))
        pauses = []
        for _ in range(8):
            began = clock.now
            while not gate.room(100):
                clock.now += 0.125
            pauses.append(round(clock.now - began))
            places = flight(gate)
            assert len(places) == 1
            assert gate.room(100) == 0  # while it probes
            refused(clock, gate, places)
        # The pause doubles from half a second up to the longest one.
        assert pauses == [0, 1, 2, 4, 8, 15, 15, 15]

    @pytest.mark.parametrize(("delay", "closed"), [(None, 0.5), (0.1, 0.5), (7.0, 7.0), (3600.0, 15.0)])
    def test_the_gate_waits_as_long_as_the_gateway_asks(self, clock: Clock, delay: float | None, closed: float) -> None:
        gate = Gate(200)
        refused(clock, gate, flight(gate), delay)
        clock.now += closed - 0.1
        assert gate.room(100) == 0
        clock.now += 0.2
        assert gate.room(100) == 1

    def test_an_accepted_submission_opens_the_gate_at_once(self, clock: Clock) -> None:
        """A rate limit refuses some submissions of a round and may accept the others."""
        gate = Gate(200)
        places = flight(gate)
        refused(clock, gate, places[:10], 10.0)
        assert gate.room(100) == 0
        accepted(clock, gate, places[10:])
        assert gate.room(100) >= 32

    def test_each_end_of_a_refusal_is_logged_once(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "litellm_relay")
        gate = Gate(200)
        for _ in range(50):
            refused(clock, gate, flight(gate))
            clock.now += 60
        for _ in range(50):
            accepted(clock, gate, flight(gate))
        assert len(caplog.records) == 2

    def test_a_rate_limit_is_not_logged(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "litellm_relay")
        gate = Gate(200)
        accepted(clock, gate, flight(gate))
        for _ in range(50):
            clock.now += 1
            places = flight(gate)
            refused(clock, gate, places[::2])
            accepted(clock, gate, places[1::2] or flight(gate))
            clock.now += 1
            accepted(clock, gate, flight(gate, 1))
        assert not caplog.records

    def test_a_gateway_that_refuses_is_left_alone(self, start_relay: StartRelay, upstream: Gateway) -> None:
        times: list[float] = []

        def refuse(_: object, number: int) -> Fault | None:
            times.append(time.monotonic())
            return Fault("status", 429) if number <= REFUSED else None

        upstream.on_post = refuse
        relay = start_relay(max_running=4)
        started = [relay.api.start(f"run {number}") for number in range(8)]
        for one in started:
            relay.api.until(one, "completed")
        assert set(upstream.paid.values()) == {1}
        gaps = [later - earlier for earlier, later in itertools.pairwise(times[: REFUSED + 1])]
        *_, first, second, third = gaps
        # The last requests are single probes, and the pause before each of them doubles.
        assert [first >= 0.5, second >= 1, third >= 2] == [True] * 3, gaps


class TestSubmissions:
    def test_many_submissions_run_at_once(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.accept = 600.0
        relay = start_relay(timings=replace(FAST, gate=600.0), max_running=100)
        for number in range(24):
            relay.api.start(str(number))
        assert eventually(lambda: len(upstream.posts) == 24)

    def test_submissions_are_limited_by_the_setting(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.accept = 2.0
        relay = start_relay(timings=replace(FAST, gate=60.0), submits=8)
        started = [relay.api.start(str(number)) for number in range(12)]
        assert {relay.api.wait(one)["status"] for one in started} == {"completed"}
        arrivals = sorted(work.created for work in upstream.works.values())
        assert len(arrivals) == 12
        assert arrivals[8] - arrivals[0] >= 1.9  # the ninth waited for the first answer


class TestPolls:
    def test_polls_share_one_rate(self, clock: Clock) -> None:
        gate = Gate(8, polls_per_second=200)
        delays = [gate.poll_delay() for _ in range(401)]
        assert delays[0] == 0
        assert delays[-1] == pytest.approx(2.0)
        clock.now += 10
        assert gate.poll_delay() == 0

    def test_a_hanging_poll_gives_up_its_place(self) -> None:
        async def main() -> None:
            gate = Gate(8)

            # More hanging polls than the gate has places: the one below must still get in.
            async def hang() -> None:
                async with gate.polling():
                    await asyncio.sleep(60)

            hanging = [asyncio.create_task(hang()) for _ in range(100)]
            await asyncio.sleep(0)
            async with asyncio.timeout(10), gate.polling():
                pass
            for task in hanging:
                task.cancel()

        asyncio.run(main())

    def test_an_outage_is_logged_once_at_each_end(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "litellm_relay")
        gate = Gate(8)
        for _ in range(50):
            gate.polled(answered=False)
        for _ in range(50):
            gate.polled(answered=True)
        assert len(caplog.records) == 2
