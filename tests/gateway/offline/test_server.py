"""The offline provider, as the SDK sees it."""

from __future__ import annotations

import base64
import http.client
import json
import struct
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from litellm_openai_example.gateway.offline.model import DEMO, SOURCE
from litellm_openai_example.gateway.offline.provider import OfflineProvider

from ...tools.chance import FIXED

SEARCH: Any = {"type": "web_search_preview"}
PARAMETERS: Any = {"type": "object", "properties": {"research_question": {"type": "string"}}}
RESEARCH: Any = {"type": "function", "name": "deep_research", "parameters": PARAMETERS, "strict": False}
CHAT_RESEARCH: Any = {"type": "function", "function": {"name": "deep_research", "parameters": PARAMETERS}}


@pytest.fixture(scope="module")
def provider() -> Iterator[OfflineProvider]:
    with OfflineProvider(background_seconds=0.6, research_seconds=0.8) as provider:
        yield provider


@pytest.fixture(scope="module")
def client(provider: OfflineProvider) -> Iterator[OpenAI]:
    with OpenAI(base_url=provider.base_url, api_key=provider.api_key, max_retries=0) as client:
        yield client


def finished(client: OpenAI, response_id: str) -> tuple[Any, list[str]]:
    """Poll a background response to its end; return it and the statuses on the way."""
    seen: list[str] = []
    for _ in range(1200):
        response = client.responses.retrieve(response_id)
        if response.status not in seen[-1:]:
            seen.append(str(response.status))
        if response.status not in ("queued", "in_progress"):
            return response, seen
        time.sleep(0.05)
    raise AssertionError("never finished")


# Chat completions


def test_chat(client: OpenAI) -> None:
    made = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Reply with exactly: 안녕 🎉\nzwei"}]
    )
    assert made.choices[0].message.content == "안녕 🎉\nzwei"
    assert made.choices[0].finish_reason == "stop"
    assert made.model == "gpt-4o"
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens > 0


@pytest.mark.parametrize("with_usage", [True, False])
def test_chat_stream(client: OpenAI, with_usage: bool) -> None:
    options: Any = {"include_usage": with_usage}
    chunks = list(
        client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": [{"type": "text", "text": "Reply with exactly: " + "나" * 100}]}],
            stream=True,
            stream_options=options,
        )
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "나" * 100
    assert len(texts) > 5
    assert [chunk.usage is not None for chunk in chunks][-1] is with_usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_chat_with_a_function_call_and_its_output(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Compare tea and coffee"}]
    first = client.chat.completions.create(model="m", messages=messages, tools=[CHAT_RESEARCH])
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["research_question"] == "Compare tea and coffee"
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "TEA WINS"}]
    second = client.chat.completions.create(model="m", messages=messages, tools=[CHAT_RESEARCH])
    assert "TEA WINS" in str(second.choices[0].message.content)
    assert "Compare tea and coffee" in str(second.choices[0].message.content)


def test_chat_streams_a_function_call_in_pieces(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="m", messages=[{"role": "user", "content": "조사해줘: 짜장면"}], tools=[CHAT_RESEARCH]
    ) as stream:
        made = stream.get_final_completion()
    (call,) = made.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["research_question"] == "조사해줘: 짜장면"


# Responses


def test_response(client: OpenAI) -> None:
    made = client.responses.create(model="gpt-4o", input="Reply with exactly: OK")
    assert (made.output_text, made.status) == ("OK", "completed")
    assert client.responses.retrieve(made.id).output_text == "OK"


def test_response_stream_has_all_events_in_order(client: OpenAI) -> None:
    events = list(client.responses.create(model="m", input="hello", tools=[SEARCH], stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.web_search_call.in_progress",
        "response.web_search_call.searching",
        "response.web_search_call.completed",
        "response.output_item.done",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.completed",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text


def test_web_search_cites_its_source(client: OpenAI) -> None:
    made: Any = client.responses.create(model="m", input="News?", tools=[SEARCH])
    search, message = made.output
    assert (search.type, search.status) == ("web_search_call", "completed")
    (citation,) = message.content[0].annotations
    assert (citation.type, citation.url) == ("url_citation", SOURCE)
    assert made.output_text[citation.start_index : citation.end_index] == SOURCE


def test_a_conversation_continues(client: OpenAI) -> None:
    first = client.responses.create(model="m", input="I am Mina", instructions="Be kind")
    assert "Instructions: Be kind" in first.output_text
    second = client.responses.create(model="m", input="Who am I?", previous_response_id=first.id)
    assert "Before that you said: I am Mina" in second.output_text
    assert "Be kind" not in second.output_text  # as with the real API, instructions hold for one call


def test_an_unknown_previous_response_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="m", input="x", previous_response_id="resp_unknown")
    assert caught.value.code == "previous_response_not_found"


def test_input_items(client: OpenAI) -> None:
    made = client.responses.create(model="m", input="hello")
    (item,) = client.responses.input_items.list(made.id).data
    assert item.to_dict()["content"] == [{"type": "input_text", "text": "hello"}]


def test_parse(client: OpenAI) -> None:
    class Answer(BaseModel):
        title: str
        pages: int

    made = client.responses.parse(model="m", input="hello", text_format=Answer)
    assert made.output_parsed is not None
    assert made.output_parsed.title.startswith(DEMO)
    chat = client.chat.completions.parse(
        model="m", messages=[{"role": "user", "content": "hello"}], response_format=Answer
    )
    assert chat.choices[0].message.parsed is not None
    assert json.loads(
        client.responses.create(model="m", input="Give JSON", text={"format": {"type": "json_object"}}).output_text
    )["answer"].startswith(DEMO)


# Function calls


def call_of(response: Any) -> ResponseFunctionToolCall:
    (item,) = response.output
    assert isinstance(item, ResponseFunctionToolCall)
    return item


def test_function_call_with_the_previous_response(client: OpenAI) -> None:
    first = client.responses.create(model="m", input="Research tides", tools=[RESEARCH])
    call = call_of(first)
    assert json.loads(call.arguments)["research_question"] == "Research tides"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "THE MOON"}
    second = client.responses.create(model="m", input=[output], previous_response_id=first.id, tools=[RESEARCH])
    assert "THE MOON" in second.output_text
    assert "You asked: Research tides" in second.output_text


def test_function_call_with_all_items(client: OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": "Research tides"}]
    call = call_of(client.responses.create(model="m", input=items, tools=[RESEARCH], store=False))
    items += [call.to_dict(), {"type": "function_call_output", "call_id": call.call_id, "output": "THE MOON"}]
    second = client.responses.create(model="m", input=items, tools=[RESEARCH])
    assert "THE MOON" in second.output_text
    assert "You asked: Research tides" in second.output_text


def test_function_call_in_a_stream(client: OpenAI) -> None:
    events = list(client.responses.create(model="m", input="Research tides", tools=[RESEARCH], stream=True))
    deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert done.arguments == deltas
    assert json.loads(deltas)["research_question"] == "Research tides"


def test_an_output_without_a_call_is_refused(client: OpenAI) -> None:
    output: Any = {"type": "function_call_output", "call_id": "call_none", "output": "x"}
    with pytest.raises(openai.BadRequestError, match="No tool call found"):
        client.responses.create(model="m", input=[output])


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "deep_research"}])
def test_a_forced_call(client: OpenAI, choice: Any) -> None:
    made = client.responses.create(model="m", input="hi", tools=[RESEARCH], tool_choice=choice)
    assert call_of(made).name == "deep_research"


def test_tool_choice_none(client: OpenAI) -> None:
    made = client.responses.create(model="m", input="Research tides", tools=[RESEARCH], tool_choice="none")
    assert DEMO in made.output_text


# Background


def test_background(client: OpenAI) -> None:
    made = client.responses.create(model="m", input="Reply with exactly: late", background=True)
    assert (made.status, made.output) == ("queued", [])
    response, seen = finished(client, made.id)
    assert seen == [one for one in ("queued", "in_progress", "completed") if one in seen]
    assert response.output_text == "late"


def test_cancel(client: OpenAI) -> None:
    made = client.responses.create(model="m", input="x", background=True)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_completed_and_foreground_responses_cannot_be_cancelled(client: OpenAI) -> None:
    made = client.responses.create(model="m", input="x", background=True)
    finished(client, made.id)
    for response_id in (made.id, client.responses.create(model="m", input="x").id):
        with pytest.raises(openai.BadRequestError, match="cancel"):
            client.responses.cancel(response_id)


def test_delete(client: OpenAI) -> None:
    made = client.responses.create(model="m", input="x")
    client.responses.delete(made.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError, match="not found"):
            call(made.id)


def test_a_response_that_is_not_stored_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(client.responses.create(model="m", input="x", store=False).id)


# Research


def test_research_in_the_background(client: OpenAI) -> None:
    made = client.responses.create(model="o3-deep-research", input="Why tides?", tools=[SEARCH], background=True)
    response, _ = finished(client, made.id)
    assert "Why tides?" in response.output_text
    assert "# Offline demo research" in response.output_text
    assert [item.type for item in response.output] == ["web_search_call", "message"]
    assert response.output[1].content[0].annotations[0].url == SOURCE


def test_research_as_a_stream(client: OpenAI) -> None:
    events = list(client.responses.create(model="o3-deep-research", input="Why?", tools=[SEARCH], stream=True))
    assert events[-1].type == "response.completed"


@pytest.mark.parametrize("tools", [[], [RESEARCH], [SEARCH, RESEARCH], [{"type": "code_interpreter"}]])
def test_research_needs_a_data_source_and_takes_no_function(client: OpenAI, tools: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="Deep research models"):
        client.responses.create(model="o3-deep-research", input="Why?", tools=tools)


def test_research_with_a_general_model(client: OpenAI) -> None:
    made = client.responses.create(
        model="gpt-6.1-sol",
        input="왜 밀물과 썰물이 생길까?",
        tools=[{"type": "web_search"}],
        reasoning={"effort": "high"},
        include=["web_search_call.action.sources"],
        background=True,
    )
    response, seen = finished(client, made.id)
    assert seen[-1] == "completed"
    assert "왜 밀물과 썰물이 생길까?" in response.output_text
    assert "://" not in response.output_text
    found = [(one.type, one.url) for one in response.output[1].content[0].annotations]
    assert found == [("url_citation", SOURCE), ("url_citation", f"{SOURCE}/second")]
    assert [one.url for one in response.output[0].action.sources] == [url for _, url in found]
    for one in response.output[1].content[0].annotations:
        assert response.output_text[one.start_index : one.end_index] in ("[1]", "[2]")


def refused(client: OpenAI, model: str, **how: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=model, input="Why?", **how)
    return raised.value


def test_refusals_of_models(client: OpenAI) -> None:
    error: Any = refused(client, "gpt-6.1-sol", tools=[SEARCH])
    assert error.body["message"] == "Web search preview tool is not supported with this model, use `web_search`"
    assert refused(client, "gpt-4o", reasoning={"effort": "high"}).param == "reasoning.effort"
    assert "at least one of" in str(refused(client, "o4-mini-deep-research"))
    for model, how in (
        ("gpt-6.1-sol", {"tools": [{"type": "web_search"}], "reasoning": {"effort": "low"}}),
        ("gpt-6-luna", {"tools": [SEARCH], "reasoning": {"effort": "low"}}),
        ("gpt-4o", {"tools": [SEARCH]}),
    ):
        assert client.responses.create(model=model, input="Why?", **how).status == "completed"


# Embeddings and files


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_equal_texts_have_equal_embeddings(client: OpenAI, encoding: Any) -> None:
    texts = ["한글", "other", "한글"]
    made = client.embeddings.create(model="text-embedding-3-small", input=texts, encoding_format=encoding, dimensions=8)
    vectors = [one.embedding for one in made.data]
    if encoding == "base64":
        vectors = [list(struct.unpack("<8f", base64.b64decode(str(one)))) for one in vectors]
    assert vectors[0] == vectors[2] != vectors[1]
    assert {len(one) for one in vectors} == {8}
    assert sum(number * number for number in vectors[0]) == pytest.approx(1)
    assert [one.index for one in made.data] == [0, 1, 2]
    assert made.usage.total_tokens > 0


def test_embeddings_have_the_usual_size(client: OpenAI) -> None:
    assert len(client.embeddings.create(model="m", input="one text").data[0].embedding) == 1536
    assert len(client.embeddings.create(model="m", input=[[1, 2], [3]]).data) == 2


@pytest.mark.parametrize(
    "body", [{"input": []}, {"input": ""}, {"input": ["a", None]}, {"input": "a", "dimensions": 0}, {"input": {}}, {}]
)
def test_invalid_embedding_requests(provider: OfflineProvider, body: dict[str, Any]) -> None:
    status, answer = raw(provider, "POST", "/v1/embeddings", json.dumps({"model": "m", **body}).encode())
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_files(client: OpenAI) -> None:
    content = bytes(range(256)) * 3 + "끝\r\n--x\r\n".encode()
    made = client.files.create(file=("표.bin", content), purpose="user_data")
    assert (made.filename, made.bytes, made.purpose) == ("표.bin", len(content), "user_data")
    assert client.files.content(made.id).read() == content
    assert client.files.retrieve(made.id) == made
    assert [one.id for one in client.files.list(purpose="user_data")] == [made.id]
    assert list(client.files.list(purpose="batch")) == []
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.files.delete(made.id)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data'),
        ("multipart/form-data; boundary=x", b""),
    ],
)
def test_a_form_without_a_file_is_refused(provider: OfflineProvider, kind: str, body: bytes) -> None:
    status, answer = raw(provider, "POST", "/v1/files", body, **{"content-type": kind})
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


# The wire


def test_models(client: OpenAI) -> None:
    assert {"gpt-4o", "o3-deep-research"} <= {model.id for model in client.models.list()}


def raw(provider: OfflineProvider, method: str, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    port = int(provider.base_url.rsplit(":", 1)[1].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        sent = {"authorization": f"Bearer {provider.api_key}", **headers}
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in sent.items()})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b"{}", b'{"model": 3, "input": "x"}', b'{"model": "m"}',
     b'{"model": "m", "input": []}', b'{"model": "m", "input": ["x"]}', b'{"model": "m", "input": "x", "tools": 1}',
     b'{"model": "m", "input": "x", "tools": [1]}',
     b'{"model": "m", "input": "x", "tool_choice": {"type": "function", "name": "none"}}'],
)  # fmt: skip
def test_a_malformed_body_is_a_400_in_openais_format(provider: OfflineProvider, body: bytes) -> None:
    status, answer = raw(provider, "POST", "/v1/responses", body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]


def test_a_body_without_a_length_is_refused(provider: OfflineProvider) -> None:
    assert raw(provider, "POST", "/v1/responses", b"{}", transfer_encoding="chunked")[0] == 400


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/audio/speech", "/v1/responses/x/y", "/v1/responses/x/cancel"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_paths(provider: OfflineProvider, method: str, path: str) -> None:
    status, answer = raw(provider, method, path, b"{}")
    assert status == 404
    assert answer["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/files", "/v1/models", "/v1/responses", "/"])
@pytest.mark.parametrize("key", ["", "Bearer ", "Bearer offline", "Basic x", "Bearer \xe9"])
def test_every_request_needs_the_key(provider: OfflineProvider, method: str, path: str, key: str) -> None:
    status, answer = raw(provider, method, path, b"{}", authorization=key)
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "host",
    ["rebound.example", "rebound.example:80", "127.0.0.1.rebound.example", "", "10.0.0.1", "[::1", "localhost@x"],
)
def test_a_rebound_name_is_refused(provider: OfflineProvider, host: str) -> None:
    status, answer = raw(provider, "GET", "/v1/files", b"", host=host)
    assert (status, answer["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80"])
def test_loopback_names_are_accepted(provider: OfflineProvider, host: str) -> None:
    assert raw(provider, "GET", "/v1/files", b"", host=host)[0] == 200


@pytest.mark.parametrize(("method", "path"), [("CONNECT", "example.com:443"), ("GET", "http://example.com/v1/files")])
def test_it_does_not_act_as_a_proxy(provider: OfflineProvider, method: str, path: str) -> None:
    assert raw(provider, method, path, b"")[0] == 403


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
words = st.sampled_from(
    ["function", "required", "message", "user", "tool", "function_call", "function_call_output", "json_schema",
     "json_object", "object", "deep_research", "#/properties", "deep-research"]
)  # fmt: skip
names = st.sampled_from(
    ["type", "role", "content", "text", "format", "schema", "properties", "$ref", "anyOf", "enum", "name", "function",
     "parameters", "tool_calls", "call_id", "output", "arguments"]
)  # fmt: skip
likely = st.recursive(
    words | json_values, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=4)
)
fields = st.sampled_from(["input", "messages", "tools", "tool_choice", "text", "response_format", "instructions",
                          "metadata", "store", "background", "previous_response_id", "web_search_options"])  # fmt: skip


@pytest.mark.fuzz
@settings(deadline=None, max_examples=300, derandomize=FIXED)
@given(body=st.dictionaries(fields, likely, max_size=6), path=st.sampled_from(["responses", "chat/completions"]))
def test_any_body_gets_a_200_or_a_400(provider: OfflineProvider, body: dict[str, Any], path: str) -> None:
    whole = {"model": "m", "input": "x", "messages": [{"role": "user", "content": "x"}], **body}
    status, _ = raw(provider, "POST", f"/v1/{path}", json.dumps(whole).encode())
    assert status in (200, 400)


def test_old_responses_are_dropped(provider: OfflineProvider) -> None:
    first = provider.create_response({"model": "m", "input": "x"}).whole["id"]
    for _ in range(1000):
        provider.create_response({"model": "m", "input": "x"})
    assert provider.responses.find(first) is None
