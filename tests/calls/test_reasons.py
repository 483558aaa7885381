"""Finish reasons: programs decide by the kind, people read the words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from litellm_openai_example.calls.answer import Answer, as_beginning, read_response
from litellm_openai_example.calls.finish_reasons import Cut, CutKind, cut_by
from litellm_openai_example.calls.reply import read_body
from litellm_openai_example.calls.response_stream import ResponseStream
from litellm_openai_example.relay.engine.outcome import outcome_of


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
