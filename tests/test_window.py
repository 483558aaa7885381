"""The discount window: the field of a create call, the words for its end, and the polls of a background response."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from litellm_openai_example import (
    AsyncRelayClient,
    LiteLLMClient,
    RelayClient,
    ResearchRunningError,
    StillRunningError,
)
from litellm_openai_example.calls import requests
from litellm_openai_example.calls.answer import read_response
from litellm_openai_example.calls.reply import Reply
from litellm_openai_example.calls.steps import run
from litellm_openai_example.error_table import read_report, row_of
from litellm_openai_example.errors import ErrorKind
from litellm_openai_example.relay.settings import Timings
from litellm_openai_example.research.contract import AcceptedInvocation
from litellm_openai_example.transport.policy import deadline
from litellm_openai_example.window import as_window, may_take_until, poll_pause, time_limit, window_of, with_window

from .fakes.scripted import KEY, ScriptedServer, reply, response_body
from .fakes.tool_calling import ARGUMENTS, FINAL, Ask, FakeRelay, Turns, both, calling, view

EIGHT = {"completion_window": "8h"}


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({}, None),
        ({"background_options": None}, None),
        ({"background_options": "8h"}, None),
        ({"background_options": {}}, None),
        ({"background_options": {"completion_window": ["8h"]}}, None),
        ({"background_options": {"completion_window": "soonest"}}, None),
        ({"background_options": {"completion_window": "24h"}}, None),
        ({"background_options": EIGHT}, "8h"),
        ({"extra_body": {"background_options": EIGHT}}, "8h"),
        ({"extra_body": None, "background_options": EIGHT}, "8h"),
        ({"extra_body": {"background_options": EIGHT}, "background_options": {"completion_window": "2h"}}, "8h"),
    ],
    ids=str,
)
def test_the_window_of_a_request_is_what_the_provider_gets(fields: dict[str, Any], window: str | None) -> None:
    assert window_of(fields) == window
    changed = with_window(fields, "2h")
    assert window_of(changed) == "2h"
    assert "background_options" not in (changed.get("extra_body") or {})


def test_further_background_options_stay() -> None:
    options = {"continuation_id": "c", **EIGHT}
    expected = {"background_options": {"continuation_id": "c", "completion_window": "2h"}}
    assert with_window({"background_options": options}, "2h") == expected
    assert (
        with_window({"extra_body": {"background_options": options, "x": 1}}, "2h")
        == {"extra_body": {"x": 1}} | expected
    )


def test_only_the_provider_s_windows_are_windows() -> None:
    values: list[object] = ["2h", "8h", "3h", "8H", 8, None, ["8h"], {}]
    assert [as_window(value) for value in values] == ["2h", "8h"] + [None] * 6
    assert [time_limit("2h"), time_limit("8h")] == [3 * 3600, 9 * 3600]


def test_the_end_of_a_window_is_told_in_local_time_until_it_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    try:
        # 2040-01-01T21:40:00Z
        assert may_take_until(2209066800.0) == ", may take until 06:40"
        assert may_take_until(2209066800.0, "; it ") == "; it may take until 06:40"
        assert may_take_until(time.time() - 1) == may_take_until(None) == ""
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_run_in_a_window_is_polled_once_a_minute_and_later_once_in_five() -> None:
    age, ages = 0.0, []
    while age < 8 * 3600:
        ages.append(age := age + poll_pause(age, Timings().first_poll))
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(ages)]
    assert ages[:8] == [1, 5, 25, 85, 145, 205, 265, 325]
    assert pauses == sorted(pauses)
    assert pauses[-80:] == [300] * 80


class _Hours:
    """A client whose time passes only in pauses: the polls of a response that ends after `seconds`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self._seconds = 0.0, seconds
        self.polls: list[float] = []

        async def sleep(pause: float) -> None:
            self.now += pause

        async def retrieve(response_id: str, **options: Any) -> Any:
            self.polls.append(self.now)
            running = self.now < self._seconds
            body = response_body(None, "queued") if running else response_body("done")
            return _reply(body)

        monkeypatch.setattr(requests, "sleep", sleep)
        monkeypatch.setattr(requests, "retrieve", retrieve)


def _reply(body: dict[str, Any]) -> Any:
    return Reply(read_response(body), "", {"openai-poll-after-ms": "5000"})


def test_a_response_in_a_window_is_polled_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = _Hours(monkeypatch, 7 * 3600.0)
    assert run(None, requests.wait("resp_1", None, "8h")).text == "done"
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(hours.polls)]
    # The gateway's interval counts only if it is longer.
    assert pauses[:4] == [5.0, 20.0, 60.0, 60.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 300.0
    assert len(pauses) < 100
    usual = _Hours(monkeypatch, 100.0)
    run(None, requests.wait("resp_1"))
    assert len(usual.polls) == 21


def test_the_error_at_the_deadline_says_when_the_window_ends(gateway: ScriptedServer) -> None:
    gateway.answers(reply(response_body(None, "queued")))
    with LiteLLMClient(gateway.url, KEY) as client, deadline(0.5), pytest.raises(StillRunningError) as raised:
        client.run(requests.wait("resp_1", None, "8h", time.time() + 3600))
    assert "; it may take until " in str(raised.value)


@pytest.mark.parametrize("window", ["3h", "", 8, ["8h"]], ids=str)
def test_the_library_refuses_another_window(window: Any, gateway: ScriptedServer) -> None:
    with LiteLLMClient(gateway.url, KEY) as client:
        with pytest.raises(ValueError, match="must be one of 2h, 8h"):
            client.wait("resp_1", window=window)
        with pytest.raises(ValueError, match="must be one of 2h, 8h"):
            client.create_response_with_tool_calling("Why?", gateway.url, window=window)
    assert gateway.seen == []


NAMED = "background_options.completion_window"


@pytest.mark.parametrize(
    ("status", "message", "param", "refused"),
    [
        (400, "Unknown parameter: 'background_options'.", "background_options", True),
        (400, "Invalid value: '8h'. Supported values are: 'soonest'.", NAMED, True),
        (400, "background_options: Extra inputs are not permitted", None, True),
        (400, 'Invalid JSON payload received. Unknown name "background_options": Cannot find field.', None, True),
        (400, "completion_window is not supported with this tool or without store", None, True),
        (422, "completion_window cannot be used with reasoning effort 'high'", None, True),
        (403, "Your project does not have access to background_options.", None, True),
        (404, "No completion_window for this model", None, True),
        # Another field is named: the window is not the reason.
        (400, "Unsupported parameter: 'reasoning.effort'; supported: background_options", "reasoning.effort", False),
        (400, "'store' must be true with background_options", "store", False),
        (400, "Invalid prompt", None, False),
        # It may have been executed, or may be tried again.
        (500, "background_options failed", None, False),
        (429, "Rate limit of completion_window 8h", None, False),
        (503, "No capacity for background_options", None, False),
    ],
    ids=str,
)
def test_a_refusal_of_the_window_is_told_apart(status: int, message: str, param: str | None, refused: bool) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": str(status)}
    nested = {
        **error,
        "message": f'litellm.BadRequestError: OpenAIException - {{"error": {json.dumps(error)}}}',
        "param": None,
    }
    for body in (error, nested):
        kind = row_of(read_report({"error": body}, status, "application/json")).kind
        assert (kind is ErrorKind.UNSUPPORTED_WINDOW) == refused, kind


@both
def test_the_library_asks_for_the_window_of_its_research_runs(
    ask: Ask, gateway: ScriptedServer, relay: FakeRelay
) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL)
    relay.ends = reply(view(window="8h", cost_usd=0.5))
    result = ask(gateway, window="8h")
    assert [start.json["arguments"]["window"] for start in relay.starts] == ["8h"]
    assert [(call.window, call.cost) for call in result.calls] == [("8h", 0.5)]
    assert "background_options" not in gateway.posts[0].json


def _wait_blocking(url: str) -> ResearchRunningError:
    with RelayClient(url, timeout=5) as client:
        accepted = client.invoke({"research_question": "Why?", "window": "8h", "background": True})
        assert (accepted.window, accepted.may_take_until is not None) == ("8h", True)
        with pytest.raises(ResearchRunningError) as raised:
            client.wait(*accepted_ids(accepted), timeout=0.5)
    return raised.value


def _wait_asynchronously(url: str) -> ResearchRunningError:
    async def main() -> ResearchRunningError:
        async with AsyncRelayClient(url, timeout=5) as client:
            accepted = await client.invoke({"research_question": "Why?", "window": "8h", "background": True})
            with pytest.raises(ResearchRunningError) as raised:
                await client.wait(*accepted_ids(accepted), timeout=0.5)
        return raised.value

    return asyncio.run(main())


def accepted_ids(accepted: AcceptedInvocation) -> tuple[str, str]:
    return accepted.invocation_id, accepted.invocation_token


@pytest.mark.parametrize("wait", [_wait_blocking, _wait_asynchronously])
def test_a_client_of_the_relay_tells_when_the_window_ends(
    wait: Callable[[str], ResearchRunningError], relay: FakeRelay
) -> None:
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    running = reply(view("running", None, window="8h", may_take_until=until), 202)
    relay.accepts = relay.ends = running
    assert "; it may take until " in str(wait(relay.server.url))
    assert relay.starts[0].json["arguments"]["window"] == "8h"
