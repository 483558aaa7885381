"""A start whose answer is lost: the helpers and the clients raise what it takes to find the run."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from litellm_openai_example import (
    AsyncRelayClient,
    ErrorKind,
    RelayClient,
    RelayError,
    ResearchUnconfirmedError,
    StillRunningError,
)

from ..fakes.keyed_relay import TWO, KeyedRelay, held_start, nothing_held, relay
from ..fakes.scripted import Answer, ScriptedServer, reply
from ..fakes.served import FakeGateway
from ..fakes.tool_calling import ARGUMENTS, FINAL, Ask, Turns, ask_async, both, calling

__all__ = ["relay"]

QUESTION = {"research_question": "Why noodles?", "background": True}


def invoke_sync(arguments: Any, **options: Any) -> str:
    with RelayClient() as helper:
        return helper.invoke(arguments, **options).invocation_id


def invoke_async(arguments: Any, **options: Any) -> str:
    async def invoke() -> str:
        async with AsyncRelayClient() as helper:
            return (await helper.invoke(arguments, **options)).invocation_id

    return asyncio.run(invoke())


Invoke = Callable[..., str]
helpers = pytest.mark.parametrize("invoke", [invoke_sync, invoke_async], ids=["sync", "async"])


@helpers
@pytest.mark.parametrize("key", ["", " ", "two words", "line\n", "\xe9", "x" * 256, 5])
def test_a_key_that_cannot_be_sent_is_refused(key: Any, invoke: Invoke, relay: KeyedRelay) -> None:
    with pytest.raises(ValueError, match="idempotency_key must be 1 to 255 visible ASCII characters"):
        invoke(QUESTION, idempotency_key=key)
    assert relay.posts == []


@helpers
@pytest.mark.parametrize("lost", ["held", "dropped"])
def test_a_repeat_finds_the_run(lost: str, invoke: Invoke, relay: KeyedRelay) -> None:
    relay.holds = held_start
    if lost == "dropped":
        good = relay.server.script
        relay.server.script = lambda seen: good(seen) and Answer(drop=True)
    with pytest.raises(ResearchUnconfirmedError) as caught:
        invoke(QUESTION, timeout=4)
    error = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(error, ResearchUnconfirmedError)
    assert (error.kind, error.exit_code, error.outcome_unknown) == (ErrorKind.UNCONFIRMED, 4, True)
    assert error.relay_base_url == relay.server.url
    assert error.arguments == relay.posts[0].json["arguments"]
    assert error.idempotency_key not in f"{error} {error!r}"
    assert "not sent again" not in str(error)
    assert "Why noodles?" not in repr(error)
    relay.holds = nothing_held
    if lost == "dropped":
        relay.server.script = good
    assert invoke(error.arguments, idempotency_key=error.idempotency_key) == "inv_1"
    assert len(relay.accepted) == 1


@helpers
def test_a_key_that_belongs_to_another_run_is_a_refusal(invoke: Invoke, relay: KeyedRelay) -> None:
    relay.server.answers(reply({"error": {"code": "idempotency_conflict", "message": "x"}}, 409))
    with pytest.raises(RelayError) as caught:
        invoke(QUESTION, idempotency_key="mine")
    assert not caught.value.outcome_unknown


@helpers
def test_a_web_page_is_not_taken_for_a_relay(invoke: Invoke, relay: KeyedRelay) -> None:
    relay.server.answers(reply(b"<!DOCTYPE html><title>Sign in</title>", 200, content_type="text/html"))
    with pytest.raises(RelayError, match="a web page answered, not a relay"):
        invoke(QUESTION)


@helpers
def test_an_unreachable_relay_received_nothing(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeGateway() as closed:
        monkeypatch.setenv("RELAY_BASE_URL", closed.url)
    with pytest.raises(RelayError, match="does not answer"):
        invoke(QUESTION, timeout=4)


@both
def test_a_call_of_the_model_can_be_found(ask: Ask, gateway: ScriptedServer, relay: KeyedRelay) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL)
    relay.holds = held_start
    with pytest.raises(ResearchUnconfirmedError) as caught:
        ask(gateway, timeout=6)
    assert len(gateway.posts) == 1
    assert caught.value.response_id == "resp_1"
    relay.holds = nothing_held
    invoke = invoke_async if ask is ask_async else invoke_sync
    assert invoke(caught.value.arguments, idempotency_key=caught.value.idempotency_key) == "inv_1"
    assert len(relay.accepted) == 1


@both
def test_all_calls_of_a_turn_can_be_found(ask: Ask, gateway: ScriptedServer, relay: KeyedRelay) -> None:
    Turns(gateway, calling(*TWO), FINAL)
    relay.holds = lambda seen: held_start(seen) and b"rice" in seen.content
    relay.ended = False
    with pytest.raises(StillRunningError) as caught:
        ask(gateway, timeout=6)
    (other,) = pickle.loads(pickle.dumps(caught.value)).others
    found = {type(error).__name__ for error in (caught.value, other)}
    assert found == {"ResearchRunningError", "ResearchUnconfirmedError"}
    unconfirmed = next(error for error in (caught.value, other) if isinstance(error, ResearchUnconfirmedError))
    relay.holds = nothing_held
    assert json.loads(TWO[1]).items() <= unconfirmed.arguments.items()
    assert invoke_sync(unconfirmed.arguments, idempotency_key=unconfirmed.idempotency_key) in ("inv_1", "inv_2")
    assert len(relay.accepted) == 2


@helpers
def test_an_unconfirmed_start_is_reported_once_with_its_status(invoke: Invoke, relay: KeyedRelay) -> None:
    relay.server.script = lambda seen: reply({}, 202)
    with pytest.raises(ResearchUnconfirmedError) as caught:
        invoke(QUESTION)
    assert str(caught.value).count("HTTP 202") == 1
