"""Memory for the largest answer is a bounded multiple of its size."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable

import pytest

from litellm_openai_example.calls.reply import read_body
from litellm_openai_example.calls.response_stream import ResponseStream
from litellm_openai_example.json_object import JsonObject
from litellm_openai_example.relay.engine.outcome import outcome_of

from ...fakes.gateway import message

SIZE = 8 * 2**20
TEXTS = {"ASCII": "noodles ", "beyond ASCII": "짜장면 ", "line breaks": "a\n"}


def in_a_message(text: str) -> JsonObject:
    return message(text)


def in_a_tool(text: str) -> JsonObject:
    answer = message("The answer.")
    return answer | {"output": [{"type": "function_call_output", "output": text}, *answer["output"]]}


@pytest.mark.parametrize("place", [in_a_message, in_a_tool], ids=lambda place: place.__name__)
@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_reading_an_answer_takes_at_most_three_copies(text: str, place: Callable[[str], JsonObject]) -> None:
    size = len(json.dumps(text, ensure_ascii=False).encode()) - 2
    body = json.dumps(place(text * (SIZE // size)), ensure_ascii=False).encode()
    tracemalloc.start()
    try:
        answer, read, _ = read_body(body, ResponseStream)
        outcome = outcome_of(answer, read, {}, longest=SIZE // 16)
        assert outcome is not None
        assert outcome.columns["output_text"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The body itself is one of the copies.
    assert len(body) + peak < 3.3 * SIZE, (len(body) + peak) / SIZE
