"""--continue through the real LiteLLM proxy: three turns deep, in two terminals at once, native and bridged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..cli.running import PROGRAM
from ..conftest import RunCommand
from ..fakes.upstream import UpstreamControl
from ..tools.terminal import Terminal
from .running import Gateway, R


@pytest.fixture(autouse=True)
def _configured(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_BASE_URL", gateway.base_url)
    monkeypatch.setenv("LITELLM_API_KEY", gateway.api_key)


@pytest.fixture
def shells(tmp_path: Path) -> Iterator[list[Terminal]]:
    opened = [Terminal(["sh"], tmp_path, {**os.environ, "PS1": "", "ENV": ""}) for _ in range(2)]
    yield opened
    for shell in opened:
        shell.type("exit\n")
        shell.end(60)


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("bridged", [False, True])
def test_three_turns_in_two_terminals(
    api: str, bridged: bool, shells: list[Terminal], upstream: UpstreamControl
) -> None:
    model = upstream.model(bridged=bridged)
    for turn in ("one", "-c two", "-c three"):
        for name, shell in zip("AB", shells, strict=True):
            shell.run(f"{PROGRAM} --timeout 300 --api {api} --model {model} {turn}-of-{name}")
            assert "Error" not in shell.printed
    # The demo model quotes the prompt before.
    for name, shell in zip("AB", shells, strict=True):
        assert f"You said: three-of-{name}" in shell.printed
        assert f"Before that you said: two-of-{name}" in shell.printed
    bodies = [one.body or {} for one in upstream.requests(model) if one.method == "POST"]
    assert len(bodies) == 6
    for name, body in zip("AB", bodies[-2:], strict=True):
        if api == "responses" and not bridged:
            assert f"three-of-{name}" in str(body["input"])
            assert "of" in str(body["previous_response_id"]) or body["previous_response_id"]
            assert "two-of" not in str(body["input"])
        else:
            asked = [str(message["content"]) for message in body["messages"] if message["role"] == "user"]
            assert [f"{turn}-of-{name}" in text for turn, text in zip(("one", "two", "three"), asked, strict=True)]
            assert len(body["messages"]) == 5


def test_a_response_that_the_provider_has_deleted(
    command: RunCommand, upstream: UpstreamControl, gateway: Gateway
) -> None:
    import openai

    model = upstream.model()
    command(*R, "--model", model, "one")
    first = command(*R, "--model", model, "--json", "-c", "two")
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.api_key, max_retries=0) as client:
        import json

        client.responses.delete(json.loads(first.out)["id"])
    run = command(*R, "--model", model, "-c", "three")
    assert run.code == 0, run.err
    assert "the gateway no longer has the last response" in run.err
    assert "Before that you said: two" in run.out


@pytest.mark.parametrize("options", [[], R, ["--stream"], ["--model", "bridged"], [*R, "--model", "bridged"]], ids=str)
def test_an_answer_of_a_schema(options: list[str], command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(
        '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"],'
        ' "additionalProperties": false}'
    )
    run = command(*options, "--schema", str(tmp_path / "schema.json"), "Describe a noodle")
    assert run.code == 0, run.err
    assert run.out.startswith('{"name": ')
