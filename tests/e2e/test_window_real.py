"""The discount window through the real LiteLLM proxy: the provider gets it, once, and the run survives its relay."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from litellm_openai_example import RelayClient

from ..conftest import RunCommand
from ..fakes.scripted import eventually
from ..fakes.upstream import UpstreamControl
from .running import Gateway, R, Relay, asked, submit

# Of the first relay, at 1, 5 and 25 s; at least one is left to the other.
POLLS = "running-then-running-then-running-then-ok"


def calls(upstream: UpstreamControl, model: str, method: str) -> int:
    return sum(one.method == method for one in upstream.requests(model))


def test_a_run_in_a_window_outlives_its_relay_and_the_usual_time_limit(
    gateway: Gateway, upstream: UpstreamControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_RESEARCH_TIMEOUT_SECONDS", "0.5")
    model, question = upstream.model("ok", POLLS), f"Research the history of noodles, {uuid.uuid4().hex}"
    relays = [Relay(gateway, tmp_path, model)]
    try:
        with RelayClient(relays[0].url, timeout=60) as client:
            started = client.invoke({"research_question": question, "background": True, "window": "8h"})
            assert started.may_take_until is not None
            # The first poll comes after a second, past the time limit of a run without a window.
            assert eventually(lambda: calls(upstream, model, "GET"))
            relays.append(Relay(gateway, tmp_path, model))
            view = client.get(started.invocation_id, started.invocation_token)
            assert (view.status, view.window) == ("running", "8h")
        relays[0].kill()
        # Once its lease is over, the other replica polls the run at once.
        with RelayClient(relays[1].url, timeout=120) as client:
            view = client.wait(started.invocation_id, started.invocation_token)
    finally:
        for relay in relays:
            if relay.process.poll() is None:
                relay.stop()
    assert (view.status, view.error_code, view.window, view.may_take_until) == ("completed", None, "8h", None)
    assert view.output_text
    (body,) = asked(upstream, model, question)
    assert body["background_options"] == {"completion_window": "8h"}
    assert (body["background"], body.get("stream") or False, body["store"]) == (True, False, True)
    assert "extra_body" not in body
    assert {one.method for one in upstream.requests(model)} == {"POST", "GET"}  # nobody asked to stop it


def test_a_background_response_of_the_command_in_a_window(
    gateway: Gateway, upstream: UpstreamControl, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_BASE_URL", gateway.base_url)
    monkeypatch.setenv("LITELLM_API_KEY", gateway.api_key)
    question = f"Research the history of noodles, {uuid.uuid4().hex}"
    response_id = submit(command, "--window", "2h", "--model", "gpt-6.1-sol", question)
    (body,) = asked(upstream, "gpt-6.1-sol", question)
    assert body["background_options"] == {"completion_window": "2h"}
    assert "extra_body" not in body
    assert "in a window of 2h, may take until " in command("--list").out
    assert command(*R, "--retrieve", response_id, "--wait", "--timeout", "60").code == 0
