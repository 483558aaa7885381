"""Tokens in the forms of both APIs and of several providers."""

from __future__ import annotations

from typing import Any

import pytest

from litellm_openai_example.calls.answer import Usage, read_usage

RESPONSES = {"input_tokens": 1000, "output_tokens": 90, "total_tokens": 1090}
CHAT = {"prompt_tokens": 1000, "completion_tokens": 90, "total_tokens": 1090}


@pytest.mark.parametrize(
    "usage",
    [
        {
            **RESPONSES,
            "input_tokens_details": {"cached_tokens": 800},
            "output_tokens_details": {"reasoning_tokens": 64},
        },
        {
            **CHAT,
            "prompt_tokens_details": {"cached_tokens": 800, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 64},
        },
        # Some gateways answer in one API with the details of the other, with null beside them.
        {
            **RESPONSES,
            "input_tokens_details": None,
            "prompt_tokens_details": {"cached_tokens": "800"},
            "output_tokens_details": {"reasoning_tokens": None},
            "completion_tokens_details": {"reasoning_tokens": 64.0},
        },
        {
            **CHAT,
            "prompt_tokens_details": {"cached_tokens": None},
            "cache_read_input_tokens": 800,
            "reasoning_tokens": 64,
        },
        {**CHAT, "prompt_cache_hit_tokens": 800, "completion_tokens_details": {"reasoning_tokens": "64"}},
        {**CHAT, "input_tokens": None, "output_tokens": None, "cached_tokens": 800, "reasoning_tokens": "64"},
    ],
)
def test_cached_and_reasoning_tokens(usage: dict[str, Any]) -> None:
    assert read_usage(usage) == Usage(1000, 90, 1090, None, cached_tokens=800, reasoning_tokens=64)


@pytest.mark.parametrize(
    "bad", [None, -1, "-1", "many", "", True, [800], {"n": 800}, float("nan"), float("inf"), 10**400, "1e999"]
)
def test_an_impossible_count_is_unknown(bad: Any) -> None:
    details = {"cached_tokens": bad, "reasoning_tokens": bad}
    usage = {"input_tokens": bad, "output_tokens": bad, "total_tokens": bad}
    for details_of in (bad, [details], details):
        given = {**usage, "input_tokens_details": details_of, "output_tokens_details": details_of}
        assert read_usage(given) == Usage()
    assert read_usage(bad) == Usage()


def test_none_of_the_tokens_were_cached() -> None:
    """Zero is a count, unlike an absent one."""
    read = read_usage({**RESPONSES, "input_tokens_details": {"cached_tokens": 0}})
    assert (read.cached_tokens, read.reasoning_tokens) == (0, None)
