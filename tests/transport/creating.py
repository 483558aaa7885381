"""A create through the drop-in, by the blocking and the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from litellm_openai_example import AsyncLiteLLM, LiteLLM

from ..fakes.scripted import KEY, reply, response_body

Call = Callable[..., Any]
CREATE: dict[str, Any] = {"model": "m", "input": "hi"}
OK = reply(response_body("OK"))


def sync_create(url: str, **arguments: Any) -> Any:
    timeout, retries = arguments.pop("timeout", 20), arguments.pop("max_retries", 4)
    with LiteLLM(base_url=url, api_key=KEY, timeout=timeout, max_retries=retries) as sdk:
        return sdk.responses.create(**{**CREATE, **arguments})


def async_create(url: str, **arguments: Any) -> Any:
    async def create() -> Any:
        timeout, retries = arguments.pop("timeout", 20), arguments.pop("max_retries", 4)
        async with AsyncLiteLLM(base_url=url, api_key=KEY, timeout=timeout, max_retries=retries) as sdk:
            return await sdk.responses.create(**{**CREATE, **arguments})

    return asyncio.run(create())


both = pytest.mark.parametrize("create", [sync_create, async_create], ids=["sync", "async"])
