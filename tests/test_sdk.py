"""The drop-in is the SDK's client: everything works as on its parent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import weakref
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from litellm_openai_example import AsyncLiteLLM, ConfigurationError, LiteLLM, LiteLLMHttpxClient
from litellm_openai_example.http_library import httpx
from litellm_openai_example.sdk import CopyOptions

from .fakes.scripted import (
    COMPLETED,
    KEY,
    Answer,
    ScriptedServer,
    chat_body,
    chat_events,
    reply,
    response_body,
    response_events,
    sse,
)

CREATE: dict[str, Any] = {"model": "m", "input": "hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CHAT_BODY = {**chat_body("OK"), "created": 1}
RESPONSE = {**response_body("OK"), "created_at": 1, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}


class Colour(BaseModel):
    name: str


@pytest.fixture
def sdk(gateway: ScriptedServer) -> Iterator[LiteLLM]:
    with LiteLLM(base_url=gateway.url, api_key=KEY) as client:
        yield client


def test_the_drop_in_is_an_instance_of_the_sdks_client(sdk: LiteLLM) -> None:
    assert isinstance(sdk, openai.OpenAI)
    assert isinstance(AsyncLiteLLM(base_url="https://gateway", api_key=KEY), openai.AsyncOpenAI)
    assert type(sdk.responses) is openai.resources.responses.Responses
    assert type(sdk.chat.completions) is openai.resources.chat.Completions
    assert KEY not in repr(sdk) + str(sdk) + str(sdk.__class__)


def test_typed_answers(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(reply(RESPONSE))
    assert type(sdk.responses.create(**CREATE)) is openai.types.responses.Response
    gateway.answers(reply(CHAT_BODY))
    completion = sdk.chat.completions.create(**CHAT)
    assert type(completion) is openai.types.chat.ChatCompletion
    assert completion.choices[0].message.content == "OK"
    assert gateway.posts[1].path == "/v1/chat/completions"
    assert gateway.posts[1].headers["authorization"] == f"Bearer {KEY}"


def test_streams(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(sse(*response_events("O", "K", end=COMPLETED)))
    with sdk.responses.create(**CREATE, stream=True) as events:
        assert [event.type for event in events][-1] == "response.completed"
    gateway.answers(sse(*chat_events("O", "K")))
    chunks = list(sdk.chat.completions.create(**CHAT, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "OK"


def test_the_streaming_helpers(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(
        sse(*[{**event, "created": 1, "object": "chat.completion.chunk"} for event in chat_events("O", "K")])
    )
    with sdk.chat.completions.stream(**CHAT) as stream:
        assert stream.get_final_completion().choices[0].message.content == "OK"


def test_raw_and_streaming_responses(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(reply(RESPONSE, **{"x-litellm-call-id": "call-1"}))
    raw = sdk.responses.with_raw_response.create(**CREATE)
    assert (raw.headers["x-litellm-call-id"], raw.parse().output_text) == ("call-1", "OK")
    with sdk.responses.with_streaming_response.create(**CREATE) as response:
        assert json.loads(b"".join(response.iter_bytes()))["id"] == "resp_1"


def test_a_response_has_its_elapsed_time(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(reply(RESPONSE))
    assert sdk.responses.with_raw_response.create(**CREATE).elapsed.total_seconds() > 0
    with sdk.responses.with_streaming_response.create(**CREATE) as response:
        response.read()
        assert response.elapsed.total_seconds() > 0

    async def use() -> None:
        async with AsyncLiteLLM(base_url=gateway.url, api_key=KEY) as sdk:
            assert (await sdk.responses.with_raw_response.create(**CREATE)).elapsed.total_seconds() > 0

    asyncio.run(use())


def test_an_answer_is_freed_without_the_garbage_collector(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(reply(RESPONSE))
    gc.disable()
    try:
        response = sdk.responses.with_raw_response.create(**CREATE).http_response
        kept: list[weakref.ref[object]] = [weakref.ref(response), weakref.ref(response.request)]
        del response
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()


def test_parsing(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(reply({**RESPONSE, "output": response_body('{"name": "blue"}')["output"]}))
    parsed = sdk.responses.parse(**CREATE, text_format=Colour)
    assert parsed.output_parsed == Colour(name="blue")
    gateway.answers(reply({**chat_body('{"name": "red"}'), "created": 1}))
    assert sdk.chat.completions.parse(**CHAT, response_format=Colour).choices[0].message.parsed == Colour(name="red")


def test_the_sdks_tool_runner_sends_each_turn_once(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    runner = pytest.importorskip("openai.lib.responses_tool_runner", reason="this SDK has no tool runner")
    call = {"type": "function_call", "id": "fc_1", "call_id": "c_1", "name": "look", "arguments": "{}"}
    turn = {**RESPONSE, "output": [{**call, "status": "completed"}]}
    gateway.answers(reply(turn), reply({"error": {"message": "broke"}}, 500))
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
    made = runner.ResponsesToolRunner(functions=[runner.RegisteredFunction(tool, lambda arguments: "42")])
    with pytest.raises(Exception) as caught:
        made.run(sdk, CREATE)
    assert isinstance(caught.value.__cause__ or caught.value, openai.OpenAIError | RuntimeError)
    first, second = (post.json["input"] for post in gateway.posts)
    assert first == "hi" or len(first) == 1
    assert [item["type"] for item in second if "call_id" in item] == ["function_call", "function_call_output"]


def test_options_and_copies(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    gateway.answers(reply({}, 429), reply(RESPONSE))
    with pytest.raises(openai.RateLimitError):
        sdk.with_options(max_retries=0).responses.create(**CREATE)
    other = sdk.copy(api_key="sk-other", default_headers={"x-team": "blue"}, timeout=7)
    assert type(other) is LiteLLM
    assert other.base_url == sdk.base_url
    other.responses.create(**CREATE)
    assert gateway.posts[1].headers["authorization"] == "Bearer sk-other"
    assert gateway.posts[1].headers["x-team"] == "blue"
    assert sdk.with_options(base_url=f"{gateway.url}/prefix").base_url.path == "/prefix/v1/"
    with pytest.raises(ConfigurationError):
        sdk.with_options(base_url="ftp://gateway")


def test_files_embeddings_models_and_deletes(sdk: LiteLLM, gateway: ScriptedServer) -> None:
    file = {"id": "file-1", "object": "file", "bytes": 3, "created_at": 1, "filename": "a", "purpose": "batch"}
    gateway.answers(reply(file))
    assert sdk.files.create(file=("a.jsonl", b"{}\n"), purpose="batch").id == "file-1"
    assert b'name="purpose"' in gateway.posts[0].content
    gateway.answers(Answer(body=b"\x00\x01", headers={"content-type": "application/octet-stream"}))
    assert sdk.files.content("file-1").read() == b"\x00\x01"
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    gateway.answers(reply({"object": "list", "data": [vector], "model": "e", "usage": {}}))
    assert sdk.embeddings.create(model="e", input="hi", encoding_format="float").data[0].embedding == [0.5]
    gateway.answers(reply({"object": "list", "data": [{"id": "m1", "object": "model"}]}))
    assert [model.id for model in sdk.models.list()] == ["m1"]
    gateway.answers(reply({"id": "resp_1", "object": "response", "deleted": True}))
    sdk.responses.delete("resp_1")
    assert gateway.seen[-1].method == "DELETE"


def test_a_large_download_may_take_longer_than_the_timeout(gateway: ScriptedServer) -> None:
    gateway.answers(Answer(body=b"x" * 12, drip=0.2, headers={"content-type": "application/octet-stream"}))
    with LiteLLM(base_url=gateway.url, api_key=KEY, timeout=1.5) as sdk:
        assert len(sdk.files.content("file-1").read()) == 12


def test_a_key_may_be_a_function(gateway: ScriptedServer) -> None:
    keys = iter(["sk-1", "sk-2"])
    gateway.answers(reply(RESPONSE))
    with LiteLLM(base_url=gateway.url, api_key=lambda: next(keys)) as sdk:
        sdk.responses.create(**CREATE)
        sdk.responses.create(**CREATE)
    assert [seen.headers["authorization"] for seen in gateway.posts] == ["Bearer sk-1", "Bearer sk-2"]


def test_the_environment(gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_BASE_URL", f"{gateway.url}/litellm/")
    monkeypatch.setenv("LITELLM_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-house")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-of-another-house")
    gateway.answers(reply(RESPONSE))
    with LiteLLM() as sdk:
        sdk.responses.create(**CREATE)
        sdk.with_options(timeout=5).responses.create(**CREATE)
    assert gateway.posts[0].path == "/litellm/v1/responses"
    assert "another-house" not in str([seen.headers for seen in gateway.seen])
    with LiteLLM(base_url=gateway.url, api_key="sk-given") as sdk:
        sdk.responses.create(**CREATE)
    assert (gateway.posts[2].path, gateway.posts[2].headers["authorization"]) == ("/v1/responses", "Bearer sk-given")


HOUSE = {
    "OPENAI_ORG_ID": "org-of-another-house",
    "OPENAI_PROJECT_ID": "proj-of-another-house",
    "OPENAI_ADMIN_KEY": "sk-admin-of-another-house",
    "OPENAI_API_KEY": "sk-of-another-house",
    "OPENAI_CUSTOM_HEADERS": "x-tenant: another-house\nAuthorization: Bearer another-house",
    "OPENAI_WEBHOOK_SECRET": "whsec-another-house",
}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_credentials_of_another_account_are_not_sent(
    kind: str, gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HOUSE.items():
        monkeypatch.setenv(name, value)
    gateway.answers(reply(RESPONSE))
    given = {"organization": "org-mine", "project": "proj-mine", "default_headers": {"x-mine": "1"}}

    def use(**options: Any) -> None:
        if kind == "sync":
            with LiteLLM(base_url=gateway.url, api_key=KEY, **options) as sdk:
                sdk.responses.create(**CREATE)
                sdk.with_options(timeout=5).responses.create(**CREATE)
                with contextlib.suppress(Exception):  # these require the admin key, which is not set
                    sdk.admin.organization.users.list()
        else:
            asyncio.run(use_async(**options))

    async def use_async(**options: Any) -> None:
        async with AsyncLiteLLM(base_url=gateway.url, api_key=KEY, **options) as sdk:
            await sdk.responses.create(**CREATE)
            await sdk.with_options(timeout=5).responses.create(**CREATE)
            with contextlib.suppress(Exception):
                await sdk.admin.organization.users.list()

    use()
    assert "another-house" not in str([seen.headers for seen in gateway.seen])
    assert not [name for seen in gateway.seen for name in seen.headers if name.startswith("openai-")]
    assert all(seen.headers["authorization"] == f"Bearer {KEY}" for seen in gateway.posts)
    use(**given)
    for seen in gateway.posts[2:]:
        assert (seen.headers["openai-organization"], seen.headers["openai-project"]) == ("org-mine", "proj-mine")
        assert (seen.headers["x-mine"], seen.headers["authorization"]) == ("1", f"Bearer {KEY}")
    if hasattr(openai.OpenAI, "admin"):
        use(admin_api_key="sk-admin-mine")
        assert gateway.seen[-1].headers["authorization"] == "Bearer sk-admin-mine"
    else:
        with pytest.raises(ConfigurationError, match="admin_api_key needs a newer openai"):
            use(admin_api_key="sk-admin-mine")


@pytest.mark.parametrize("kind", [LiteLLM, AsyncLiteLLM])
def test_an_option_that_the_installed_sdk_lacks(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = kind(base_url="https://gateway", api_key=KEY)
    # openai 2.31 has no admin_api_key, 3.0 no data_residency: the next one does not exist yet.
    monkeypatch.setitem(CopyOptions.__annotations__, "next_option", "str")
    for use in (lambda **options: kind(base_url="https://gateway", api_key=KEY, **options), client.copy):
        with pytest.raises(openai.OpenAIError) as caught:
            use(next_option="x")
        assert isinstance(caught.value, ConfigurationError)
        assert str(caught.value) == f"next_option needs a newer openai than {openai.__version__}"
        with pytest.raises(TypeError, match="timeuot"):
            use(timeuot=3)


def test_a_custom_http_client(gateway: ScriptedServer) -> None:
    gateway.answers(reply({}, 429), reply(RESPONSE), reply({}, 502), reply(RESPONSE))
    with (
        LiteLLMHttpxClient(headers={"x-mine": "1"}) as http,
        LiteLLM(base_url=gateway.url, api_key=KEY, http_client=http) as sdk,
    ):
        sdk.responses.create(**CREATE)
    assert gateway.posts[1].headers["x-mine"] == "1"
    with (
        httpx.Client() as foreign,
        LiteLLM(base_url=gateway.url, api_key=KEY, http_client=foreign, max_retries=5) as sdk,
        pytest.raises(openai.InternalServerError),
    ):
        sdk.responses.create(**CREATE)
    assert len(gateway.posts) == 3


@pytest.mark.parametrize(
    "missing", [{"base_url": "https://gateway"}, {"api_key": KEY}, {"base_url": "", "api_key": KEY}, {"api_key": " "}]
)
def test_missing_settings_are_named(missing: dict[str, Any]) -> None:
    for client in (LiteLLM, AsyncLiteLLM):
        with pytest.raises(ConfigurationError, match="LITELLM_") as caught:
            client(**missing)
        assert isinstance(caught.value, openai.OpenAIError)  # like the SDK's error for a missing key


def test_the_asynchronous_drop_in(gateway: ScriptedServer) -> None:
    async def use() -> None:
        async with AsyncLiteLLM(base_url=gateway.url, api_key=KEY) as sdk:
            gateway.answers(reply({}, 503), reply(RESPONSE))
            assert (await sdk.responses.create(**CREATE)).output_text == "OK"
            gateway.answers(sse(*response_events("O", "K", end=COMPLETED)))
            events = [event async for event in await sdk.responses.create(**CREATE, stream=True)]
            assert events[-1].type == "response.completed"
            gateway.answers(reply(RESPONSE))
            raw = await sdk.with_options(timeout=9).responses.with_raw_response.create(**CREATE)
            assert raw.parse().output_text == "OK"
            many = await asyncio.gather(*(sdk.responses.create(**CREATE) for _ in range(20)))
            assert [one.output_text for one in many] == ["OK"] * 20

    asyncio.run(use())


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_asynchronous_drop_in_under_trio(gateway: ScriptedServer, anyio_backend: str) -> None:
    gateway.answers(Answer(pause=30))
    async with AsyncLiteLLM(base_url=gateway.url, api_key=KEY, timeout=0.5) as sdk:
        with pytest.raises(openai.APITimeoutError):
            await sdk.responses.create(**CREATE)
        gateway.answers(reply(RESPONSE))
        assert (await sdk.responses.create(**CREATE)).output_text == "OK"
