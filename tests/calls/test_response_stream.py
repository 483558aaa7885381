"""The Responses API, whole and as a stream of events: each text once, messages apart by a blank line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from litellm_openai_example.calls.reply import read_body
from litellm_openai_example.calls.response_stream import ResponseStream

from .events import Json, completed, delta, fed, message

SAME = "Same answer."


def part(text: str) -> Json:
    return {"type": "output_text", "text": text}


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
    "one repeated with white space before": ([message(SAME), message(f"\n{SAME}")], SAME),
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


def test_a_held_back_message_survives_a_broken_stream() -> None:
    reader = ResponseStream()
    deltas = [(0, SAME), (1, "Same")]
    shown = [
        reader.feed({"type": "response.output_text.delta", "output_index": index, "delta": text})
        for index, text in deltas
    ]
    assert [*shown, reader.rest()] == [SAME, "", "\n\nSame"]


@pytest.mark.parametrize(
    "body",
    [
        {"object": "response.deleted", "deleted": True},
        {"object": "response", "deleted": True, "status": "completed"},
        {"object": "response", "status": "expired"},
        {"object": "response", "status": "deleted", "output": []},
    ],
)
def test_a_deleted_or_expired_response_counts_as_failed(body: Json) -> None:
    answer, _, _ = read_body(json.dumps({"id": "resp_1", **body}), ResponseStream)
    assert answer.status == "failed"
    assert "the response" in (answer.error_message or "")


def test_the_text_of_an_expired_response_is_kept() -> None:
    answer, _, _ = read_body(json.dumps({"status": "expired", "output": [message("Half")]}), ResponseStream)
    assert (answer.text, answer.status) == ("Half", "incomplete")


def test_a_blank_line_separates_commentary_and_report() -> None:
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
def test_text_repeated_by_a_done_event_is_shown_once(place: dict[str, Any]) -> None:
    where = {"item_id": "m", "output_index": 1, "content_index": 0}
    part = {"type": "output_text", "text": "Hello"}
    reader = ResponseStream()
    shown = fed(
        reader, delta("Hel", **place), {"type": "response.output_text.done", "text": "Hello", **where},
        {"type": "response.content_part.done", "part": part, **where},
        {"type": "response.output_item.done", "output_index": 1, "item": message("Hello", id="m")}, completed(),
    )  # fmt: skip
    assert shown == reader.answer().text == "Hello"


def test_an_incomplete_event_without_a_reason_is_cut_short() -> None:
    reader = ResponseStream()
    fed(reader, delta("Half"), {"type": "response.incomplete", "response": {"id": "r"}})
    assert reader.answer().cut_short


STARTED = {"type": "response.created", "response": {"id": "r", "status": "in_progress"}}


@pytest.mark.parametrize(
    "body",
    [
        {"status": "completed", "output": [message("Half", status="incomplete")]},
        {"status": "completed", "output": [message("Half")], "finish_reason": "length"},
    ],
)
def test_a_response_with_a_cut_message_is_cut_short(body: Json) -> None:
    assert read_body(json.dumps(body), ResponseStream)[0].cut_short


@pytest.mark.parametrize(("status", "is_whole"), [("expired", False), (None, True), ("in_progress", True)])
def test_a_final_event_with_an_unknown_status_is_cut_short(status: str | None, is_whole: bool) -> None:
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
def test_a_final_event_may_consist_of_its_name(name: str, status: str, more: Json) -> None:
    reader = ResponseStream()
    assert fed(reader, STARTED, delta("Hi"), {"type": f"response.{name}", **more}) == "Hi"
    assert (reader.answer().text, reader.answer().status, reader.answer().id) == ("Hi", status, "r")
