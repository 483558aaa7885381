"""The lifetime of clients: calls of a closed client, abandoned objects, and reference cycles."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import openai
import pytest

from litellm_openai_example import AsyncLiteLLM, AsyncLiteLLMClient, LiteLLM, LiteLLMClient
from litellm_openai_example.errors import ClosedClientError, GatewayError, StillRunningError
from litellm_openai_example.research.relay_answers import ResearchRunningError
from litellm_openai_example.research.relay_client import AsyncRelayClient, RelayClient
from litellm_openai_example.transport.policy import deadline, telling_retries

from ..fakes.scripted import Answer, ScriptedServer, chat_events, reply, sse

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
KEY = "sk-test"


def sdk(client: LiteLLM, **more: Any) -> object:
    return client.chat.completions.create(model="m", messages=MESSAGES, **more)


BLOCKING: dict[str, tuple[Callable[[str], Any], Callable[[Any], object]]] = {
    "LiteLLM": (lambda url: LiteLLM(base_url=url, api_key=KEY), sdk),
    "LiteLLM, streamed": (lambda url: LiteLLM(base_url=url, api_key=KEY), lambda c: list(sdk(c, stream=True))),  # type: ignore[call-overload]
    "LiteLLM, raw": (
        lambda url: LiteLLM(base_url=url, api_key=KEY),
        lambda c: c.chat.completions.with_raw_response.create(model="m", messages=MESSAGES),
    ),
    "LiteLLM, options": (lambda url: LiteLLM(base_url=url, api_key=KEY), lambda c: sdk(c.with_options(timeout=9))),
    "LiteLLM, models": (lambda url: LiteLLM(base_url=url, api_key=KEY), lambda c: list(c.models.list())),
    "LiteLLMClient": (lambda url: LiteLLMClient(base_url=url, api_key=KEY), lambda c: c.chat("Hi")),
    "LiteLLMClient, streamed": (
        lambda url: LiteLLMClient(base_url=url, api_key=KEY),
        lambda c: list(c.stream_chat_completion("Hi")),
    ),
    "LiteLLMClient, waiting": (
        lambda url: LiteLLMClient(base_url=url, api_key=KEY),
        lambda c: c.wait("resp_1"),
    ),
    "RelayClient.get": (lambda url: RelayClient(url, KEY), lambda c: c.get("inv_1", "t")),
    "RelayClient.wait": (lambda url: RelayClient(url, KEY), lambda c: c.wait("inv_1", "t")),
    "RelayClient.check": (lambda url: RelayClient(url, KEY), lambda c: c.check()),
    "RelayClient.cancel": (lambda url: RelayClient(url, KEY), lambda c: c.cancel("inv_1", "t")),
    "RelayClient.invoke": (lambda url: RelayClient(url, KEY), lambda c: c.invoke({"research_question": "Why?"})),
    "RelayClient.events": (lambda url: RelayClient(url, KEY), lambda c: list(c.events("inv_1", "t"))),
}


async def all_of(items: AsyncIterator[object]) -> list[object]:
    return [item async for item in items]


async def streamed(client: AsyncLiteLLM) -> list[object]:
    return await all_of(await client.chat.completions.create(model="m", messages=MESSAGES, stream=True))


NOT_BLOCKING: dict[str, tuple[Callable[[str], Any], Callable[[Any], Awaitable[object]]]] = {
    "AsyncLiteLLM": (
        lambda url: AsyncLiteLLM(base_url=url, api_key=KEY),
        lambda c: c.chat.completions.create(model="m", messages=MESSAGES),
    ),
    "AsyncLiteLLM, streamed": (lambda url: AsyncLiteLLM(base_url=url, api_key=KEY), streamed),
    "AsyncLiteLLMClient": (lambda url: AsyncLiteLLMClient(base_url=url, api_key=KEY), lambda c: c.chat("Hi")),
    "AsyncLiteLLMClient, waiting": (
        lambda url: AsyncLiteLLMClient(base_url=url, api_key=KEY),
        lambda c: c.wait("resp_1"),
    ),
    "AsyncRelayClient.get": (lambda url: AsyncRelayClient(url, KEY), lambda c: c.get("inv_1", "t")),
    "AsyncRelayClient.wait": (lambda url: AsyncRelayClient(url, KEY), lambda c: c.wait("inv_1", "t")),
    "AsyncRelayClient.events": (lambda url: AsyncRelayClient(url, KEY), lambda c: all_of(c.events("inv_1", "t"))),
}
FAMILY = (ClosedClientError, GatewayError)


def assert_said(caught: pytest.ExceptionInfo[Exception]) -> None:
    assert "this client was closed" in str(caught.value)
    assert isinstance(caught.value, openai.OpenAIError)
    assert not isinstance(caught.value, ResearchRunningError | StillRunningError)


@pytest.mark.parametrize(("make", "ask"), BLOCKING.values(), ids=BLOCKING.keys())
def test_a_call_of_a_closed_client(
    make: Callable[[str], Any], ask: Callable[[Any], object], gateway: ScriptedServer
) -> None:
    client = make(gateway.url)
    client.close()
    with pytest.raises(FAMILY) as caught:
        ask(client)
    assert_said(caught)
    assert not gateway.seen


@pytest.mark.parametrize(("make", "ask"), NOT_BLOCKING.values(), ids=NOT_BLOCKING.keys())
def test_a_call_of_a_closed_asynchronous_client(
    make: Callable[[str], Any], ask: Callable[[Any], Awaitable[object]], gateway: ScriptedServer
) -> None:
    async def work() -> None:
        client = make(gateway.url)
        await client.close()
        with pytest.raises(FAMILY) as caught:
            await ask(client)
        assert_said(caught)

    asyncio.run(work())
    assert not gateway.seen


REFUSED = reply({"error": {"message": "no", "type": None, "code": "400"}}, 400)
BUSY = reply({"error": {"message": "slow down", "type": None, "code": "429"}}, 429, **{"retry-after": "0.2"})
SOME = ["LiteLLM", "LiteLLMClient", "RelayClient.get", "RelayClient.wait", "RelayClient.invoke", "RelayClient.events"]


@pytest.mark.parametrize("name", SOME)
def test_a_client_closed_before_a_retry(name: str, gateway: ScriptedServer) -> None:
    make, ask = BLOCKING[name]
    client = make(gateway.url)
    gateway.script = lambda _: BUSY
    with telling_retries(lambda *_: client.close()), pytest.raises(FAMILY) as caught:
        ask(client)
    assert_said(caught)
    assert len(gateway.seen) == 1


@pytest.mark.parametrize(
    "name", ["AsyncLiteLLM", "AsyncLiteLLMClient", "AsyncRelayClient.get", "AsyncRelayClient.events"]
)
def test_an_asynchronous_client_closed_before_a_retry(name: str, gateway: ScriptedServer) -> None:
    make, ask = NOT_BLOCKING[name]
    gateway.script = lambda _: BUSY

    async def work() -> None:
        client, closing = make(gateway.url), []
        with (
            telling_retries(lambda *_: closing.append(asyncio.ensure_future(client.close()))),
            pytest.raises(FAMILY) as caught,
        ):
            await ask(client)
        assert_said(caught)

    asyncio.run(work())
    assert len(gateway.seen) == 1


@pytest.mark.parametrize("name", ["LiteLLM", "LiteLLMClient", "RelayClient.get"])
def test_a_client_closed_during_a_call(name: str, gateway: ScriptedServer) -> None:
    make, ask = BLOCKING[name]
    client = make(gateway.url)

    # The answer arrives on a connection that is being closed: either error is right, a hang or a traceback is not.
    def answer(_: object) -> Answer:
        client.close()
        return REFUSED

    gateway.script = answer
    with pytest.raises((*FAMILY, openai.APIStatusError)):
        ask(client)


CYCLIC: dict[str, Answer] = {
    "refused": REFUSED,
    "key": reply({"error": {"message": "no", "type": None, "code": "401"}}, 401),
    "server": reply({"error": {"message": "no", "code": "500"}}, 500),
    "no JSON": Answer(body=b"<html>", headers={"content-type": "text/html"}),
    "dropped": Answer(cut=5, body=b"{}                "),
    "broken": sse(*chat_events("one", reason=None), done=False),
    "an error in a 200": reply({"error": {"message": "no"}}),
    "an error in a stream": sse({"error": {"message": "no"}}),
    "what may be an error": sse({"detail": "no"}),
    "whole": sse(*chat_events("one")),
}


@pytest.mark.parametrize("answer", CYCLIC.values(), ids=CYCLIC.keys())
@pytest.mark.parametrize("name", ["LiteLLMClient", "LiteLLMClient, streamed", "RelayClient.get", "RelayClient.invoke"])
def test_a_failed_call_leaves_nothing_to_the_garbage_collector(
    name: str, answer: Answer, gateway: ScriptedServer
) -> None:
    make, ask = BLOCKING[name]
    gateway.script = lambda _: answer
    with make(gateway.url) as client:

        def call() -> None:
            try:
                with deadline(0.3):  # a relay client retries until then
                    ask(client)
            except openai.OpenAIError:
                pass

        call()  # the first call imports modules, and opens the connection that is kept
        gc.collect()
        gc.disable()
        try:
            # SAVEALL keeps all that only the collector could free, that is every reference cycle.
            gc.set_debug(gc.DEBUG_SAVEALL)
            for _ in range(2):
                call()
            gc.collect()
            left = [one for one in gc.garbage if is_of_a_call(one)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not left


@pytest.mark.parametrize("name", ["LiteLLM", "LiteLLM, streamed", "LiteLLMClient", "RelayClient.get"])
def test_a_refused_connection_leaves_nothing_to_the_garbage_collector(name: str) -> None:
    make, ask = BLOCKING[name]
    with make("http://127.0.0.1:9") as client:
        if name.startswith("LiteLLM,") or name == "LiteLLM":
            client = client.with_options(max_retries=0)  # so that the error is the first attempt's

        def call() -> None:
            with suppress(openai.OpenAIError), deadline(0.1):
                ask(client)

        call()
        gc.collect()
        gc.disable()
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            for _ in range(3):
                call()
            gc.collect()
            left = [one for one in gc.garbage if is_of_a_call(one)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not left


def is_of_a_call(one: object) -> bool:
    """Leave out the fake gateway, which runs in this process too."""
    if isinstance(one, types.FrameType):
        return "litellm_openai_example" in one.f_code.co_filename
    return isinstance(one, openai.OpenAIError) or type(one).__module__.startswith(("openai", "litellm_openai_example"))


ABANDONED = """
import asyncio, sys, warnings
warnings.simplefilter("always")
from litellm_openai_example import AsyncLiteLLM, AsyncLiteLLMClient, AsyncRelayClient
from litellm_openai_example import LiteLLM, LiteLLMClient, RelayClient
url, key = sys.argv[1], "sk-test"
messages = [{"role": "user", "content": "Hi"}]

def blocking():
    kept = [LiteLLM(base_url=url, api_key=key), LiteLLMClient(base_url=url, api_key=key), RelayClient(url, key)]
    next(iter(kept[0].chat.completions.create(model="m", messages=messages, stream=True)))
    stream = iter(kept[1].stream_chat_completion("Hi"))
    next(stream)
    return stream

async def not_blocking():
    one = AsyncLiteLLM(base_url=url, api_key=key)
    two = AsyncLiteLLMClient(base_url=url, api_key=key)
    two.stream_chat_completion("Hi")
    three = AsyncRelayClient(url, key)
    three.events("inv_1", "t")
    task = asyncio.create_task(two.chat("Hi"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait_for(one.models.with_raw_response.list(), 5)  # the loop continues for a while
    return one, two, three

blocking()
kept = asyncio.run(not_blocking())
asyncio.run(not_blocking())
loop = asyncio.new_event_loop()
kept = loop.run_until_complete(not_blocking())
loop.close()
print("done")
"""


def test_abandoned_objects_print_nothing(gateway: ScriptedServer) -> None:
    """A stream, a client and an event loop, none of them closed."""
    gateway.script = lambda _: sse(*chat_events(*"abcdefgh"), pause=0.05)
    command = [sys.executable, "-W", "always", "-c", ABANDONED, gateway.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert done.stderr == ""
