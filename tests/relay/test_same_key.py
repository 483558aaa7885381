"""One idempotency key at two processes at the same moment: both return the accepted invocation."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from litellm_openai_example.http_library import httpx
from litellm_openai_example.research.contract import IDEMPOTENCY_HEADER, INVOCATIONS_PATH

from ..fakes.gateway import Gateway
from ..fakes.scripted import eventually
from .running import body, environment, relay_process

KEYS, AT_ONCE = 320, 40


def test_every_start_returns_the_same_invocation(database_url: str, upstream: Gateway) -> None:
    env = environment(database_url, upstream, RELAY_MAX_RUNNING="1000")
    with ExitStack() as stack:
        relays = [stack.enter_context(relay_process(env)) for _ in range(2)]
        asyncio.run(post_all([relay.api.base_url for relay in relays]))
        assert eventually(lambda: len(upstream.posts) >= KEYS + 1)
    assert len(upstream.posts) == KEYS + 1


async def post_all(addresses: list[str]) -> None:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:

        async def post(address: str, key: str, question: str = "Why?") -> httpx.Response:
            headers = {IDEMPOTENCY_HEADER: key}
            return await http.post(address + INVOCATIONS_PATH, json=body(question, background=True), headers=headers)

        for start in range(0, KEYS, AT_ONCE):
            keys = [f"key-{number}" for number in range(start, start + AT_ONCE)]
            # In opposite orders, so that each process is first with some keys.
            orders = zip(addresses, (keys, keys[::-1]), strict=True)
            answers = await asyncio.gather(*(post(address, key) for address, order in orders for key in order))
            assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers]
            ids = [answer.json()["invocation_id"] for answer in answers]
            assert ids[:AT_ONCE] == ids[AT_ONCE:][::-1]
            assert len(set(ids)) == AT_ONCE
        # With different arguments: the first is accepted, the other one conflicts.
        both = await asyncio.gather(*(post(address, "other", f"At {address}?") for address in addresses))
        assert sorted(answer.status_code for answer in both) == [202, 409]
