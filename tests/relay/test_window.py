"""Research runs in a discount window: the request to the gateway, the time limit, the polls and the reports."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from litellm_openai_example.payer import NOBODY
from litellm_openai_example.relay.ledger.records import NewInvocation
from litellm_openai_example.research.arguments import DeepResearchArguments

from ..fakes.gateway import Fault, Gateway
from ..fakes.scripted import eventually
from .conftest import StartRelay
from .running import FAST, Api, body

# Hours become seconds.
TIMINGS = replace(FAST, window_poll=0.3, longest_window_poll=0.5)
SHORT = {"timings": TIMINGS, "research_timeout": 0.5}  # a time limit that a run in a window must not have


def field(gateway: Gateway) -> list[object]:
    """Return the window of each submission, as the gateway carries it to the provider."""
    return [(post.get("extra_body") or {}).get("background_options") for post in gateway.posts]


def test_a_run_in_a_window_may_take_longer_and_is_polled_seldom(start_relay: StartRelay, upstream: Gateway) -> None:
    upstream.seconds = 1.5
    upstream.poll_after_ms = 10
    api = start_relay(**SHORT).api
    started = api.start(window="8h")
    assert started["window"] == "8h"
    created, until = (datetime.fromisoformat(started[name]) for name in ("created_at", "may_take_until"))
    assert abs(until - created - timedelta(hours=8)) < timedelta(seconds=1)
    view = api.wait(started)
    assert (view["status"], view["window"], view["may_take_until"]) == ("completed", "8h", None)
    assert view["cost_usd"] == 0.25
    assert field(upstream) == [{"completion_window": "8h"}]
    # Two early, then one each 0.3 to 0.5 s.
    assert upstream.gets <= 8
    assert upstream.cancels == 0
    # The same time limit stops a run without a window.
    upstream.seconds = 3600.0
    usual = api.wait(api.start("Why not?"))
    # On a busy machine it may pass before the submit.
    assert usual["error_code"] in ("research_timeout", "gateway_unavailable")
    assert usual["window"] is None


def test_a_run_in_a_window_is_never_streamed_by_the_gateway(start_relay: StartRelay, upstream: Gateway) -> None:
    api = start_relay(**SHORT).api
    for mode in ("foreground", "background", "stream"):
        arguments = {} if mode == "foreground" else {mode: True}
        answer = api.post(body(f"Why {mode}?", window="2h", **arguments)).json()
        view = api.wait(answer)
        assert (view["status"], view["mode"], view["output_text"]) == ("completed", mode, "The answer.")
        post = upstream.posts[-1]
        assert (post["background"], post.get("stream") or False) == (True, False)
        events = api.events(answer)
        assert [event.name for event in events] == ["status", "status", "output_text", "completed"]
        assert events[2].data["delta"] == "The answer."
    assert len(upstream.posts) == 3


TWO, EIGHT = {"completion_window": "2h"}, {"completion_window": "8h"}


@pytest.mark.parametrize(
    ("changes", "given", "sent"),
    [
        ({"window": "8h"}, None, EIGHT),
        ({"window": "8h"}, "2h", TWO),
        ({"window": "2h", "request": {"background_options": EIGHT}}, None, TWO),
        (
            {"request": {"background_options": {"continuation_id": "c", **EIGHT}}},
            None,
            {"continuation_id": "c", **EIGHT},
        ),
        ({"request": {"extra_body": {"background_options": EIGHT}}}, "2h", TWO),
        ({"request": {"background_options": None}}, "2h", TWO),
    ],
    ids=str,
)
def test_the_relay_s_default_gives_way_to_the_client_s_window(
    changes: dict[str, object], given: str | None, sent: object, start_relay: StartRelay, upstream: Gateway
) -> None:
    upstream.seconds = 1.0
    api = start_relay(**SHORT, **changes).api
    view = api.wait(api.start(**({"window": given} if given else {})))
    assert (view["status"], view["window"]) == ("completed", sent["completion_window"])  # type: ignore[index]
    assert field(upstream) == [sent]


def test_another_replica_keeps_to_the_window_of_a_run(start_relay: StartRelay, upstream: Gateway) -> None:
    upstream.seconds = 3600.0
    first = start_relay(**SHORT, window="8h")
    started = first.api.start()
    first.api.submitted(started)
    first.stop()
    # One that knows nothing of the default.
    second = start_relay(**SHORT).api
    assert eventually(lambda: upstream.gets >= 3)
    assert second.view(started)["status"] == "running"
    assert second.view(started)["window"] == "8h"
    upstream.finish()
    assert second.wait(started)["status"] == "completed"
    assert (len(upstream.posts), upstream.cancels) == (1, 0)


def test_a_repeated_start_finds_its_run_after_the_default_has_changed(
    start_relay: StartRelay, upstream: Gateway
) -> None:
    ids = set()
    for window in ("8h", "2h", None):
        relay = start_relay(**SHORT, window=window)
        answer = relay.api.post(body("Why?", background=True), Idempotency_Key="k")
        ids.add((answer.json()["invocation_id"], answer.json()["window"]))
        relay.api.wait(answer.json())
        relay.stop()
    assert len(ids) == 1
    assert {window for _, window in ids} == {"8h"}
    assert len(upstream.posts) == 1


def test_another_window_under_the_same_key_is_a_conflict(start_relay: StartRelay) -> None:
    api = start_relay(**SHORT).api
    codes = [
        api.post(body("Why?", background=True, **given), Idempotency_Key="k").status_code
        for given in ({"window": "2h"}, {"window": "8h"}, {}, {"window": "2h"})
    ]
    assert codes == [202, 409, 409, 202]


def test_another_window_is_refused_before_anything_is_sent(start_relay: StartRelay, upstream: Gateway) -> None:
    api = start_relay().api
    windows: list[object] = ["3h", "8H", "", 8, ["8h"], {}, True]
    for window in windows:
        answer = api.post(body("Why?", background=True, window=window))
        assert answer.status_code == 422
        assert answer.json()["error"]["details"][0]["where"] == "arguments.window"
    assert upstream.posts == []


REFUSALS = [
    (400, "Unknown parameter: 'background_options'.", "background_options"),
    (400, "background_options: Extra inputs are not permitted", None),
    (422, "completion_window is not supported with store, tools or reasoning", None),
    (403, "This project has no access to completion_window", None),
]


@pytest.mark.parametrize("default", ["8h", None])
def test_a_refused_window_is_one_clear_error_and_one_post(
    default: str | None, start_relay: StartRelay, upstream: Gateway
) -> None:
    api = start_relay(**SHORT, window=default).api
    for number, (status, message, param) in enumerate(REFUSALS, 1):
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": str(status)}
        fault = Fault("status", status, {"error": error})
        upstream.on_post = lambda request, count, fault=fault: fault  # type: ignore[misc]
        view = api.wait(api.start(**({} if default else {"window": "8h"})))
        assert (view["status"], view["error_code"]) == ("failed", "window_refused")
        assert "discount window" in view["error_message"]
        assert "Nothing was paid" in view["error_message"]
        assert len(upstream.posts) == number


def test_a_field_that_the_model_refuses_is_dropped_in_a_window_too(start_relay: StartRelay, upstream: Gateway) -> None:
    error = {"message": "Unsupported parameter", "type": "x", "param": "reasoning.effort", "code": "400"}
    upstream.on_post = lambda request, count: Fault("status", 400, {"error": error}) if "reasoning" in request else None
    api = start_relay(**SHORT).api
    assert api.wait(api.start(window="2h"))["status"] == "completed"
    assert set(map(str, field(upstream))) == {str(TWO)}
    assert "reasoning" in upstream.posts[0]
    assert upstream.paid.total() == 1


def test_a_cancelled_run_does_not_wait_for_the_next_poll(start_relay: StartRelay, upstream: Gateway) -> None:
    upstream.seconds = 3600.0
    api = start_relay(timings=replace(FAST, window_poll=600.0, longest_window_poll=600.0)).api
    started = api.start(window="8h")
    api.submitted(started)
    assert eventually(lambda: upstream.gets)
    api.cancel(started)
    view = api.wait(started)
    assert (view["status"], view["error_code"], upstream.cancels) == ("cancelled", "cancelled_by_client", 1)


def test_a_failed_poll_is_repeated_soon(start_relay: StartRelay, upstream: Gateway) -> None:
    upstream.seconds = 0.0
    upstream.on_get = lambda work, count: Fault("status", 503) if count < 6 else None
    api = start_relay(timings=replace(FAST, window_poll=600.0, longest_window_poll=600.0)).api
    assert api.wait(api.start(window="8h"))["status"] == "completed"
    assert upstream.gets >= 6  # soon after one another, or it would still run


def test_a_refusing_gateway_leaves_room_for_the_whole_window(start_relay: StartRelay, upstream: Gateway) -> None:
    upstream.on_post = lambda request, count: Fault("status", 429) if count < 3 else None
    api = start_relay(**SHORT).api
    assert api.wait(api.start(window="2h"))["status"] == "completed"
    assert len(upstream.posts) >= 3  # for longer than the time limit of other runs


def test_the_stored_arguments_hold_the_default_but_not_the_fingerprint() -> None:
    plain, chosen = (
        DeepResearchArguments.model_validate({"research_question": "Why?", **given}) for given in ({}, {"window": "8h"})
    )
    without, default, asked = (
        NewInvocation.of(plain, None, NOBODY),
        NewInvocation.of(plain, None, NOBODY, "8h"),
        NewInvocation.of(chosen, None, NOBODY, "2h"),
    )
    assert without.fingerprint == default.fingerprint != asked.fingerprint
    assert DeepResearchArguments.model_validate_json(default.arguments).window == "8h"
    assert [one.completion_window for one in (without, default, asked)] == [None, "8h", "8h"]


def test_metrics_tell_the_runs_in_a_window_and_their_cost_apart(start_relay: StartRelay, upstream: Gateway) -> None:
    upstream.seconds = 3600.0
    api = start_relay(**SHORT).api
    started = [api.start(f"Why {n}?", window="8h") for n in range(2)]
    for one in started:
        api.submitted(one)
    # Without the runs while the ledger does not answer in time.
    assert eventually(lambda: 'litellm_relay_window_runs{window="8h"} 2.0' in _metrics(api)), _metrics(api)
    assert eventually(lambda: 'litellm_relay_window_runs{window="2h"} 0.0' in _metrics(api))
    assert "without the discount of a window" in _metrics(api)
    before = _cost(api, "8h")
    upstream.finish()
    for one in started:
        api.wait(one)
    assert _cost(api, "8h") - before == 0.5
    assert eventually(lambda: 'litellm_relay_window_runs{window="8h"} 0.0' in _metrics(api))


def _metrics(api: Api) -> str:
    return str(api.call("GET", "/metrics").text)


def _cost(api: Api, window: str) -> float:
    lines = _metrics(api).splitlines()
    found = [
        line for line in lines if line.startswith("litellm_relay_cost_usd_total{") and f'window="{window}"' in line
    ]
    return sum(float(line.split()[-1]) for line in found)
