"""Lenient reading: fields of unexpected types, almost valid JSON, and errors in other formats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from litellm_openai_example.calls.accumulator import Accumulator
from litellm_openai_example.calls.chat_stream import ChatStream
from litellm_openai_example.calls.reply import Reply, read_body, require_complete
from litellm_openai_example.calls.response_stream import ResponseStream
from litellm_openai_example.diagnosis import explain_body
from litellm_openai_example.errors import GatewayError

Json = dict[str, Any]

BOTH = pytest.mark.parametrize("kind", [ChatStream, ResponseStream])


def chat(content: object, **more: Any) -> Json:
    return {"choices": [{"index": 0, "message": {"content": content}, "finish_reason": "stop"}], **more}


def response(*output: object, **more: Any) -> Json:
    return {"id": "r", "status": "completed", "output": list(output), **more}


def message(text: object, **more: Any) -> Json:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **more}


@pytest.mark.parametrize(("content", "text"), [(42, "42"), (0, "0"), (4.5, "4.5"), (-1, "-1"), (False, ""), (None, "")])
def test_a_number_is_read_as_text(content: object, text: str) -> None:
    assert read_body(json.dumps(chat(content)), ChatStream)[0].text == text
    assert read_body(json.dumps(response(message(content))), ResponseStream)[0].text == text


def test_numbers_among_the_pieces_of_a_stream_are_kept() -> None:
    chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in ("4", 2, 0, ".")]
    reader = ChatStream()
    assert "".join(reader.feed(chunk) for chunk in chunks) + reader.end() == "420."
    events = [{"type": "response.output_text.delta", "delta": piece} for piece in ("4", 2, 0, ".")]
    stream = ResponseStream()
    assert "".join(map(stream.feed, [*events, {"type": "response.completed", "response": response()}])) == "420."


@pytest.mark.parametrize("role", ["user", "system", "developer", "tool"])
def test_input_repeated_in_the_output_is_not_the_answer(role: str) -> None:
    echo = {"type": "message", "role": role, "content": [{"type": "input_text", "text": "Why?"}]}
    body = response(echo, message("Therefore."))
    assert read_body(json.dumps(body), ResponseStream)[0].text == "Therefore."
    stream = ResponseStream()
    done = [
        {"type": "response.output_item.done", "output_index": n, "item": one} for n, one in enumerate(body["output"])
    ]
    assert "".join(map(stream.feed, [*done, {"type": "response.completed", "response": body}])) == "Therefore."


ERRORS: dict[str, Json] = {
    "FastAPI": {"detail": "no luck"},
    "FastAPI, an object": {"detail": {"error": "no luck"}},
    "Kong": {"message": "no luck", "request_id": "1"},
    "AWS": {"__type": "ThrottlingException", "Message": "no luck"},
    "Cloudflare": {"success": False, "errors": [{"code": 7, "message": "no luck"}], "result": None},
    "a list of texts": {"errors": ["no luck"]},
    "error_msg": {"error_code": 3, "error_msg": "no luck"},
    "msg": {"code": 500, "msg": "no luck"},
    "MiniMax": {"base_resp": {"status_code": 1004, "status_msg": "no luck"}, "choices": None},
    "OAuth": {"error": "invalid_client", "error_description": "no luck"},
    "problem+json": {"type": "about:blank", "title": "no luck", "status": 400},
    "Azure": {"error": {"code": "c", "message": None, "innererror": {"message": "no luck"}}},
    "Apigee": {"fault": {"faultstring": "no luck", "detail": {"errorcode": "e"}}},
    "an error in an error": {"error": {"error": {"message": "no luck"}}},
    "msg in an error": {"error": {"msg": "no luck"}},
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_message_of_an_error_is_found(name: str) -> None:
    assert explain_body(ERRORS[name]).message == "no luck"


@BOTH
@pytest.mark.parametrize("name", [name for name in ERRORS if name != "OAuth"])
def test_the_message_of_an_error_is_found_in_place_of_an_answer(name: str, kind: type[Accumulator]) -> None:
    assert read_body(json.dumps(ERRORS[name]), kind)[0].error_message == "no luck"


def test_the_reason_of_a_run_failed_in_another_api_is_found() -> None:
    body = response(status="failed", last_error={"code": "x", "message": "no luck"})
    assert read_body(json.dumps(body), ResponseStream)[0].error_message == "no luck"


@pytest.mark.parametrize(
    "error",
    [
        *({}, [], "", False, 0, {"code": 0, "message": ""}, {"code": None, "message": None}),
        *("null", " none ", {"code": "0", "message": "success"}, {"code": 200, "message": "OK"}),
    ],
)
def test_an_empty_error_is_ignored(error: object) -> None:
    answers = [
        read_body(json.dumps(chat("Hello", error=error)), ChatStream)[0],
        read_body("data: " + json.dumps(chat("Hello", error=error)) + "\n\n", ChatStream)[0],
        read_body(json.dumps(response(message("Hello"), error=error)), ResponseStream)[0],
    ]
    assert [(one.text, one.error_message) for one in answers] == [("Hello", None)] * 3


@pytest.mark.parametrize("words", ["It failed.", "failed.", "the tool returned null", "No text: none", "quota"])
def test_an_error_in_words_is_one(words: str) -> None:
    for error in (words, {"message": words}, {"code": "0", "message": words}):
        assert read_body(json.dumps(chat("Hello", error=error)), ChatStream)[0].error_message == words


FILTERED = [
    ({"content": [{"type": "refusal", "refusal": "I can not"}]}, "content_filter"),
    ({"content": [{"type": "refusal", "text": "I can not"}]}, "stop"),
    ({"content": None, "refusal": "I can not"}, "content_filter"),
]


@pytest.mark.parametrize(("message", "reason"), FILTERED)
def test_a_refusal_is_quoted_even_if_a_filter_stopped_it(message: Json, reason: str) -> None:
    answer = read_body(json.dumps({"choices": [{"message": message, "finish_reason": reason}]}), ChatStream)[0]
    with pytest.raises(GatewayError, match="the model refused: I can not"):
        require_complete(Reply(answer, "", {}))


@BOTH
def test_unescaped_line_breaks_are_read(kind: type[Accumulator]) -> None:
    body = json.dumps(chat("one\ntwo\tthree") if kind is ChatStream else response(message("one\ntwo\tthree")))
    raw = body.replace("\\n", "\n").replace("\\t", "\t")
    assert read_body(raw, kind)[0].text == "one\ntwo\tthree"


@pytest.mark.parametrize(("status", "read"), [("queued", "queued"), ("in_progress", "incomplete")])
def test_a_submit_may_be_answered_with_events(status: str, read: str) -> None:
    event = {"type": "response.created", "response": {"id": "resp_1", "status": status}}
    answer = read_body(f"event: response.created\ndata: {json.dumps(event)}\n\n", ResponseStream)[0]
    assert (answer.id, answer.status) == ("resp_1", read)
