"""`ask_all` of both clients: results as they come, a bounded number at a time, one rate limit for all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest

from litellm_openai_example import AskedReply, AsyncLiteLLMClient, CutShortError, GatewayError, LiteLLMClient
from litellm_openai_example.calls.steps import run
from litellm_openai_example.many import Pace

from .fakes.scripted import KEY, Answer, ScriptedServer, Seen, chat_body, reply, response_body

Ask = Callable[..., list[AskedReply]]
Prompts = Iterable[str | Mapping[str, Any]]


def ask_sync(server: ScriptedServer, prompts: Prompts, **options: Any) -> list[AskedReply]:
    with LiteLLMClient(server.url, KEY) as client:
        return list(client.ask_all(prompts, **options))


def ask_async(server: ScriptedServer, prompts: Prompts, **options: Any) -> list[AskedReply]:
    async def ask() -> list[AskedReply]:
        async with AsyncLiteLLMClient(server.url, KEY) as client:
            return [asked async for asked in client.ask_all(prompts, **options)]

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])


def prompt_of(seen: Seen) -> str:
    body = seen.json
    return str(body["messages"][-1]["content"] if "messages" in body else body["input"])


def echo(seen: Seen) -> Answer:
    return reply(chat_body(prompt_of(seen)) if "chat" in seen.path else response_body(prompt_of(seen)))


@both
def test_every_prompt_is_asked_once(ask: Ask, gateway: ScriptedServer) -> None:
    gateway.script = echo
    found = ask(gateway, ("a", {"prompt": "b", "id": "second", "temperature": 0}, {"prompt": "c"}), model="m-1")
    assert {asked.id: asked.text for asked in found} == {1: "a", "second": "b", 3: "c"}
    assert all(asked.error is None and asked.reply is not None for asked in found)
    bodies = {prompt_of(seen): seen.json for seen in gateway.posts}
    assert {body["model"] for body in bodies.values()} == {"m-1"}
    assert [name for name, body in bodies.items() if "temperature" in body] == ["b"]


@both
def test_no_more_than_jobs_run_and_prompts_are_taken_late(ask: Ask, gateway: ScriptedServer) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def script(seen: Seen) -> Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        answer = echo(seen)
        with lock:
            running -= 1
        return answer

    def prompts() -> Iterator[str]:
        for number in range(12):
            assert number - len(gateway.posts) <= 3
            yield f"prompt {number}"

    gateway.script = script
    assert len(ask(gateway, prompts(), jobs=3)) == 12
    assert most <= 3


@both
def test_an_error_is_yielded_with_its_question(ask: Ask, gateway: ScriptedServer) -> None:
    answers = {"cut": reply(chat_body("half", "length")), "bad": reply({"error": {"message": "no"}}, 400)}
    gateway.script = lambda seen: answers.get(prompt_of(seen)) or echo(seen)
    unusable: list[Any] = [
        " ",
        {"prompt": "x", "stream": True},
        {"prompt": "x", "files": ["/no/such"]},
        {"id": "none"},
        3,
    ]
    found = ask(gateway, ["good", "cut", "bad", *unusable, {"prompt": "x", "timeout": 3}])
    by_id = {asked.id: asked for asked in found}
    assert (by_id[1].text, by_id[1].error) == ("good", None)
    assert isinstance(by_id[2].error, CutShortError)
    assert by_id[2].text == "half"
    assert isinstance(by_id[3].error, GatewayError)
    for number in (4, 5, "none", 8, 9):
        assert isinstance(by_id[number].error, ValueError), number
    assert isinstance(by_id[6].error, OSError)
    assert len(gateway.posts) == 3
    assert all(KEY not in repr(asked) for asked in found)


@both
def test_background_responses_are_polled(ask: Ask, gateway: ScriptedServer) -> None:
    def script(seen: Seen) -> Answer:
        return reply(response_body(None, "queued") if seen.method == "POST" else response_body("later"))

    gateway.script = script
    assert [asked.text for asked in ask(gateway, ["a", "b"], api="responses", background=True)] == ["later", "later"]
    assert len(gateway.posts) == 2


@both
def test_a_rate_limit_slows_all_down(ask: Ask, gateway: ScriptedServer) -> None:
    limited = reply({"error": {"message": "slow down"}}, 429, retry_after="1")
    refused: list[float] = []
    times: list[float] = []

    def script(seen: Seen) -> Answer:
        times.append(time.monotonic())
        if len(gateway.posts) <= 2:
            refused.append(time.monotonic())
            return limited
        return echo(seen)

    gateway.script = script
    assert len(ask(gateway, [f"prompt {number}" for number in range(6)], jobs=2, timeout=60)) == 6
    assert len(times) == 8
    # After the refusals nothing is sent for about a second, although other prompts are waiting.
    assert min(at for at in times if at > max(refused)) - max(refused) > 0.6


@both
@pytest.mark.parametrize(
    "options", [{"jobs": 0}, {"jobs": True}, {"jobs": 1.5}, {"api": "x"}, {"timeout": 0}, {"timeout": "x"}], ids=str
)
def test_unusable_arguments(ask: Ask, options: dict[str, Any], gateway: ScriptedServer) -> None:
    with pytest.raises(ValueError):
        ask(gateway, ["x"], **options)
    assert gateway.seen == []


@both
@pytest.mark.parametrize("prompts", ["one text", b"bytes", {"prompt": "x"}], ids=str)
def test_a_single_prompt_is_refused(ask: Ask, prompts: Any, gateway: ScriptedServer) -> None:
    with pytest.raises(ValueError, match="iterable of prompts"):
        ask(gateway, prompts)


@both
def test_an_iterable_that_fails(ask: Ask, gateway: ScriptedServer) -> None:
    gateway.script = echo

    def prompts() -> Iterator[str]:
        yield "a"
        raise LookupError("of the caller")

    with pytest.raises(LookupError, match="of the caller"):
        ask(gateway, prompts())


def test_a_closed_iteration_cancels_its_calls(gateway: ScriptedServer) -> None:
    gateway.script = lambda seen: Answer(pause=60) if prompt_of(seen) == "held" else echo(seen)

    async def ask() -> None:
        async with AsyncLiteLLMClient(gateway.url, KEY) as client:
            results = client.ask_all(["quick", "held"], timeout=120)
            async for asked in results:
                assert asked.text == "quick"
                break
            await results.aclose()
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(ask())


def test_the_pace_halves_once_and_recovers() -> None:
    pace = Pace(8)

    def begun() -> int:
        """Return the number of calls that may be under way together."""
        count = 0
        while pace.paused == 0 and pace.may_begin():
            count += 1
        for _ in range(count):
            pace.end(success=False)
        return count

    async def call(success: bool) -> None:
        with suppress(ValueError):
            async with pace.slot():
                if not success:
                    raise ValueError

    assert begun() == 8
    pace.slow_down(429, 0.05)
    pace.slow_down(429, 0.05)  # of a call that was under way at the same time
    assert pace.paused
    assert not pace.may_begin()
    run(None, call(success=False))  # waits for the end of the pause
    assert begun() == 4
    pace.slow_down(500, 60)
    assert not pace.paused
    for _ in range(100):
        run(None, call(success=True))
    assert begun() == 8
