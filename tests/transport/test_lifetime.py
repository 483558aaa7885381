"""The lifetime of clients: calls of a closed one, what is abandoned, and what is left to the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest

from litellm_openai_example import AsyncLiteLLM, AsyncLiteLLMClient, LiteLLM, LiteLLMClient
from litellm_openai_example.errors import ClosedClientError, GatewayError, LostAnswerError
from litellm_openai_example.research.relay_calls import RelayError, ResearchRunningError
from litellm_openai_example.research.relay_client import AsyncRelayClient, RelayClient

from ..fakes.formats import error
from ..fakes.scripted import Reply, ScriptedServer

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
    "AsyncRelayClient.get": (lambda url: AsyncRelayClient(url, KEY), lambda c: c.get("inv_1", "t")),
    "AsyncRelayClient.wait": (lambda url: AsyncRelayClient(url, KEY), lambda c: c.wait("inv_1", "t")),
    "AsyncRelayClient.events": (lambda url: AsyncRelayClient(url, KEY), lambda c: all_of(c.events("inv_1", "t"))),
}
FAMILY = (ClosedClientError, GatewayError)


def assert_said(caught: pytest.ExceptionInfo[Exception]) -> None:
    assert "this client was closed" in str(caught.value)
    assert isinstance(caught.value, openai.OpenAIError)
    assert not isinstance(caught.value, ResearchRunningError)


@pytest.mark.parametrize(("make", "ask"), BLOCKING.values(), ids=BLOCKING.keys())
def test_a_call_of_a_closed_client(make: Callable[[str], Any], ask: Callable[[Any], object], gateway: ScriptedServer) -> None:
    client = make(gateway.url)
    client.close()
    with pytest.raises(FAMILY) as caught:
        ask(client)
    assert_said(caught)
    assert not gateway.requests


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
    assert not gateway.requests
