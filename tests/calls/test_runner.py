"""Operations under both kinds of clients."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest

from litellm_openai_example import AsyncLiteLLMClient, LiteLLMClient
from litellm_openai_example.calls.steps import gather, run, run_async


async def test_an_unusable_timeout_leaves_no_coroutine_behind() -> None:
    url, key = "http://127.0.0.1:1", "sk-0123456789abcdef"
    blocking, asynchronous = LiteLLMClient(url, key), AsyncLiteLLMClient(url, key)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="timeout"):
            blocking.create_chat_completion("Hi", timeout=-1)
        with pytest.raises(ValueError, match="timeout"):
            await asynchronous.create_chat_completion("Hi", timeout=-1)
        gc.collect()
    assert [str(warning.message) for warning in seen if "never awaited" in str(warning.message)] == []
    blocking.close()
    await asynchronous.close()


async def test_gather_returns_results_and_errors_in_order() -> None:
    async def good() -> str:
        return "good"

    async def bad() -> str:
        raise ValueError("bad")

    async def both() -> Any:
        return await gather([good(), bad(), good()])

    for outcomes in (run(None, both()), await run_async(None, both())):
        assert [str(outcome) for outcome in outcomes] == ["good", "bad", "good"]
