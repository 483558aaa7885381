"""The dialects of gateways and providers: partial answers are not reported as whole, whole ones are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from litellm_openai_example.calls.accumulator import Accumulator
from litellm_openai_example.calls.chat_stream import ChatStream
from litellm_openai_example.calls.reply import read_body
from litellm_openai_example.calls.response_stream import ResponseStream
from litellm_openai_example.errors import GatewayError

FRUIT = "\U0001f35c"
WHY = "context size exceeded"
STARTED = {"type": "response.created", "response": {"id": "r", "status": "in_progress"}}

Json = dict[str, Any]


def chunk(text: str, reason: object = None, *, delta: Json | None = None, **more: Any) -> Json:
    return {"choices": [{"index": 0, "delta": {"content": text, **(delta or {})}, "finish_reason": reason, **more}]}


def whole(text: str, reason: str = "stop", **more: Any) -> Json:
    return {"choices": [{"index": 0, "message": {"content": text, **more}, "finish_reason": reason}]}


def message(text: str, **more: Any) -> Json:
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **more}


def delta(text: str, **more: Any) -> Json:
    return {"type": "response.output_text.delta", "delta": text, **more}


def completed(*output: Json, **more: Any) -> Json:
    return {"type": "response.completed", "response": {"status": "completed", "output": output, **more}}


def fed(reader: Accumulator, *events: object) -> str:
    return "".join(reader.feed(json.loads(json.dumps(event))) for event in events) + reader.rest()


def as_body(*events: object) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


@pytest.mark.parametrize("name", ["finish_reason", "native_finish_reason"])
@pytest.mark.parametrize("wrap", [lambda said: said, lambda said: {"provider_specific_fields": said}])
def test_a_failure_beside_a_stop_is_found_in_the_message_too(name: str, wrap: Callable[[Json], Json]) -> None:
    said = wrap({name: "insufficient_system_resource"})
    assert read_body(json.dumps(whole("Half", **said)), ChatStream)[0].cut_short
    reader = ChatStream()
    fed(reader, chunk("Half"), chunk("", "stop", delta=said))
    assert reader.answer().cut_short


def test_an_error_beside_a_stop_is_found_in_the_message_too() -> None:
    said: Json = {"provider_specific_fields": {"error": {"message": WHY}}}
    assert read_body(json.dumps(whole("Half", **said)), ChatStream)[0].error_message == WHY
    reader = ChatStream()
    fed(reader, chunk("Half"), chunk("", "stop", delta=said))
    assert reader.answer().error_message == WHY


@pytest.mark.parametrize(
    "body",
    [
        {"status": "completed", "output": [message("Half", status="incomplete")]},
        {"status": "completed", "output": [message("Half")], "finish_reason": "length"},
    ],
)
def test_a_response_whose_message_was_cut_is_not_whole(body: Json) -> None:
    assert read_body(json.dumps(body), ResponseStream)[0].cut_short


@pytest.mark.parametrize(("status", "is_whole"), [("expired", False), (None, True), ("in_progress", True)])
def test_a_terminal_event_with_an_unknown_status_is_not_whole(status: str | None, is_whole: bool) -> None:
    reader = ResponseStream()
    assert fed(reader, delta("T"), completed(message("T"), status=status)) == "T"
    assert (reader.answer().status, reader.answer().cut_short is None) == (
        "completed" if is_whole else "incomplete",
        is_whole,
    )


@pytest.mark.parametrize(
    ("name", "status"), [("completed", "completed"), ("incomplete", "incomplete"), ("failed", "failed")]
)
@pytest.mark.parametrize("more", [{}, {"response": None}])
def test_the_terminal_event_may_be_only_a_name(name: str, status: str, more: Json) -> None:
    reader = ResponseStream()
    assert fed(reader, STARTED, delta("Hi"), {"type": f"response.{name}", **more}) == "Hi"
    assert (reader.answer().text, reader.answer().status, reader.answer().id) == ("Hi", status, "r")


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


def test_text_in_place_of_an_event_is_reported() -> None:
    answer, _, _ = read_body(as_body(chunk("Half")) + f"data: error: {WHY}\n\n".encode(), ChatStream)
    assert (answer.text, answer.status, answer.error_message) == ("Half", "failed", WHY)


def test_an_error_in_a_list_is_read() -> None:
    reader = ChatStream()
    with pytest.raises(GatewayError, match=WHY):
        fed(reader, {"detail": [{"msg": WHY}]})


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
def test_lines_of_json_are_an_answer(newline: str) -> None:
    body = newline.join(json.dumps(event) for event in (chunk("Hel"), chunk("lo"), chunk("", "stop")))
    answer, _, _ = read_body(body.encode(), ChatStream)
    assert (answer.text, answer.status) == ("Hello", "completed")
    cut, _, _ = read_body(newline.join([json.dumps(chunk("Hel"))] * 2).encode(), ChatStream)
    assert (cut.text, cut.status) == ("HelHel", "incomplete")


def test_an_answer_of_the_other_api_is_shown() -> None:
    chat, _, _ = read_body(json.dumps(whole("Hi", "length")), ResponseStream)
    assert (chat.text, chat.status, chat.cut_short is not None) == ("Hi", "incomplete", True)
    response, _, _ = read_body(json.dumps({"status": "completed", "output": [message("Hi")]}), ChatStream)
    assert (response.text, response.status) == ("Hi", "completed")


@pytest.mark.parametrize(
    "events",
    [
        [{"choices": [{"message": {"content": piece}}]} for piece in ("Hel", "lo")],  # each piece named a message
        [{"choices": [{"message": {"content": text}}]} for text in ("Hel", "Hello")],
        [{"choices": [{"delta": piece}]} for piece in ("Hel", "lo")],
        [chunk("Hello"), whole(" Hello ")],
    ],
)
def test_pieces_are_shown_once_under_any_name(events: list[Json]) -> None:
    reader = ChatStream()
    assert fed(reader, *events, {"choices": [{"finish_reason": "stop"}]}) == "Hello"
    assert (reader.answer().text, reader.answer().status) == ("Hello", "completed")


@pytest.mark.parametrize(
    "rest",
    [
        [{"type": "response.output_text.done", "output_index": 0, "text": f"a{FRUIT}b"}, completed()],
        [completed(message(f"a{FRUIT}b"))],
    ],
)
def test_half_a_character_is_completed_by_the_whole_text(rest: list[Json]) -> None:
    reader = ResponseStream()
    assert fed(reader, delta("a\ud83c", output_index=0), *rest) == reader.answer().text == f"a{FRUIT}b"


def test_a_broken_byte_does_not_cost_the_answer() -> None:
    answer, _, _ = read_body(json.dumps(whole("a?b")).encode().replace(b"?", b"\xff"), ChatStream)
    assert answer.text == "a\ufffdb"
