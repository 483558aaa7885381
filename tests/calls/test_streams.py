"""Accumulated streams: their pieces and ends, and the faults of gateways in both."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from litellm_openai_example.calls.accumulator import Accumulator
from litellm_openai_example.calls.chat_stream import ChatStream
from litellm_openai_example.calls.reply import read_body
from litellm_openai_example.calls.response_stream import ResponseStream
from litellm_openai_example.calls.sse import Event, EventParser

FRUIT = "\U0001f35c"


def delta(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text, **more}


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **more}


def completed(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": output, **more}}


def fed(reader: Accumulator, *events: object) -> str:
    return "".join(reader.feed(json.loads(json.dumps(event))) for event in events) + reader.rest()


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_events_do_not_depend_on_how_the_bytes_are_split(newline: str, step: int) -> None:
    lines = [
        "\ufeff: a comment",
        "",
        "event: one",
        'data: {"a":',
        "data:1}",
        "",
        "",
        "id: 7",
        "data: 한",
        "",
        "data: [DONE]",
    ]
    content = newline.join(lines).encode()
    parser = EventParser()
    events = [event for at in range(0, len(content), step) for event in parser.feed(content[at : at + step])]
    assert [*events, *parser.end()] == [
        Event("one", '{"a":\n1}'),
        Event("message", "한", "7"),
        Event("message", "[DONE]", "7"),
    ]


def test_half_an_event_at_the_end_is_dropped() -> None:
    parser = EventParser()
    assert parser.feed(b'data: {"a": 1}\n\ndata: {"a"') + parser.end() == [Event("message", '{"a": 1}')]


def test_a_blank_line_separates_the_commentary_from_the_report() -> None:
    added = [
        {"type": "response.output_item.added", "output_index": n, "item": {"type": "message", "phase": phase}}
        for n, phase in enumerate(("commentary", "final_answer"))
    ]
    output = message("I look.", phase="commentary"), message("# Report", phase="final_answer")
    reader = ResponseStream()
    shown = fed(
        reader, added[0], delta("I look.", output_index=0), added[1], delta("# ", output_index=1),
        delta("Report", output_index=1), completed(*output),
    )  # fmt: skip
    assert shown == reader.answer().text == "I look.\n\n# Report"


@pytest.mark.parametrize("place", [{}, {"output_index": 1, "content_index": 0}, {"item_id": "m"}])
def test_text_repeated_in_a_done_event_is_shown_once(place: dict[str, Any]) -> None:
    where = {"item_id": "m", "output_index": 1, "content_index": 0}
    part = {"type": "output_text", "text": "Hello"}
    reader = ResponseStream()
    shown = fed(
        reader, delta("Hel", **place), {"type": "response.output_text.done", "text": "Hello", **where},
        {"type": "response.content_part.done", "part": part, **where},
        {"type": "response.output_item.done", "output_index": 1, "item": message("Hello", id="m")}, completed(),
    )  # fmt: skip
    assert shown == reader.answer().text == "Hello"


def test_an_incomplete_event_without_a_reason_is_not_whole() -> None:
    reader = ResponseStream()
    fed(reader, delta("Half"), {"type": "response.incomplete", "response": {"id": "r"}})
    assert reader.answer().cut_short


def test_function_calls_of_a_chat_stream_are_joined() -> None:
    def call(**function: str) -> dict[str, Any]:
        return {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c1", "function": function}]}}]}

    reader = ChatStream()
    fed(reader, call(name="f", arguments='{"a"'), call(arguments=":1}"), {"choices": [{"finish_reason": "tool_calls"}]})
    assert [(c.call_id, c.name, c.arguments) for c in reader.answer().calls] == [("c1", "f", '{"a":1}')]


def test_halves_of_a_character_are_joined_and_a_lone_half_is_kept() -> None:
    reader = ResponseStream()
    assert fed(reader, delta("a\ud83c"), delta("\udf5cb"), delta("\ud83c")) == f"a{FRUIT}b\ud83c"


def test_unrequested_events_are_an_answer() -> None:
    body = b'event: response.completed\ndata: {"response": {"id": "r", "output_text": "Hi"}}\n\n'
    assert read_body(body, ResponseStream)[0].text == "Hi"
    cut = read_body(b'data: {"choices": [{"delta": {"content": "Hal"}}]}\n\n', ChatStream)[0]
    assert (cut.text, cut.status) == ("Hal", "incomplete")


@pytest.mark.parametrize("kind", ["chat", "responses", "refusals"])
def test_time_grows_linearly_with_the_length(kind: str) -> None:
    def seconds(pieces: int) -> float:
        reader: Accumulator = ChatStream() if kind == "chat" else ResponseStream()
        event: dict[str, object] = delta("word ", output_index=0)
        if kind == "chat":
            event = {"choices": [{"delta": {"content": "word "}}]}
        began = time.process_time()
        for number in range(pieces):
            reader.feed({"type": "response.refusal.done", "refusal": f"No {number}."} if kind == "refusals" else event)
            assert not reader.ended
            assert reader.id is None
        return time.process_time() - began

    seconds(1000)
    assert seconds(50_000) < 30 * seconds(5_000)
