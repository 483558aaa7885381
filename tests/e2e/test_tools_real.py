"""The whole flow: the command, a real relay and the real LiteLLM proxy."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from litellm_openai_example import LiteLLMClient, RelayClient

from ..conftest import RunCommand
from ..fakes.upstream import UpstreamControl
from ..tools.docs.blocks import pages
from .running import QUESTION, Relay

AUTO = ["--api", "responses", "--auto-tool-call", "--timeout", "60"]
RELAY_DOCUMENT = pages("docs/relay.md")


def test_a_question_that_needs_research(relay: Relay, command: RunCommand) -> None:
    run = command(*AUTO, QUESTION)
    assert run.code == 0, run.err
    assert QUESTION in run.out
    assert "Offline demo research" in run.out
    lines = run.err.splitlines()
    assert lines[-2] == "[deep_research was called automatically]"
    assert all(json.loads(lines[-1]).values())


def test_a_simple_question(relay: Relay, command: RunCommand) -> None:
    run = command(*AUTO, "--web-search", "Reply with exactly: 네")
    assert (run.code, run.out, run.err) == (0, "네\n", "")


def test_a_bridged_model_still_knows_the_question(relay: Relay, command: RunCommand) -> None:
    run = command(*AUTO, "--model", "bridged", "--instructions", "Answer kindly", QUESTION)
    assert run.code == 0, run.err
    assert f"You asked: {QUESTION}" in run.out
    assert "Offline demo research" in run.out


def test_the_library(relay: Relay) -> None:
    with LiteLLMClient.from_env(timeout=60) as client:
        result = client.create_response_with_tool_calling(QUESTION, relay.url)
    assert result.tool_called
    assert "Offline demo research" in result.final_text
    assert result.research_summary is not None


def test_a_relay_killed_midway(relay: Relay) -> None:
    with RelayClient(relay.url, timeout=60) as client:
        accepted = client.invoke({"research_question": QUESTION, "background": True})
        events = client.events(accepted.invocation_id, accepted.invocation_token)
        names = []
        for event in events:
            names.append(event.name)
            # From here on its id is in the ledger; killed before, it would rightly be indeterminate.
            if event.data.get("upstream_response_id"):
                break
        relay.kill()
        relay.start()
        names += [event.name for event in events]  # none, if a slow machine has shown us nothing but the end
        assert names[-1] == "completed"
        assert client.wait(accepted.invocation_id, accepted.invocation_token).status == "completed"


@pytest.mark.parametrize("streaming", [[], ["--stream"]], ids=str)
def test_a_research_run_as_the_target(streaming: list[str], relay: Relay, command: RunCommand) -> None:
    run = command("--target", "relay", "--timeout", "60", *streaming, QUESTION)
    assert run.code == 0, run.err
    assert run.out.startswith("# Offline demo research")


def test_a_research_run_is_picked_up_later(relay: Relay, command: RunCommand) -> None:
    run = command(*AUTO[:3], "--timeout", "1.6", QUESTION)
    assert (run.code, run.out) == (4, ""), run.err
    found = re.search(r"RELAY_INVOCATION_TOKEN=(\S+) litellm-example --invocation (\S+)", run.err)
    assert found is not None
    run = command("--invocation", found[2], "--timeout", "60")
    assert run.code == 0, run.err
    assert f"You asked: {QUESTION}" in run.out


def test_the_curl_lines_of_the_document(relay: Relay) -> None:
    (script,) = re.findall(r"<!-- curl -->\n```sh\n(.*?)```", RELAY_DOCUMENT, re.DOTALL)
    run = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "Offline demo research" in run.stdout
    assert "event: completed" in run.stdout


@pytest.mark.parametrize("failure", ["drop", "500"])
@pytest.mark.parametrize("turn", [1, 2])
def test_a_turn_whose_outcome_is_unknown_is_sent_once(
    turn: int, failure: str, relay: Relay, upstream: UpstreamControl, command: RunCommand
) -> None:
    model = upstream.model(failure if turn == 1 else f"ok-then-{failure}")
    run = command(*AUTO, "--model", model, QUESTION)
    assert run.code == 1, run.err
    assert "the outcome is unknown" in run.err
    assert upstream.posts(model) == turn
    # The paid report is not lost with the last turn.
    assert ("Offline demo research" in run.out) is (turn == 2)
