"""Chat Completions, whole and as a stream of chunks: choices, calls, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from litellm_openai_example.calls.chat_stream import ChatStream
from litellm_openai_example.calls.reply import read_body
from litellm_openai_example.calls.response_stream import ResponseStream

from .events import Json, chunk, fed, lines, whole


@pytest.mark.parametrize("index", [0, "0", 0.0, None])
def test_the_first_choice_with_text_is_read(index: object) -> None:
    first: Json = {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": None}}
    second = {"index": 1, "finish_reason": "length", "message": {"content": "Hello"}}
    for choices in ([first, second], [second, first]) if index is not None else ([first, second],):
        answer, _, _ = read_body(json.dumps({"choices": choices}), ChatStream)
        assert (answer.text, answer.status) == ("Hello", "incomplete")
    # Without indexes, the order of the list decides.
    first["message"]["content"] = "First"
    answer, _, _ = read_body(json.dumps({"choices": [second, first]}), ChatStream)
    assert (answer.text, answer.status) == (("First", "completed") if index is not None else ("Hello", "incomplete"))


def test_text_and_calls_may_be_in_different_choices() -> None:
    call = {"id": "call_1", "function": {"name": "f", "arguments": "{}"}}
    choices = [
        {"index": 0, "finish_reason": "stop", "message": {"content": "I look."}},
        {"index": 1, "finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [call]}},
    ]
    answer, _, _ = read_body(json.dumps({"choices": choices}), ChatStream)
    assert (answer.text, answer.status, [one.name for one in answer.calls]) == ("I look.", "completed", ["f"])


STOP = chunk(None, "stop")

STREAMED: dict[str, tuple[list[Json], str]] = {
    "two, mixed": ([chunk("b1", index=1), chunk("a1"), chunk("b2", index=1), chunk("a2"), STOP], "a1a2"),
    "two in one event": ([{"choices": chunk("a")["choices"] + chunk("b", index=1)["choices"]}, STOP], "a"),
    "two without an index": ([{"choices": [{"delta": {"content": text}} for text in "ab"]}, STOP], "a"),
    "indexes as texts": ([chunk("b", index="1"), chunk("a", index="0"), STOP], "a"),
    "all in the second": ([chunk(""), chunk("a", index=1), chunk("b", index=1), STOP, chunk("", "stop", 1)], "ab"),
    "the second after the end of the first": ([STOP, chunk("a", index=1), chunk("b", "stop", index=1)], "ab"),
    "an index that counts the chunks": ([chunk("a"), chunk("b", index=1), chunk(None, "stop", 2)], "ab"),
    "the same, the role first": ([chunk(""), chunk("a", index=1), chunk("b", index=2), chunk(None, "stop", 3)], "ab"),
    "an index that counts the blocks": (
        [chunk("a"), chunk("b"), chunk("c", index=2), chunk("d", index=2), STOP],
        "abcd",
    ),
    "the second after the first, each ended": ([chunk("a", "stop"), chunk("b", "stop", index=1)], "a"),
    "only the second": ([chunk("a", index=1), chunk("b", "stop", index=1)], "ab"),
}


@pytest.mark.parametrize("name", STREAMED)
def test_choices_of_a_stream_are_not_mixed(name: str) -> None:
    chunks, text = STREAMED[name]
    reader = ChatStream()
    shown = "".join(reader.feed(json.loads(json.dumps(one))) for one in chunks) + reader.end()
    answer = reader.answer()
    assert (shown, answer.text, answer.status) == (text, text, "completed")


WORDS = "I cannot help."


@pytest.mark.parametrize(
    "message",
    [
        {"refusal": WORDS},
        {"refusal": [{"type": "text", "text": WORDS}]},
        {"refusal": [{"type": "refusal", "refusal": "I cannot "}, "help."]},
        {"refusal": {"type": "refusal", "refusal": WORDS}},
        {"refusal": {"text": WORDS}},
        {"content": {"type": "refusal", "refusal": WORDS}},
        {"content": [{"type": "refusal", "refusal": [{"text": WORDS}]}]},
        {"content": [{"type": "refusal", "refusal": WORDS}], "refusal": WORDS},
        {"content": [{"type": "message", "content": [{"type": "refusal", "refusal": WORDS}]}]},
        {"refusal": {"message": WORDS}},
    ],
)
def test_a_refusal_is_read_in_every_form(message: Json) -> None:
    chat, _, _ = read_body(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}), ChatStream)
    assert (chat.refusal, chat.text) == (WORDS, "")
    streamed, _, _ = read_body(lines({"choices": [{"delta": message, "finish_reason": "stop"}]}), ChatStream)
    assert (streamed.refusal, streamed.text) == (WORDS, "")
    item = {"type": "message", **message}
    response, _, _ = read_body(json.dumps({"status": "completed", "output": [item]}), ResponseStream)
    assert (response.refusal, response.text) == (WORDS, "")


@pytest.mark.parametrize("refusal", ["", " ", "null", [], [None], {}])
def test_an_empty_refusal_is_ignored(refusal: object) -> None:
    body = json.dumps(whole("Hello", refusal=refusal))
    answer, _, _ = read_body(body, ChatStream)
    assert (answer.text, answer.refusal) == ("Hello", "")


def test_a_streamed_refusal_is_joined() -> None:
    deltas = [{"refusal": [{"text": "I can"}]}, {"refusal": "not "}, {"refusal": {"refusal": "help."}}]
    events = [{"choices": [{"delta": delta}]} for delta in deltas]
    answer, _, _ = read_body(lines(*events, chunk(None, "stop")), ChatStream)
    assert answer.refusal == WORDS


@pytest.mark.parametrize("count", [3, 3.0, "3", "3.0"])
def test_token_counts_are_read_in_every_notation(count: object) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": "many", "total_tokens": float("inf")}
    answer, _, _ = read_body(json.dumps({**whole("Hi"), "usage": usage}), ChatStream)
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (3, None, None)


def test_streamed_calls_are_joined() -> None:
    def call(**function: str) -> dict[str, Any]:
        return {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c1", "function": function}]}}]}

    reader = ChatStream()
    fed(reader, call(name="f", arguments='{"a"'), call(arguments=":1}"), {"choices": [{"finish_reason": "tool_calls"}]})
    assert [(c.call_id, c.name, c.arguments) for c in reader.answer().calls] == [("c1", "f", '{"a":1}')]


@pytest.mark.parametrize("name", ["finish_reason", "native_finish_reason"])
@pytest.mark.parametrize("wrap", [lambda said: said, lambda said: {"provider_specific_fields": said}])
def test_a_break_reported_beside_a_stop_is_found_in_messages_and_chunks(
    name: str, wrap: Callable[[Json], Json]
) -> None:
    said = wrap({name: "insufficient_system_resource"})
    assert read_body(json.dumps(whole("Half", **said)), ChatStream)[0].cut_short
    reader = ChatStream()
    fed(reader, chunk("Half"), chunk("", "stop", delta=said))
    assert reader.answer().cut_short


WHY = "context size exceeded"


def test_an_error_reported_beside_a_stop_is_found_in_messages_and_chunks() -> None:
    said: Json = {"provider_specific_fields": {"error": {"message": WHY}}}
    assert read_body(json.dumps(whole("Half", **said)), ChatStream)[0].error_message == WHY
    reader = ChatStream()
    fed(reader, chunk("Half"), chunk("", "stop", delta=said))
    assert reader.answer().error_message == WHY


@pytest.mark.parametrize(
    "events",
    [
        [
            {"choices": [{"message": {"content": piece}}]} for piece in ("Hel", "lo")
        ],  # pieces named "message" instead of "delta"
        [{"choices": [{"message": {"content": text}}]} for text in ("Hel", "Hello")],
        [{"choices": [{"delta": piece}]} for piece in ("Hel", "lo")],
        [chunk("Hello"), whole(" Hello ")],
    ],
)
def test_pieces_under_any_name_are_shown_once(events: list[Json]) -> None:
    reader = ChatStream()
    assert fed(reader, *events, {"choices": [{"finish_reason": "stop"}]}) == "Hello"
    assert (reader.answer().text, reader.answer().status) == ("Hello", "completed")
