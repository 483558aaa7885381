"""The body of a create on the wire: the fields that LiteLLM drops, and `store`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import omit
from pydantic import BaseModel

from litellm_openai_example import AsyncLiteLLM, ErrorKind, GatewayError, LiteLLM, LiteLLMClient
from litellm_openai_example.calls.requests import create_with

from ..fakes.scripted import (
    COMPLETED,
    KEY,
    ScriptedServer,
    chat_body,
    chat_events,
    reply,
    response_body,
    response_events,
    sse,
)

WINDOW = {"completion_window": "8h"}
DROPPED: dict[str, Any] = {"background_options": WINDOW, "conversation": "conv_1"}
CREATE: dict[str, Any] = {"model": "m", "input": "hi"}
ASKED: dict[str, Any] = {**CREATE, **DROPPED}  # older SDKs lack some of them; `create_with` puts those into the body
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSE = {**response_body('{"name": "x"}'), "created_at": 1, "parallel_tool_calls": True, "tool_choice": "auto"}
RESPONSE |= {"tools": []}
REFUSED = reply({"error": {"message": "Unsupported value: 'store' must be false here.", "param": "store"}}, 400)


class Named(BaseModel):
    name: str


@pytest.fixture
def sdk(gateway: ScriptedServer) -> Iterator[LiteLLM]:
    gateway.answers(reply(RESPONSE))
    with LiteLLM(base_url=gateway.url, api_key=KEY) as client:
        yield client


def bodies(gateway: ScriptedServer) -> list[dict[str, Any]]:
    return [json.loads(post.content) for post in gateway.posts]


WAYS: dict[str, Callable[[LiteLLM], object]] = {
    "create": lambda sdk: create_with(sdk.responses.create, ASKED),
    "stream": lambda sdk: list(create_with(sdk.responses.create, ASKED, stream=True)),
    "raw": lambda sdk: create_with(sdk.responses.with_raw_response.create, ASKED),
    "parse": lambda sdk: create_with(sdk.responses.parse, ASKED, text_format=Named),
    "helper": lambda sdk: sdk.responses.stream(**CREATE, extra_body=DROPPED).__enter__().until_done(),
    "extra_body": lambda sdk: sdk.responses.create(**CREATE, extra_body=DROPPED),
    "copy": lambda sdk: create_with(sdk.with_options(timeout=7).responses.create, ASKED),
    "post": lambda sdk: sdk.post("/responses", body={**CREATE, **DROPPED}, cast_to=object),
    "address": lambda sdk: sdk.post(f"{sdk.base_url}responses/?a=b", body={**CREATE, **DROPPED}, cast_to=object),
}


@pytest.mark.parametrize("way", WAYS)
def test_dropped_fields_go_into_extra_body(way: str, sdk: LiteLLM, gateway: ScriptedServer) -> None:
    if way in ("stream", "helper"):
        events = [{**event, "sequence_number": n} for n, event in enumerate(response_events("O", "K"))]
        done = {**COMPLETED, "response": RESPONSE, "sequence_number": 9}
        gateway.answers(sse(*[e for e in events if e["type"] == "response.created"], done))
    WAYS[way](sdk)
    (body,) = bodies(gateway)
    assert body["extra_body"] == DROPPED
    assert {name: body[name] for name in DROPPED} == DROPPED
    assert "store" not in body


def test_dropped_fields_go_into_extra_body_asynchronously(gateway: ScriptedServer) -> None:
    async def use() -> None:
        async with AsyncLiteLLM(base_url=gateway.url, api_key=KEY) as sdk:
            gateway.answers(REFUSED, reply(RESPONSE))
            await create_with(sdk.responses.create, ASKED, background=True)
            async with create_with(sdk.responses.with_streaming_response.create, ASKED) as response:
                await response.read()

    asyncio.run(use())
    assert [body.get("store") for body in bodies(gateway)] == [True, None, None]
    assert all(body["extra_body"] == DROPPED for body in bodies(gateway))


@pytest.mark.parametrize(
    ("given", "carried"),
    [
        ({"extra_body": {"mine": 1}}, {**DROPPED, "mine": 1}),
        ({"extra_body": {"conversation": "mine"}}, {**DROPPED, "conversation": "mine"}),
        ({"extra_body": None}, DROPPED),
        ({"extra_body": "text"}, "text"),  # left for the gateway to refuse
        ({"conversation": None, "background_options": None}, None),
        ({"conversation": omit, "background_options": omit}, None),
        ({"background_options": None}, {"conversation": "conv_1"}),
        ({"moderation": {"mode": "x"}, "image": {"a": 1}}, {**DROPPED, "moderation": {"mode": "x"}, "image": {"a": 1}}),
    ],
)
def test_the_callers_extra_body_wins(given: Any, carried: Any, sdk: LiteLLM, gateway: ScriptedServer) -> None:
    create_with(sdk.responses.create, {**ASKED, "extra_body": given})
    assert bodies(gateway)[0].get("extra_body") == carried


def test_a_chat_completion(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(reply({**chat_body("OK"), "created": 1}))
    sdk.chat.completions.create(**CHAT, extra_body={"prompt_cache_retention": "24h"}, metadata={"a": "b"})
    metadata: Any = {"a": "b", "tags": ["mine"]}
    sdk.chat.completions.create(**CHAT, metadata=metadata, store=True)
    sdk.chat.completions.create(**CHAT, store=None)
    gateway.answers(sse(*[{**e, "created": 1, "object": "chat.completion.chunk"} for e in chat_events("O")]))
    with sdk.chat.completions.stream(**CHAT, extra_body={"prompt_cache_retention": "in_memory"}) as stream:
        stream.until_done()
    first, second, third, fourth = bodies(gateway)
    assert first["extra_body"] == {"prompt_cache_retention": "24h"}
    assert (second["extra_body"], second["metadata"]) == ({"metadata": {"a": "b"}}, metadata)
    assert "extra_body" not in third
    assert "store" not in third
    assert fourth["extra_body"] == {"prompt_cache_retention": "in_memory"}


def test_other_calls_stay_unchanged(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    body: Any = {"conversation": "conv_1", "background": True}
    for path in ("/responses/resp_1/cancel", "/responses/input_tokens", "/responses/compact", "/conversations"):
        sdk.post(path, body=body, cast_to=object)
    sdk.embeddings.create(model="e", input="hi", encoding_format="float", extra_body=body)
    sdk.post("/responses", content=b'{"conversation": "conv_1"}', cast_to=object)
    assert [{name: sent[name] for name in body if name in sent} for sent in bodies(gateway)] == [body] * 5 + [
        {"conversation": "conv_1"}
    ]
    assert not any("extra_body" in sent or "store" in sent for sent in bodies(gateway))


# `store`


@pytest.mark.parametrize(
    ("given", "store"),
    [
        ({}, True),
        ({"store": False}, False),
        ({"store": True}, True),
        ({"store": None}, "-"),
        ({"store": omit}, True),
        ({"extra_body": {"store": False}}, False),
        ({"extra_body": {"store": None}}, "-"),
        ({"extra_body": {"extra_body": {"store": False}}}, "-"),
        ({"background": False}, "-"),
        ({"background": None}, "-"),
        ({"background": False, "extra_body": {"background": True}}, True),
    ],
)
def test_a_background_create_is_stored(given: Any, store: object, sdk: LiteLLM, gateway: ScriptedServer) -> None:
    sdk.responses.create(**{**CREATE, "background": True, **given})
    assert bodies(gateway)[0].get("store", "-") == store


def test_a_refused_store_is_dropped_once(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(REFUSED, reply(RESPONSE))
    assert create_with(sdk.responses.create, ASKED, background=True).id == "resp_1"
    gateway.answers(REFUSED)
    with pytest.raises(openai.BadRequestError):
        sdk.responses.create(**CREATE, background=True)
    assert [body.get("store") for body in bodies(gateway)] == [True, None] * 2
    assert [body.get("extra_body") for body in bodies(gateway)] == [DROPPED] * 2 + [None] * 2


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"store": True}, REFUSED),
        ({"extra_body": {"store": True}}, REFUSED),
        ({}, reply({"error": {"message": "Unsupported parameter: 'temperature'", "param": "temperature"}}, 400)),
        ({}, reply({"error": {"message": "vector store not supported", "param": "tools[0].vector_store_ids"}}, 400)),
        ({}, reply({"error": {"message": "'store' is not supported"}}, 500)),  # may have been executed
    ],
)
def test_any_other_refusal_stands(given: Any, answer: Any, sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(answer)
    with pytest.raises(openai.APIStatusError):
        sdk.responses.create(**CREATE, background=True, **given)
    assert len(gateway.posts) == 1


def test_the_library_sends_the_same_fields(gateway: ScriptedServer) -> None:
    with LiteLLMClient(gateway.url, KEY) as client:
        gateway.answers(reply(response_body(None, "queued")))
        client.create_response("hi", background=True, background_options=WINDOW)
        client.respond("hi", background=True, store=False)
        client.respond("hi", background=True, store=None, extra_body={"extra_body": {"mine": 1}}, conversation="conv_1")
        gateway.answers(REFUSED, reply(response_body(None, "queued")))
        client.create_response("hi", background=True)
        gateway.answers(REFUSED)
        with pytest.raises(GatewayError) as caught:
            client.create_response("hi", background=True, store=True)
        assert caught.value.kind is ErrorKind.UNSUPPORTED_STORE
    assert [body.get("store", "-") for body in bodies(gateway)] == [True, False, "-", True, "-", True]
    assert bodies(gateway)[0]["extra_body"] == {"background_options": WINDOW}
    assert bodies(gateway)[2]["extra_body"] == {"conversation": "conv_1", "mine": 1}


@pytest.mark.parametrize("name", ["background", "stream", "input"])
def test_reserved_fields_are_refused_at_every_level(name: str, gateway: ScriptedServer) -> None:
    with LiteLLMClient(gateway.url, KEY) as client, pytest.raises(ValueError, match=f"{name} is set by"):
        client.respond("hi", extra_body={"extra_body": {name: True}})
    assert not gateway.seen
