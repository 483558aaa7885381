"""Server-sent events: any chunking of their bytes, and the wrappings that proxies add."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from litellm_openai_example.calls.accumulator import Accumulator
from litellm_openai_example.calls.chat_stream import ChatStream
from litellm_openai_example.calls.reply import read_body
from litellm_openai_example.calls.response_stream import ResponseStream
from litellm_openai_example.calls.sse import Event, EventParser

from .events import Json, chunk, lines, whole


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_events_do_not_depend_on_the_chunking_of_bytes(newline: str, step: int) -> None:
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


def test_an_unfinished_event_at_the_end_is_dropped() -> None:
    parser = EventParser()
    assert parser.feed(b'data: {"a": 1}\n\ndata: {"a"') + parser.end() == [Event("message", '{"a": 1}')]


CHUNKS = [chunk("Hel"), chunk("lo"), chunk(None, "stop")]

FINAL = {"id": "r", "status": "completed", "output": [{"type": "message", "content": "Hello"}]}

EVENTS = [
    {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
    {"type": "response.output_text.delta", "output_index": 0, "delta": "Hel"},
    {"type": "response.output_text.delta", "output_index": 0, "delta": "lo"},
    {"type": "response.completed", "response": FINAL},
]


def dressed(event: Callable[[str], str], end: str = "data: [DONE]\n\n") -> Callable[[list[Json]], str]:
    return lambda events: "".join(event(json.dumps(one)) for one in events) + end


DRESSES: dict[str, Callable[[list[Any]], str]] = {
    "prefix twice": dressed(lambda text: f"data: data: {text}\n\n", "data: data: [DONE]\n\n"),
    "prefix twice, no space": dressed(lambda text: f"data:data:{text}\n\n", "data:data:[DONE]\n\n"),
    "prefix three times": dressed(lambda text: f"data: data: data: {text}\n\n"),
    "each line wrapped": dressed(lambda text: f"data: event: message\ndata: id: 1\ndata: data: {text}\ndata: \n\n"),
    "prefix in capitals": dressed(lambda text: f"DATA: {text}\n\n"),
    "a tab for the space": dressed(lambda text: f"data:\t{text}\n\n"),
    "indented": dressed(lambda text: f"  data: {text}\n\n"),
    "comments as data": dressed(lambda text: f"data: : OPENROUTER PROCESSING\n\ndata: {text}\n\n"),
    "blank comments as data": dressed(lambda text: f"data: : \n\ndata::\n\ndata: {text}\n\n"),
    "comments": dressed(lambda text: f": keep-alive\n\ndata: {text}\n\n"),
    "keep-alive words": dressed(lambda text: f"data: ping\n\ndata: keep-alive\n\ndata: {text}\n\n"),
    "words in brackets": dressed(lambda text: f"data: [PING]\n\ndata: {text}\n\n"),
    "blank data": dressed(lambda text: f"data:\n\ndata:  \n\ndata: {text}\n\n"),
    "values that say nothing": dressed(lambda text: f'data: null\n\ndata: ""\n\ndata: 7\n\ndata: {text}\n\n'),
    "events without data": dressed(lambda text: f"event: ping\n\nretry: 3000\n\ndata: {text}\n\n"),
    "no blank lines": dressed(lambda text: f"data: {text}\n"),
    "many lines, the first with a prefix": lambda events: "".join(
        f"data: {json.dumps(event, indent=2)}\n\n" for event in events
    ),
    "JSON in a text": dressed(lambda text: f"data: {json.dumps(text)}\n\n"),
    "two values in a line": lambda events: (
        lines(*events[:-1], before="", after=" ").join(["data: ", "\n\n"]) + lines(events[-1])
    ),
    "a list in an event": lambda events: lines(events[:2], *events[2:]),
    "everything in one list": lambda events: lines(events),
    "a list alone": lambda events: json.dumps(events),
    "a byte order mark on each line": dressed(lambda text: f"\ufeffdata: {text}\n\n"),
    "zeros between": dressed(lambda text: f"\0\0data: {text}\0\n\n\0"),
    "lines of JSON": lambda events: lines(*events, before="", after="\n"),
    "lines of JSON, glued": lambda events: lines(*events, before="", after=""),
    "done in small letters": dressed(lambda text: f"data: {text}\n\n", "data: [done]\n\n"),
    "done with spaces": dressed(lambda text: f"data: {text}\n\n", "data:  [DONE] \n\n"),
    "done in quotes": dressed(lambda text: f"data: {text}\n\n", 'data: "[DONE]"\n\n'),
    "done without brackets": dressed(lambda text: f"data: {text}\n\n", "data: DONE\n\n"),
    "done glued to the last event": lambda events: lines(*events).rstrip() + "[DONE]\n\n",
    "a line of done glued to the last event": lambda events: lines(*events).rstrip() + "data: [DONE]",
    "a tail of HTML": dressed(lambda text: f"data: {text}\n\n", "<html>\n<p>Bye\n</html>\n"),
    "a head of HTML": lambda events: "<!-- proxy -->\n\n" + lines(*events),
    "a broken event behind the end": dressed(lambda text: f"data: {text}\n\n", 'data: {"usage": {"prom\n\n'),
}


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", [ChatStream, ResponseStream])
@pytest.mark.parametrize("name", DRESSES)
def test_a_stream_is_read_in_any_wrapping(name: str, kind: type[Accumulator], newline: str) -> None:
    content = DRESSES[name](CHUNKS if kind is ChatStream else EVENTS).replace("\n", newline).encode()
    for step in (1, 5, len(content)):
        reader, parser, shown = kind(), EventParser(), ""
        for at in range(0, len(content), step):
            shown += "".join(reader.take(event) for event in parser.feed(content[at : at + step]))
        shown += "".join(reader.take(event) for event in parser.end()) + reader.rest()
        answer = reader.answer()
        assert (shown, answer.text, answer.status, answer.cut_short) == ("Hello", "Hello", "completed", None)
    answer, _, _ = read_body(content, kind)
    assert (answer.text, answer.status) == ("Hello", "completed")


def test_unreadable_lines_are_counted() -> None:
    body = lines(chunk("Hello")) + "data: ping\n\ndata: pong\n\n: comment\n\n" + lines(chunk(None, "stop"))
    answer, _, reader = read_body(body, ChatStream)
    assert (answer.text, answer.status, reader and reader.skipped) == ("Hello", "completed", 2)


@pytest.mark.parametrize("kind", [ChatStream, ResponseStream])
def test_a_stream_without_an_end_quotes_the_unreadable_line(kind: type[Accumulator]) -> None:
    begun = chunk("Hel") if kind is ChatStream else EVENTS[1]
    answer, _, _ = read_body(lines(begun) + "data: upstream gone\n\ndata: bye\n\n", kind)
    assert answer.status == "incomplete"
    assert "2 lines of it cannot be read: upstream gone is not JSON" in str(answer.cut_short)


@pytest.mark.parametrize("end", [lines(chunk(None, "stop")), "data: [DONE]\n\n"])
def test_a_broken_piece_makes_the_answer_incomplete(end: str) -> None:
    body = lines(chunk("a")) + 'data: {"choices": [{"delta": {"content": "b\n\n' + lines(chunk("c")) + end
    answer, _, _ = read_body(body, ChatStream)
    assert (answer.text, answer.status) == ("ac", "incomplete")
    assert "is not JSON" in str(answer.cut_short)


def test_a_broken_piece_is_harmless_if_the_final_event_has_the_text() -> None:
    broken = 'data: {"type": "response.output_text.delta", "del\n\n'
    answer, _, _ = read_body(lines(*EVENTS[:2]) + broken + lines(EVENTS[3]), ResponseStream)
    assert (answer.text, answer.status) == ("Hello", "completed")
    last = {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": []}}
    answer, _, _ = read_body(lines(*EVENTS[:2]) + broken + lines(last), ResponseStream)
    assert (answer.text, answer.status) == ("Hel", "incomplete")


@pytest.mark.parametrize(
    "event", ['data: error: {"message": "X"}', "data: event: error\ndata: data: X", 'data: [{"error": "X"}]']
)
def test_an_error_is_found_in_any_wrapping(event: str) -> None:
    answer, _, _ = read_body(lines(chunk("Half")) + event + "\n\n" + "data: [DONE]\n\n", ChatStream)
    assert (answer.text, answer.status, answer.error_message) == ("Half", "failed", "X")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n\n"])
@pytest.mark.parametrize(
    "after",
    ["\n\ndata: [DONE]\n\n", "\ndata: [DONE]", "[DONE]", "data: [DONE]\n\n", "\n\n[DONE]\n", "\n", "\0", "\n\n</html>"],
)
@pytest.mark.parametrize("kind", [ChatStream, ResponseStream])
def test_an_answer_with_trailing_data_is_read(
    kind: type[Accumulator], after: str, before: str, indent: int | None
) -> None:
    body = whole("Hello") if kind is ChatStream else FINAL
    content = (before + json.dumps(body, indent=indent) + after).encode()
    answer, _, _ = read_body(content, kind)
    assert (answer.text, answer.status, answer.cut_short) == ("Hello", "completed", None)
    reader, parser = kind(), EventParser()
    shown = "".join(reader.take(event) for event in parser.feed(content) + parser.end()) + reader.rest()
    assert (shown, reader.answer().status) == ("Hello", "completed")


@pytest.mark.parametrize(
    "body", ["hello", "<html><p>Hello</html>", "42", "null", "[]", '"OK"', "{oops", "data", "{}{}"]
)
def test_a_body_without_an_answer_is_not_read_as_one(body: str) -> None:
    with pytest.raises(ValueError, match="the answer is not"):
        read_body(body, ChatStream)


def test_a_line_with_many_prefixes_is_read_quickly() -> None:
    events = EventParser().feed(b"data:" * 200_000 + b"\n\n" + b"data: {" + b" " * 200_000 + b"}\n\n")
    assert len(events) == 2
