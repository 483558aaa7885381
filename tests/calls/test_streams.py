"""Readers of both APIs: errors in a stream, split characters, linear time."""

from __future__ import annotations

import json
import time

import pytest

from litellm_openai_example.calls.accumulator import Accumulator
from litellm_openai_example.calls.chat_stream import ChatStream
from litellm_openai_example.calls.reply import read_body
from litellm_openai_example.calls.response_stream import ResponseStream

from .events import Json, chunk, completed, delta, fed, message, whole

WHY = "context size exceeded"


def as_body(*events: object) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


@pytest.mark.parametrize(
    "event",
    [
        {"object": "error", "message": WHY, "type": "BadRequest", "code": 400},  # vLLM
        {"type": "error", "message": WHY},
        {"detail": WHY},  # FastAPI
        {"errors": [{"message": WHY}]},
        [{"error": {"message": WHY}}],  # Gemini
    ],
)
@pytest.mark.parametrize("kind", [ChatStream, ResponseStream])
def test_an_error_in_the_middle_of_a_stream_is_found(event: object, kind: type[Accumulator]) -> None:
    begun = chunk("Half") if kind is ChatStream else delta("Half")
    answer, _, _ = read_body(as_body(begun, event) + b"data: [DONE]\n\n", kind)
    assert (answer.text, answer.status) == ("Half", "failed")
    assert WHY in (answer.error_message or "")


@pytest.mark.parametrize("field", [json.dumps({"code": 500, "message": WHY}), json.dumps(WHY), WHY])
@pytest.mark.parametrize("kind", [ChatStream, ResponseStream])
def test_an_error_in_an_error_field_is_found(field: str, kind: type[Accumulator]) -> None:
    begun = chunk("Half") if kind is ChatStream else delta("Half")
    answer, *_ = read_body(as_body(begun) + f"error: {field}\n\n".encode(), kind)
    assert (answer.text, answer.status) == ("Half", "failed")
    assert WHY in (answer.error_message or "")


def test_plain_text_in_place_of_an_event_is_reported() -> None:
    answer, _, _ = read_body(as_body(chunk("Half")) + f"data: error: {WHY}\n\n".encode(), ChatStream)
    assert (answer.text, answer.status, answer.error_message) == ("Half", "failed", WHY)


def test_an_error_in_a_list_is_read() -> None:
    answer, _, _ = read_body(as_body({"detail": [{"msg": WHY}]}), ChatStream)
    assert (answer.status, answer.error_message) == ("failed", f'[{{"msg": "{WHY}"}}]')


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
def test_json_lines_are_read_as_an_answer(newline: str) -> None:
    body = newline.join(json.dumps(event) for event in (chunk("Hel"), chunk("lo"), chunk("", "stop")))
    answer, _, _ = read_body(body.encode(), ChatStream)
    assert (answer.text, answer.status) == ("Hello", "completed")
    cut, _, _ = read_body(newline.join([json.dumps(chunk("Hel"))] * 2).encode(), ChatStream)
    assert (cut.text, cut.status) == ("HelHel", "incomplete")


def test_an_answer_in_the_other_apis_format_is_read() -> None:
    chat, _, _ = read_body(json.dumps(whole("Hi", "length")), ResponseStream)
    assert (chat.text, chat.status, chat.cut_short is not None) == ("Hi", "incomplete", True)
    response, _, _ = read_body(json.dumps({"status": "completed", "output": [message("Hi")]}), ChatStream)
    assert (response.text, response.status) == ("Hi", "completed")


FRUIT = "\U0001f35c"


def test_surrogate_halves_are_joined_and_a_lone_one_is_kept() -> None:
    reader = ResponseStream()
    assert fed(reader, delta("a\ud83c"), delta("\udf5cb"), delta("\ud83c")) == f"a{FRUIT}b\ud83c"


def test_an_unrequested_stream_is_read_as_an_answer() -> None:
    body = b'event: response.completed\ndata: {"response": {"id": "r", "output_text": "Hi"}}\n\n'
    assert read_body(body, ResponseStream)[0].text == "Hi"
    cut = read_body(b'data: {"choices": [{"delta": {"content": "Hal"}}]}\n\n', ChatStream)[0]
    assert (cut.text, cut.status) == ("Hal", "incomplete")


@pytest.mark.parametrize(
    "rest",
    [
        [{"type": "response.output_text.done", "output_index": 0, "text": f"a{FRUIT}b"}, completed()],
        [completed(message(f"a{FRUIT}b"))],
    ],
)
def test_a_lone_surrogate_is_completed_by_the_final_text(rest: list[Json]) -> None:
    reader = ResponseStream()
    assert fed(reader, delta("a\ud83c", output_index=0), *rest) == reader.answer().text == f"a{FRUIT}b"


def test_an_invalid_byte_does_not_lose_the_answer() -> None:
    answer, _, _ = read_body(json.dumps(whole("a?b")).encode().replace(b"?", b"\xff"), ChatStream)
    assert answer.text == "a\ufffdb"


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

    # Ten times the pieces: linear time gives a ratio of 10, quadratic time one of 100.
    seconds(1000)
    assert seconds(50_000) < 30 * seconds(5_000)


@pytest.mark.parametrize("kind", [ChatStream, ResponseStream])
@pytest.mark.parametrize("words", [{"message": "position 3 in the queue"}, {"detail": "the model is loading"}])
def test_words_about_progress_do_not_end_a_stream(words: Json, kind: type[Accumulator]) -> None:
    answer = [chunk("Hello"), chunk(None, "stop")] if kind is ChatStream else [delta("Hello"), completed()]
    read, _, _ = read_body(as_body(words, *answer), kind)
    assert (read.text, read.status, read.error_message) == ("Hello", "completed", None)


@pytest.mark.parametrize(
    "body",
    [
        {"output": "Hello"},
        {"output": {"text": "Hello", "finish_reason": "stop"}},
        {"output": [{"type": "Message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}]},
        {"output": [{"type": "output_message", "role": "assistant", "content": "Hello"}]},
        {"output": [{"type": "text", "text": "Hello"}]},
        {"output": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
        {"output": [message("Hello")], "incomplete_details": "none", "status": "ok"},
        completed(message("Hello")),
    ],
)
def test_a_response_is_read_in_every_form(body: Json) -> None:
    answer, _, _ = read_body(json.dumps({"status": "completed", **body}), ResponseStream)
    assert (answer.text, answer.status) == ("Hello", "completed")
