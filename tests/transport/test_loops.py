"""An asyncio client in several event loops: each has separate connections, and no request is sent twice."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Iterator

import anyio
import openai
import pytest

from litellm_openai_example import AsyncLiteLLM, AsyncLiteLLMClient, AsyncLiteLLMHttpxClient, ErrorKind, GatewayError
from litellm_openai_example.http_library import httpx

from ..fakes.raw import RawServer
from ..fakes.scripted import KEY, Answer, ScriptedServer, Seen, eventually, reply, response_body

# Python warns about the connections of an ended event loop, which cannot be closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    yield
    gc.collect()


def echo(seen: Seen) -> Answer:
    return reply(response_body(seen.json["input"]))


async def ask(client: AsyncLiteLLM, text: str) -> str:
    return (await client.responses.create(model="m", input=text)).output_text


def test_each_asyncio_run_opens_new_connections(raw_gateway: RawServer) -> None:
    raw_gateway.script = echo
    client = AsyncLiteLLM(base_url=raw_gateway.url, api_key=KEY)

    async def twice(number: int) -> list[str]:
        return [await ask(client, f"{number}a"), await ask(client.with_options(timeout=9), f"{number}b")]

    for number in range(4):
        assert asyncio.run(twice(number)) == [f"{number}a", f"{number}b"]
    assert raw_gateway.connections == 4
    assert set(Counter(post.json["input"] for post in raw_gateway.posts).values()) == {1}


@pytest.mark.parametrize("runs", [("asyncio", "trio", "asyncio"), ("trio", "asyncio", "trio"), ("trio", "trio")])
def test_asyncio_and_trio_in_turn(raw_gateway: RawServer, runs: tuple[str, ...]) -> None:
    raw_gateway.script = echo
    client = AsyncLiteLLM(base_url=raw_gateway.url, api_key=KEY)
    for number, backend in enumerate(runs):
        assert anyio.run(ask, client, str(number), backend=backend) == str(number)
    assert len(raw_gateway.posts) == len(runs)


def test_loops_side_by_side(raw_gateway: RawServer) -> None:
    raw_gateway.script = echo
    client = AsyncLiteLLM(base_url=raw_gateway.url, api_key=KEY)
    barrier, answers = threading.Barrier(4), list[str]()

    async def several(number: int) -> None:
        for turn in range(5):
            await asyncio.to_thread(barrier.wait, 60)
            answers.append(await ask(client, f"{number} {turn}"))

    threads = [threading.Thread(target=asyncio.run, args=(several(number),), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    # The barrier makes all loops send at once, so that a shared connection would mix up their answers.
    assert sorted(answers) == sorted(f"{number} {turn}" for number in range(4) for turn in range(5))
    assert raw_gateway.connections == 4


def test_an_ended_loop_is_released(raw_gateway: RawServer) -> None:
    raw_gateway.script = echo
    client = AsyncLiteLLM(base_url=raw_gateway.url, api_key=KEY)
    loops = list[weakref.ref[asyncio.AbstractEventLoop]]()

    async def once() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await ask(client, "hi")

    for _ in range(6):
        asyncio.run(once())

    def alive() -> list[int]:
        gc.collect()
        return [number for number, one in enumerate(loops) if one() is not None]

    # The client holds their connections; a thread of another one may keep it for a moment.
    assert eventually(lambda: alive() == [0, 5]), alive()


def test_a_client_can_be_closed_in_a_later_loop(raw_gateway: RawServer) -> None:
    raw_gateway.script = echo
    client = AsyncLiteLLM(base_url=raw_gateway.url, api_key=KEY)
    assert asyncio.run(ask(client, "first")) == "first"
    assert asyncio.run(ask(client, "second")) == "second"

    async def last(text: str) -> str:
        async with client:
            return await ask(client, text)

    assert asyncio.run(last("third")) == "third"
    assert client.is_closed()
    for _ in range(2):
        with pytest.raises((openai.APIConnectionError, RuntimeError), match=r"closed|Connection"):
            asyncio.run(ask(client, "fourth"))
    assert len(raw_gateway.posts) == 3


def test_streams_and_faults_in_a_second_loop(raw_gateway: RawServer) -> None:
    client = AsyncLiteLLMClient(raw_gateway.url, KEY)
    raw_gateway.script = echo
    assert asyncio.run(client.create_response("first")) == "first"
    raw_gateway.script = lambda seen: Answer(500, body=b"{}")
    with pytest.raises(GatewayError) as caught:
        asyncio.run(client.create_response("second"))
    assert (caught.value.kind, caught.value.outcome_unknown) == (ErrorKind.SERVER, True)
    assert len(raw_gateway.posts) == 2


def test_a_custom_transport_belongs_to_one_loop(gateway: ScriptedServer) -> None:
    gateway.script = echo
    with_transport = AsyncLiteLLMHttpxClient(transport=httpx.AsyncHTTPTransport())
    client = AsyncLiteLLM(base_url=gateway.url, api_key=KEY, http_client=with_transport)
    assert asyncio.run(ask(client, "hi")) == "hi"
    with pytest.raises(openai.APIConnectionError, match="another event loop"):
        asyncio.run(ask(client, "again"))
    assert len(gateway.posts) == 1
