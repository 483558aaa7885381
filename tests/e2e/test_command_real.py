"""The command through the real LiteLLM proxy: successes, failures, and one paid call for each."""

from __future__ import annotations

import asyncio
import json

import pytest

from litellm_openai_example import AsyncLiteLLMClient, GatewayError, LiteLLMClient

from ..conftest import RunCommand
from ..fakes.upstream import UNKNOWN_MODEL, UpstreamControl
from .running import Gateway, R, submit

EXACTLY = "Reply with exactly: 안녕 OK"


@pytest.fixture(autouse=True)
def _configured(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_BASE_URL", gateway.base_url)
    monkeypatch.setenv("LITELLM_API_KEY", gateway.api_key)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--stream"], R, [*R, "--stream"], [*R, "--background", "--wait"], ["--model", "bridged"]],
    ids=str,
)
def test_an_answer(arguments: list[str], command: RunCommand) -> None:
    run = command(*arguments, EXACTLY)
    assert (run.code, run.out) == (0, "안녕 OK\n")


def test_background_and_its_follow_ups(command: RunCommand) -> None:
    response_id = submit(command, EXACTLY)
    assert json.loads(command("--retrieve", response_id).out)["status"] in ("queued", "in_progress", "completed")
    assert command("--retrieve", response_id, "--wait").out == "안녕 OK\n"
    # The id of another reply still names the same conversation.
    run = command(*R, "--previous-response-id", response_id, "And now?")
    assert EXACTLY in run.out


def test_cancelling(command: RunCommand, upstream: UpstreamControl) -> None:
    response_id = submit(command, "--model", upstream.model("slow"), "hello")
    assert json.loads(command("--cancel", response_id).out)["status"] == "cancelled"
    run = command("--retrieve", response_id, "--wait")
    assert (run.code, run.out) == (1, "")
    assert "cancelled" in run.err


def test_web_search(command: RunCommand) -> None:
    run = command(*R, "--web-search", "--verbose", "hello")
    assert run.code == 0
    assert "example.com" in run.out
    assert "tokens: " in run.err
    assert "cost: " in run.err


def test_a_wrong_key(command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_API_KEY", "sk-wrong-key-of-somebody")
    for arguments in ([], R, [*R, "--background"]):
        run = command(*arguments, "hello")
        assert (run.code, run.out) == (1, "")
        assert "LITELLM_API_KEY" in run.err
        assert "sk-wrong" not in run.err


def test_an_unknown_model(command: RunCommand) -> None:
    for arguments in ([], R, ["--stream"]):
        run = command(*arguments, "--model", UNKNOWN_MODEL, "hello")
        assert (run.code, run.out) == (1, "")
        assert "gpt-4o" in run.err


PAID_ONCE = [[], R, ["--stream"], [*R, "--stream"], [*R, "--web-search"], [*R, "--background"]]


@pytest.mark.parametrize(
    ("arguments", "step"),
    [
        (arguments, step)
        for step in ("drop", "reset", "500", "502", "504", "cut", "garbage")
        for arguments in PAID_ONCE
        # The stream had begun when it was cut, so the text that arrived is shown.
        if "--stream" not in arguments or step not in ("cut", "garbage")
    ],
    ids=str,
)
def test_a_failed_call_is_paid_once(
    arguments: list[str], step: str, command: RunCommand, upstream: UpstreamControl
) -> None:
    """LiteLLM answers 500 if a call breaks after the provider has accepted it."""
    model = upstream.model(step)
    run = command(*arguments, "--model", model, "--timeout", "20", "hello")
    assert (run.code, run.out) == (1, "")
    assert "the outcome is unknown" in run.err
    assert upstream.posts(model) == 1


@pytest.mark.parametrize("step", ["500", "503"])
def test_a_background_submit_is_never_repeated(step: str, command: RunCommand, upstream: UpstreamControl) -> None:
    model = upstream.model(f"{step}-then-ok")
    run = command(*R, "--background", "--model", model, "hello")
    assert run.code == 1
    assert "the outcome is unknown" in run.err
    assert upstream.posts(model) == 1


@pytest.mark.parametrize("arguments", [[], R, ["--stream"]], ids=str)
@pytest.mark.parametrize("step", ["429", "503"])
def test_a_temporary_refusal_is_retried(
    arguments: list[str], step: str, command: RunCommand, upstream: UpstreamControl
) -> None:
    model = upstream.model(f"{step}-then-ok")
    run = command(*arguments, "--model", model, EXACTLY)
    assert (run.code, run.out) == (0, "안녕 OK\n"), run.err
    assert upstream.posts(model) == 2


@pytest.mark.parametrize("arguments", [[], R, [*R, "--background"]], ids=str)
def test_a_hanging_provider(arguments: list[str], command: RunCommand, upstream: UpstreamControl) -> None:
    model = upstream.model("hang")
    run = command(*arguments, "--model", model, "--timeout", "2", "hello")
    assert (run.code, run.out) == (1, "")
    assert "no complete answer within 2 s; the outcome is unknown" in run.err
    assert upstream.posts(model) == 1


@pytest.mark.parametrize("arguments", [[], R], ids=str)
def test_the_providers_own_key(arguments: list[str], command: RunCommand, upstream: UpstreamControl) -> None:
    run = command(*arguments, "--model", upstream.model("401"), "hello")
    assert (run.code, run.out) == (1, "")
    assert "the provider does not accept the gateway's own key" in run.err


@pytest.mark.parametrize("arguments", [["--stream"], [*R, "--stream"]], ids=str)
def test_a_cut_stream(arguments: list[str], command: RunCommand, upstream: UpstreamControl) -> None:
    run = command(*arguments, "--model", upstream.model("cut"), "Tell me a long story, please")
    assert run.code == 3
    assert run.out.startswith("This is")
    assert "cut short" in run.err


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        ("failed", 1, "The model has failed"),
        ("incomplete", 3, "length limit"),
        ("refusal", 1, "I cannot help with that"),
        ("empty", 1, "no text"),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_outcomes(
    outcome: str, code: int, said: str, background: bool, command: RunCommand, upstream: UpstreamControl
) -> None:
    waiting = ["--background", "--wait"] if background else []
    run = command(*R, *waiting, "--model", upstream.model(outcome), "hello")
    assert run.code == code, run
    assert said in run.err


def test_failing_polls(command: RunCommand, upstream: UpstreamControl) -> None:
    model = upstream.model("ok", "500-then-404-then-drop-then-garbage-then-ok")
    run = command(*R, "--background", "--wait", "--model", model, EXACTLY)
    assert (run.code, run.out) == (0, "안녕 OK\n"), run.err
    assert upstream.posts(model) == 1


def test_a_bridged_model(command: RunCommand, gateway: Gateway) -> None:
    assert command(*R, "--model", "bridged", EXACTLY).out == "안녕 OK\n"
    run = command(*R, "--background", "--wait", "--model", "bridged", EXACTLY)
    assert (run.code, run.out) == (0, "안녕 OK\n")
    submitted = json.loads(command(*R, "--background", "--model", "bridged", EXACTLY).out)
    assert submitted["status"] == "completed"
    for flag in ("--retrieve", "--cancel"):
        run = command(flag, submitted["id"])
        assert (run.code, run.out) == (1, "")
        assert "does not know that response id" in run.err or "bridges it" in run.err


@pytest.mark.parametrize("response_id", ["garbage", "resp_1"])
def test_an_unknown_id(response_id: str, command: RunCommand) -> None:
    run = command("--retrieve", response_id, "--wait", "--timeout", "20")
    assert (run.code, run.out) == (1, "")
    assert "does not know that response id" in run.err


def test_both_clients(gateway: Gateway) -> None:
    with LiteLLMClient(gateway.base_url, gateway.api_key) as client:
        assert client.create_response(EXACTLY) == "안녕 OK"
        assert "".join(client.stream_chat_completion(EXACTLY)) == "안녕 OK"
        with pytest.raises(GatewayError):
            client.retrieve_response("garbage")

    async def ask() -> str:
        async with AsyncLiteLLMClient(gateway.base_url, gateway.api_key) as other:
            submitted = json.loads(await other.create_response(EXACTLY, background=True))
            return (await other.wait(submitted["id"])).text

    assert asyncio.run(ask()) == "안녕 OK"
