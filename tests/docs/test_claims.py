"""The README's reasons not to use the plain SDK, measured: on a gateway that repeats failed POSTs as LiteLLM does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from litellm_openai_example import LiteLLM
from litellm_openai_example.research.contract import API_ERRORS, INVOCATION_ERRORS

from ..fakes.scripted import KEY, Answer, ScriptedServer, Seen, reply
from .blocks import ROOT

Make = Callable[..., openai.OpenAI]


def plain(gateway: ScriptedServer, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, **options)


def ours(gateway: ScriptedServer, **options: Any) -> openai.OpenAI:
    return LiteLLM(base_url=gateway.url, api_key=KEY, **options)


@pytest.mark.parametrize(("make", "posts"), [(plain, 9), (ours, 1)])
def test_posts_for_one_call(make: Make, posts: int, gateway: ScriptedServer) -> None:
    at_the_provider = 0

    def litellm(seen: Seen) -> Answer:
        nonlocal at_the_provider
        # Measured with LiteLLM 1.106 to 1.110: two repeats, unless this header says otherwise.
        at_the_provider += 1 + int(seen.headers.get("x-litellm-num-retries", "2"))
        return reply({"error": {"message": "the provider failed", "type": "server_error"}}, 500)

    gateway.script = litellm
    with make(gateway) as client, pytest.raises(openai.InternalServerError):
        client.responses.create(model="m", input="?")
    assert at_the_provider == posts


def test_a_timeout_is_one(gateway: ScriptedServer) -> None:
    """At a tenth of the README's scale: 4 s are three times 4 s and two pauses with the plain SDK."""
    gateway.script = lambda seen: Answer(pause=5.0)

    def seconds(make: Make) -> float:
        with make(gateway, timeout=0.4) as client:
            began = time.monotonic()
            with pytest.raises(openai.APIConnectionError):
                client.responses.create(model="m", input="?")
            return time.monotonic() - began

    assert seconds(plain) > 3 * 0.4 + 0.5
    assert 0.3 < seconds(ours) < 0.9


def test_every_error_code_has_an_advice() -> None:
    text = (ROOT / "docs/operating.md").read_text()
    for code in INVOCATION_ERRORS:
        assert text.count(f"| `{code}` | ") == 1, code
    for code, (status, _) in API_ERRORS.items():
        assert text.count(f"| `{code}` | {status} | ") == 1, code


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160
