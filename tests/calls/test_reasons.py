"""Finish reasons: programs decide by the kind, people read the words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from litellm_openai_example.calls.answer import Answer, as_beginning, read_chat, read_response
from litellm_openai_example.calls.chat_stream import ChatStream
from litellm_openai_example.calls.finish_reasons import Cut, CutKind, cut_by
from litellm_openai_example.calls.reply import read_body
from litellm_openai_example.calls.response_stream import ResponseStream
from litellm_openai_example.relay.engine.outcome import outcome_of

from .events import chunk, lines


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("max_output_tokens", CutKind.LIMIT),
        ("FINISH_REASON_MAX_TOKENS", CutKind.LIMIT),
        ("max_tool_calls", CutKind.LIMIT),
        ("content_filter", CutKind.FILTER),
        ("new_safety_rule", CutKind.FILTER),
        ("tool_use", CutKind.TOOL),
        ("network_error", CutKind.OTHER),
        ("incomplete", CutKind.OTHER),
    ],
)
def test_the_kind_of_a_finish_reason(reason: str, kind: CutKind) -> None:
    cut = cut_by(reason)
    assert cut.kind is kind
    assert reason in str(cut)


def test_truncation_and_broken_streams_have_separate_kinds() -> None:
    begun = as_beginning(Answer(text="half", status="completed"), "the beginning")
    assert begun.cut_short == Cut(CutKind.TOO_LARGE, "the beginning")
    broken, _, _ = read_body(b'data: {"type": "response.output_text.delta", "delta": "half"}\n\n', ResponseStream)
    assert broken.cut_short is not None
    assert broken.cut_short.kind is CutKind.BROKEN


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (CutKind.LIMIT, "output_limit_reached"),
        (CutKind.FILTER, "content_filtered"),
        (CutKind.TOO_LARGE, "output_too_large"),
        (CutKind.TOOL, "upstream_incomplete"),
        (CutKind.OTHER, "upstream_incomplete"),
    ],
)
def test_the_relay_decides_by_the_kind(kind: CutKind, code: str) -> None:
    body = {"status": "incomplete", "output": []}
    answer = replace(read_response(body), cut_short=Cut(kind, "larger than the max of a filter"))
    outcome = outcome_of(answer, body, {}, longest=100)
    assert outcome is not None
    assert (outcome.state, outcome.error_code) == ("incomplete", code)


@pytest.mark.parametrize("reason", ["endTurn", "StopSequence", ["stop"], {"type": "stop"}, {"reason": "end-turn"}])
def test_a_finish_reason_of_a_whole_answer_is_known_in_every_spelling(reason: object) -> None:
    assert read_chat({"choices": [{"message": {"content": "Hi"}, "finish_reason": reason}]}).cut_short is None


@pytest.mark.parametrize("reason", ["maxTokens", ["length"], {"reason": "MAX_TOKENS"}, {"unknown": 1}])
def test_a_finish_reason_of_an_incomplete_answer_is_known_in_every_spelling(reason: object) -> None:
    assert read_chat({"choices": [{"message": {"content": "Hi"}, "finish_reason": reason}]}).cut_short is not None


def test_an_incomplete_answer_stays_so_if_a_last_chunk_says_stop() -> None:
    answer, _, _ = read_body(lines(chunk("Half", "length"), chunk(None, "stop")), ChatStream)
    assert answer.cut_short is not None
    assert answer.cut_short.kind is CutKind.LIMIT
