"""Several messages in a response, each text once and separated by a blank line; the error of an answer without text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from litellm_openai_example import GatewayError
from litellm_openai_example.calls.accumulator import Accumulator
from litellm_openai_example.calls.chat_stream import ChatStream
from litellm_openai_example.calls.reply import Reply, read_body, require_complete
from litellm_openai_example.calls.response_stream import ResponseStream

Json = dict[str, Any]
SAME = "Same answer."


def message(text: str, **more: Any) -> Json:
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **more}


def part(text: str) -> Json:
    return {"type": "output_text", "text": text}


def completed(*output: Json) -> Json:
    return {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": list(output)}}


OUTPUTS: dict[str, tuple[list[Json], str]] = {
    "one": ([message(SAME)], SAME),
    "two": ([message("A"), message("B")], "A\n\nB"),
    "two, with a line break between": ([message("A\n"), message("B")], "A\n\nB"),
    "two, with a blank line between": ([message("A\n\n"), message("B")], "A\n\nB"),
    "one twice": ([message(SAME), message(SAME)], SAME),
    "one twice, by its id": ([message(SAME, id="a"), message(SAME, id="a")], SAME),
    "one three times": ([message(SAME, id="a"), message(SAME, id="b"), message(SAME, id="c")], SAME),
    "commentary as the answer": ([message(SAME, phase="commentary"), message(SAME, phase="final_answer")], SAME),
    "commentary before the answer": (
        [message("I look.", phase="commentary"), {"type": "web_search_call"}, message("Found.", phase="final_answer")],
        "I look.\n\nFound.",
    ),
    "commentary, answer, commentary": ([message("A"), message("B"), message("A")], "A\n\nB"),
    "one repeated with white space around": ([message(SAME), message(f"{SAME}\n")], SAME),
    "the second begins as the first": ([message("Yes"), message("Yes, it is.")], "Yes\n\nYes, it is."),
    "the second is the beginning of the first": ([message("Yes, it is."), message("Yes")], "Yes, it is.\n\nYes"),
    "an empty one between": ([message("A"), message(""), message("B")], "A\n\nB"),
    "parts of one message": ([{"type": "message", "content": [part("Hel"), part("lo")]}], "Hello"),
    "parts in place of messages": ([part("Hel"), part("lo")], "Hello"),
}


def streamed(output: list[Json], *, places: bool, deltas: bool, done: bool, last: bool) -> list[Json]:
    """Return the events of a stream, in pieces of two characters; each kind of event can be omitted."""
    events: list[Json] = []
    for index, item in enumerate(output):
        place = {"output_index": index} if places else {}
        if item["type"] == "message" and deltas:
            for number, one in enumerate(item["content"]):
                text = one["text"]
                events += [
                    {"type": "response.output_text.delta", "content_index": number, "delta": text[at : at + 2], **place}
                    for at in range(0, len(text), 2)
                ]
        if done:
            events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    return [*events, completed(*output) if last else completed()]


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_text_is_read_once(name: str) -> None:
    output, text = OUTPUTS[name]
    answer, _, _ = read_body(json.dumps({"status": "completed", "output": output}), ResponseStream)
    assert answer.text == text


@pytest.mark.parametrize(
    "events",
    [
        {"places": True, "deltas": True, "done": True, "last": True},
        {"places": True, "deltas": True, "done": True, "last": False},
        {"places": True, "deltas": True, "done": False, "last": True},
        {"places": True, "deltas": False, "done": True, "last": True},
        {"places": True, "deltas": False, "done": True, "last": False},
        {"places": False, "deltas": True, "done": True, "last": True},
        {"places": False, "deltas": False, "done": False, "last": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [name for name in OUTPUTS if name != "parts in place of messages"])
def test_each_text_is_shown_once(name: str, events: dict[str, bool]) -> None:
    output, text = OUTPUTS[name]
    reader = ResponseStream()
    shown = "".join(reader.feed(json.loads(json.dumps(event))) for event in streamed(output, **events)) + reader.rest()
    assert (shown, reader.answer().text, reader.answer().status) == (text, text, "completed")


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize(("ids", "indexes"), [("mm", (0, 0)), ("ab", (0, 0)), ("mm", (0, 1))])
def test_a_message_whose_index_or_id_changes_stays_one(ids: str, indexes: tuple[int, int], announced: bool) -> None:
    events: list[Json] = [
        {"type": "response.output_text.delta", "item_id": name, "output_index": index, "delta": text}
        for name, index, text in zip(ids, indexes, ("Hel", "lo"), strict=True)
    ]
    if announced:
        events.insert(0, {"type": "response.output_item.added", "output_index": 0, "item": message("", id=ids[0])})
    reader = ResponseStream()
    shown = "".join(reader.feed(event) for event in [*events, completed(message("Hello"))])
    assert shown == reader.answer().text == "Hello"


def test_announced_messages_with_the_same_id_stay_separate() -> None:
    reader, shown = ResponseStream(), ""
    for index, text in enumerate("AB"):
        item = {"output_index": index, "item": message(text, id="m")}
        shown += reader.feed({"type": "response.output_item.added", **item})
        shown += reader.feed(
            {"type": "response.output_text.delta", "item_id": "m", "output_index": index, "delta": text}
        )
        shown += reader.feed({"type": "response.output_item.done", **item})
    shown += reader.feed(completed())
    assert shown == reader.answer().text == "A\n\nB"


def test_a_message_that_was_held_back_is_not_lost_when_the_stream_breaks() -> None:
    reader = ResponseStream()
    deltas = [(0, SAME), (1, "Same")]
    shown = [
        reader.feed({"type": "response.output_text.delta", "output_index": index, "delta": text})
        for index, text in deltas
    ]
    assert [*shown, reader.rest()] == [SAME, "", "\n\nSame"]


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


@pytest.mark.parametrize(("item", "words"), KINDS)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_text_names_its_contents(item: Json, words: str, stream: bool) -> None:
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
def test_a_chat_answer_without_text_names_its_contents(message: Json, words: str, name: str) -> None:
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
def test_a_function_call_in_an_odd_form_is_named(message: Json, name: str) -> None:
    body = json.dumps({"choices": [{name: message, "finish_reason": "stop"}]})
    content = body if name == "message" else f"data: {body}\n\n"
    assert why(content, ChatStream) == "the model called a function instead of answering: sql"


def why(content: str, kind: type[Accumulator]) -> str:
    answer, _, _ = read_body(content, kind)
    with pytest.raises(GatewayError) as caught:
        require_complete(Reply(answer, content, {}))
    return caught.value.cause


@pytest.mark.parametrize(
    "body",
    [
        {"object": "response.deleted", "deleted": True},
        {"object": "response", "deleted": True, "status": "completed"},
        {"object": "response", "status": "expired"},
        {"object": "response", "status": "deleted", "output": []},
    ],
)
def test_a_deleted_or_expired_response_has_failed(body: Json) -> None:
    answer, _, _ = read_body(json.dumps({"id": "resp_1", **body}), ResponseStream)
    assert answer.status == "failed"
    assert "the response" in (answer.error_message or "")


def test_the_text_of_an_expired_response_is_kept() -> None:
    answer, _, _ = read_body(json.dumps({"status": "expired", "output": [message("Half")]}), ResponseStream)
    assert (answer.text, answer.status) == ("Half", "incomplete")
