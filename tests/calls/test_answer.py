"""Answers without a text: the error names the content found instead, in linear time."""

from __future__ import annotations

import json
import sys

import pytest

from litellm_openai_example import GatewayError
from litellm_openai_example.calls.accumulator import Accumulator
from litellm_openai_example.calls.answer import read_response
from litellm_openai_example.calls.chat_stream import ChatStream
from litellm_openai_example.calls.reply import Reply, read_body, require_complete
from litellm_openai_example.calls.response_stream import ResponseStream

from .events import Json, completed


def test_an_answer_without_text_is_read_quickly() -> None:
    """Every poll of a running response returns one."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    for body in ({"status": "in_progress", "output": []}, {"output_text": {"content": [{}, None, {"text": None}]}}):
        sys.setprofile(count)
        try:
            assert read_response(body).text == ""
        finally:
            sys.setprofile(None)
    assert calls < 300


KINDS: list[tuple[Json, str]] = [
    ({"type": "mcp_approval_request", "name": "delete_all"}, "a request to approve an MCP call (delete_all)"),
    ({"type": "image_generation_call", "result": "aGk="}, "an image"),
    ({"type": "computer_call", "action": {"type": "click"}}, "a computer call"),
    ({"type": "custom_tool_call", "name": "sql"}, "a call of a custom tool (sql)"),
    ({"type": "code_interpreter_call", "code": "1"}, "a run of the code interpreter"),
    ({"type": "local_shell_call"}, "a shell command"),
    ({"type": "reasoning", "summary": []}, "reasoning"),
    ({"type": "message", "content": [{"type": "output_audio", "data": "aGk="}]}, "audio"),
    ({"type": "message", "content": [{"type": "output_image"}]}, "an image"),
    ({"type": "hologram"}, "an item of the type hologram"),
    ({"type": "holo\x1b[31m\ngram"}, "an item of the type holo [31m gram"),
]


def why(content: str, kind: type[Accumulator]) -> str:
    answer, _, _ = read_body(content, kind)
    with pytest.raises(GatewayError) as caught:
        require_complete(Reply(answer, content, {}))
    return caught.value.cause


@pytest.mark.parametrize(("item", "words"), KINDS)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_for_a_missing_text_names_the_output_items(item: Json, words: str, stream: bool) -> None:
    body: Json = {"status": "completed", "output": [{"type": "message", "content": None}, item]}
    content = json.dumps(body)
    if stream:
        events = [{"type": "response.output_item.done", "output_index": 0, "item": item}, completed()]
        content = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    assert why(content, ResponseStream) == f"the answer holds no text, only {words}"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"images": [{"type": "image_url", "image_url": {"url": "data:"}}]}, "an image"),
        ({"audio": {"id": "audio_1", "data": "aGk="}}, "audio"),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, "an image"),
        ({"reasoning_content": "Hmm"}, "reasoning"),
        ({"content": [{"type": "thinking", "thinking": "Hmm"}]}, "reasoning"),
    ],
)
@pytest.mark.parametrize("name", ["message", "delta"])
def test_an_error_for_a_missing_chat_text_names_the_fields(message: Json, words: str, name: str) -> None:
    body = json.dumps({"choices": [{name: {"content": None, **message}, "finish_reason": "stop"}]})
    content = body if name == "message" else f"data: {body}\n\n"
    assert why(content, ChatStream) == f"the answer holds no text, only {words}"


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [{"type": "custom", "custom": {"name": "sql", "input": "x"}}]},
        {"function_call": {"name": "sql", "arguments": "{}"}},
    ],
)
@pytest.mark.parametrize("name", ["message", "delta"])
def test_a_malformed_call_is_named(message: Json, name: str) -> None:
    body = json.dumps({"choices": [{name: message, "finish_reason": "stop"}]})
    content = body if name == "message" else f"data: {body}\n\n"
    assert why(content, ChatStream) == "the model called a function instead of answering: sql"
