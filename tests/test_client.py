"""The results and errors of both clients, blocking and asynchronous."""

from __future__ import annotations

import asyncio
import inspect
import json
import typing
from collections.abc import Callable, Coroutine
from typing import Any

import openai
import pytest

import litellm_openai_example
from litellm_openai_example import (
    AsyncLiteLLMClient,
    AsyncTextStream,
    CutShortError,
    GatewayError,
    LiteLLMClient,
    Reply,
    Source,
    StillRunningError,
    TextStream,
)

from .fakes.scripted import (
    COMPLETED,
    KEY,
    Answer,
    ScriptedServer,
    Seen,
    chat_body,
    chat_events,
    reply,
    response_body,
    response_events,
    sse,
)

TOOLS = [{"type": "web_search_preview"}]


class Client:
    """A caller of the methods of one kind of client by their names."""

    def __init__(self, kind: str, server: ScriptedServer, **options: Any) -> None:
        self.kind = kind
        self._make: Callable[[], Any] = lambda: (AsyncLiteLLMClient if kind == "async" else LiteLLMClient)(
            server.url, KEY, **options
        )

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        if self.kind == "sync":
            with self._make() as client:
                result = getattr(client, method)(*arguments, **named)
                return list(result) if method.startswith("stream") else result
        return asyncio.run(self._call(method, *arguments, **named))

    async def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        async with self._make() as client:
            result = getattr(client, method)(*arguments, **named)
            if method.startswith("stream"):
                return [piece async for piece in result]
            return await result


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, gateway: ScriptedServer) -> Client:
    return Client(request.param, gateway)


def test_texts(call: Client, gateway: ScriptedServer) -> None:
    gateway.answers(reply(chat_body("안녕")))
    assert call("create_chat_completion", "hi", instructions="be brief") == "안녕"
    assert [message["role"] for message in gateway.posts[0].json["messages"]] == ["system", "user"]
    gateway.answers(reply(response_body("안녕")))
    assert call("create_response", "hi", False, TOOLS, "resp_0", "be brief") == "안녕"
    assert gateway.posts[1].json == {
        "model": "gpt-6-luna",
        "input": "hi",
        "tools": TOOLS,
        "previous_response_id": "resp_0",
        "instructions": "be brief",
    }


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_headers_do_not_describe_the_machine(kind: str, gateway: ScriptedServer) -> None:
    call = Client(kind, gateway, default_headers={"x-team": "blue", "X-Stainless-Lang": "none"})
    gateway.answers(reply(response_body()))
    call("create_response", "hi", extra_headers={"x-once": "1"})
    headers = gateway.posts[0].headers
    assert {name for name in headers if name.startswith("x-stainless-")} == {
        "x-stainless-lang",
        "x-stainless-retry-count",
        "x-stainless-raw-response",
    }
    assert (headers["x-team"], headers["x-once"], headers["x-stainless-lang"]) == ("blue", "1", "none")
    assert "Python" in headers["user-agent"]


def test_streams(call: Client, gateway: ScriptedServer) -> None:
    gateway.answers(sse(*chat_events("안", "녕")))
    assert call("stream_chat_completion", "hi") == ["안", "녕"]
    gateway.answers(sse(*response_events("안", "녕", end=COMPLETED)))
    assert call("stream_response", "hi", TOOLS) == ["안", "녕"]
    assert gateway.posts[1].json["stream"] is True


def test_an_async_stream_can_be_awaited_first(gateway: ScriptedServer) -> None:
    async def use() -> None:
        async with AsyncLiteLLMClient(gateway.url, KEY) as client:
            gateway.answers(sse(*response_events("a", "b", end=COMPLETED)))
            async with await client.stream_response("hi") as stream:
                assert [piece async for piece in stream] == ["a", "b"]
            assert stream.reply.answer.id == "resp_1"
            gateway.answers(reply({}, 401))
            with pytest.raises(GatewayError):
                await client.stream_response("hi")

    asyncio.run(use())


def test_a_stream_can_be_closed_early(gateway: ScriptedServer) -> None:
    gateway.answers(sse(*response_events(*["x"] * 1000), pause=0.01))
    with LiteLLMClient(gateway.url, KEY) as client, client.stream_response("hi") as stream:
        assert next(stream) == "x"
    assert stream.reply.text == "x"


def test_a_complete_stream_ends_although_the_server_keeps_it_open(call: Client, gateway: ScriptedServer) -> None:
    events = [json.dumps(event) for event in response_events("OK", end=COMPLETED)]
    parts = [(0.0, f"data: {event}\n\n".encode()) for event in events]
    gateway.answers(Answer(headers={"content-type": "text/event-stream"}, events=[*parts, (20.0, b": still here\n\n")]))
    assert call("stream_response", "hi", timeout=10) == ["OK"]


def test_background(call: Client, gateway: ScriptedServer) -> None:
    queued = response_body(None, "queued")
    left = ["in_progress", "completed"]

    def script(seen: Seen) -> Answer:
        if seen.path.endswith("/cancel"):
            return reply(response_body(None, "cancelled"))
        if seen.method == "POST":
            return reply(queued)
        status = left.pop(0)
        return reply(response_body("done" if status == "completed" else None, status))

    gateway.script = script
    assert json.loads(call("create_response", "hi", background=True)) == queued
    assert call("wait", "resp_1", 10).text == "done"
    left.append("in_progress")
    assert json.loads(call("retrieve_response", "resp_1"))["status"] == "in_progress"
    assert json.loads(call("cancel_response", "resp_1"))["status"] == "cancelled"


def test_on_status_gets_each_status(gateway: ScriptedServer) -> None:
    left = ["queued", "in_progress", "completed"]
    gateway.script = lambda _: reply(response_body("done", left.pop(0)), **{"openai-poll-after-ms": "10"})
    told: list[str] = []
    with LiteLLMClient(gateway.url, KEY) as client:
        client.wait("resp_1", on_status=told.append)
    assert told == ["queued", "in_progress", "completed"]


def test_a_wait_ends_at_its_deadline(call: Client, gateway: ScriptedServer) -> None:
    gateway.answers(reply(response_body(None, "in_progress")))
    with pytest.raises(StillRunningError) as caught:
        call("wait", "resp_1", 0.7)
    assert caught.value.response_id == "resp_1"


def test_a_hanging_poll_is_abandoned(call: Client, gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litellm_openai_example.calls.requests.POLL_TIMEOUT", 0.3)
    gateway.answers(Answer(pause=30), reply(response_body("done")))
    assert call("wait", "resp_1", 20).text == "done"


def test_errors_are_openai_errors(call: Client, gateway: ScriptedServer) -> None:
    gateway.answers(reply({"error": {"message": f"no {KEY}", "code": "401"}}, 401, **{"x-litellm-call-id": "call-1"}))
    with pytest.raises(GatewayError) as caught:
        call("create_response", "hi")
    error = caught.value
    assert isinstance(error, openai.OpenAIError)
    assert isinstance(error.__cause__, openai.AuthenticationError)
    assert (error.status, error.support_ids) == (401, {"x-litellm-call-id": "call-1"})
    assert KEY not in f"{error} {error!r} {error.__dict__}"


def test_the_exception_has_the_partial_text(call: Client, gateway: ScriptedServer) -> None:
    gateway.answers(reply(chat_body("Half", "length")))
    with pytest.raises(CutShortError) as caught:
        call("create_chat_completion", "hi")
    assert caught.value.text == "Half"
    gateway.answers(sse(*response_events("Ha", "lf"), done=False))
    with pytest.raises(CutShortError) as caught:
        call("stream_response", "hi")
    assert caught.value.text == "Half"


@pytest.mark.parametrize("prompt", ["", " \n", "half \ud83d", None, 7])
def test_an_unusable_prompt_is_refused(prompt: Any, call: Client, gateway: ScriptedServer) -> None:
    for method in ("create_chat_completion", "create_response", "stream_response", "create_response_with_tool_calling"):
        with pytest.raises(ValueError, match="prompt"):
            call(method, prompt)
    assert gateway.seen == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_an_unusable_timeout_is_refused(timeout: Any, call: Client, gateway: ScriptedServer) -> None:
    with pytest.raises(ValueError, match="timeout"):
        call("create_response", "hi", timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        LiteLLMClient(gateway.url, KEY, timeout=timeout)
    assert gateway.seen == []


@pytest.mark.parametrize("response_id", ["", " ", "a b", "한", None])
def test_an_unusable_id_is_refused(response_id: Any, call: Client, gateway: ScriptedServer) -> None:
    for method in ("retrieve_response", "cancel_response", "wait"):
        with pytest.raises(ValueError, match="response id"):
            call(method, response_id)
    assert gateway.seen == []


def test_an_id_cannot_change_the_path(call: Client, gateway: ScriptedServer) -> None:
    gateway.answers(reply(response_body("OK")))
    call("retrieve_response", "../models?x=1")
    assert gateway.seen[0].path == "/v1/responses/..%2Fmodels%3Fx=1"


def test_from_env(configured: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_MODEL", "from-env")
    configured.answers(reply(response_body("OK")))
    for client in (LiteLLMClient.from_env(), LiteLLMClient.from_env(model="given")):
        with client:
            assert client.create_response("hi") == "OK"
            assert KEY not in repr(client)
    assert [seen.json["model"] for seen in configured.posts] == ["from-env", "given"]


def test_threads_share_a_client(gateway: ScriptedServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    gateway.script = lambda seen: reply(response_body(seen.json["input"]))
    with LiteLLMClient(gateway.url, KEY) as client, ThreadPoolExecutor(8) as pool:
        prompts = [f"prompt {number}" for number in range(40)]
        assert list(pool.map(client.create_response, prompts)) == prompts


def test_tasks_have_separate_deadlines(gateway: ScriptedServer) -> None:
    gateway.script = lambda seen: Answer(pause=30) if seen.json["input"] == "slow" else reply(response_body("OK"))

    async def use() -> list[Any]:
        async with AsyncLiteLLMClient(gateway.url, KEY) as client:
            calls: list[Coroutine[Any, Any, str]] = [
                client.create_response("slow", timeout=0.5),
                client.create_response("fast", timeout=20),
            ]
            return list(await asyncio.gather(*calls, return_exceptions=True))

    slow, fast = asyncio.run(use())
    assert isinstance(slow, GatewayError)
    assert fast == "OK"


def test_a_reply_has_usage_cost_and_sources(call: Client, gateway: ScriptedServer) -> None:
    cited = {"type": "url_citation", "url": "https://a.example/", "title": "A"}
    body = response_body("Found.") | {"model": "m-1", "usage": {"input_tokens": 3, "output_tokens": 4}}
    body["output"][0]["content"][0]["annotations"] = [cited]
    gateway.answers(reply(body, **{"x-litellm-response-cost": "0.25"}))
    got = call("respond", "hi", previous_response_id="resp_0")
    assert isinstance(got, Reply)
    assert (got.text, got.id, got.model, got.cost, got.calls) == ("Found.", "resp_1", "m-1", 0.25, ())
    assert (got.usage.input_tokens, got.usage.output_tokens) == (3, 4)
    assert got.sources == (Source("https://a.example/", "A"),)
    assert json.loads(got.raw) == body
    gateway.answers(reply(chat_body("Hello")))
    assert call("chat", "hi").text == "Hello"


def test_replies_in_the_background_and_with_function_calls(call: Client, gateway: ScriptedServer) -> None:
    gateway.answers(reply(response_body(None, "queued")))
    got = call("respond", "hi", background=True)
    assert (got.id, got.status, got.cost) == ("resp_1", "queued", None)
    asked = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    gateway.answers(reply({**response_body(None), "status": "completed", "output": [asked]}))
    got = call("respond", "hi", tools=[{"type": "function", "name": "f", "parameters": {}}])
    assert [(one.name, one.call_id) for one in got.calls] == [("f", "c1")]


def test_any_further_field_is_sent(call: Client, gateway: ScriptedServer) -> None:
    """Fields unknown to the SDK are passed like known ones, and so is the model of the call."""
    gateway.script = lambda seen: reply(chat_body("OK") if "chat" in seen.path else response_body("OK"))
    fields = {"temperature": 0.5, "metadata": {"a": "b"}, "of_tomorrow": [1], "extra_body": {"mine": 1}}
    sent = {"temperature": 0.5, "metadata": {"a": "b"}, "of_tomorrow": [1], "mine": 1}
    for method in ("create_chat_completion", "chat", "create_response", "respond"):
        call(method, "hi", model="other", reasoning={"effort": "high"}, **fields)
        body = gateway.posts[-1].json
        assert body.items() >= {**sent, "model": "other", "reasoning": {"effort": "high"}}.items(), method
        assert "extra_body" not in body
    gateway.script = lambda seen: sse(
        *(chat_events("OK") if "chat" in seen.path else response_events("OK", end=COMPLETED))
    )
    for method in ("stream_chat_completion", "stream_response"):
        call(method, "hi", model="other", **fields)
        assert gateway.posts[-1].json.items() >= {**sent, "model": "other", "stream": True}.items(), method


@pytest.mark.parametrize(
    "fields", [{"stream": True}, {"input": "x"}, {"messages": []}, {"num_retries": 2}, {"extra_body": {"stream": True}}]
)
def test_a_field_that_the_method_sets_is_refused(fields: Any, call: Client, gateway: ScriptedServer) -> None:
    for method in ("chat", "respond", "create_chat_completion", "create_response", "stream_response"):
        with pytest.raises(ValueError, match="is set by"):
            call(method, "hi", **fields)
    refused: list[dict[str, Any]] = [fields, {"tools": []}]
    for more in refused:
        with pytest.raises(ValueError, match="is set by"):
            call("create_response_with_tool_calling", "hi", **more)
    with pytest.raises(ValueError, match="is set by"):
        call("chat", "hi", background=True)
    assert gateway.seen == []


REFUSED = {"message": "Invalid value: 'web_search_preview'.", "param": "tools[0].type", "code": "invalid_value"}


@pytest.mark.parametrize("method", ["create_response", "respond", "stream_response"])
def test_web_search_is_renamed_for_the_model(method: str, call: Client, gateway: ScriptedServer) -> None:
    def script(seen: Seen) -> Answer:
        if seen.json["tools"][0]["type"] == "web_search_preview":
            return reply({"error": REFUSED}, 400)
        return sse(*response_events("OK", end=COMPLETED)) if seen.json.get("stream") else reply(response_body("OK"))

    gateway.script = script
    given = [{"type": "web_search_preview", "search_context_size": "low"}, {"type": "function", "name": "f"}]
    call(method, "hi", tools=given)
    assert [post.json["tools"][0]["type"] for post in gateway.posts] == ["web_search_preview", "web_search"]
    assert gateway.posts[1].json["tools"][0]["search_context_size"] == "low"
    assert given[0]["type"] == "web_search_preview", "the caller's own list is left alone"
    gateway.answers(reply({"error": REFUSED}, 400))
    with pytest.raises(GatewayError):
        call(method, "hi", tools=[{"type": "web_search"}])
    assert len(gateway.posts) == 3


def test_public_signatures_name_public_types() -> None:
    public = {getattr(litellm_openai_example, name) for name in litellm_openai_example.__all__}
    for kind in (LiteLLMClient, AsyncLiteLLMClient, TextStream, AsyncTextStream, Reply):
        for name, member in inspect.getmembers(kind):
            function = member.fget if isinstance(member, property) else member
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            scope = {name: getattr(litellm_openai_example, name) for name in ("ToolCallingResult", "AskedReply")}
            for hint in typing.get_type_hints(function, localns=scope).values():
                for part in parts(hint):
                    own = not isinstance(part, typing.TypeVar) and getattr(part, "__module__", "").startswith(
                        "litellm_openai_example"
                    )
                    assert not own or part in public, f"{kind.__name__}.{name}: {part}"


def test_both_clients_have_the_same_methods() -> None:
    methods = inspect.getmembers(LiteLLMClient, inspect.isfunction)
    public = {name: method for name, method in methods if not name.startswith("_")}
    assert {"chat", "respond", "wait", "create_response", "stream_response"} <= public.keys()
    for name, method in public.items():
        other = getattr(AsyncLiteLLMClient, name)
        given, expected = inspect.signature(other).parameters, inspect.signature(method).parameters
        assert str(given) == str(expected), name
        assert inspect.iscoroutinefunction(other) is not (name.startswith("stream") or name == "ask_all"), name


def parts(hint: Any) -> list[Any]:
    """Return a type and all types inside it."""
    return [hint, *(part for one in typing.get_args(hint) for part in parts(one))]
