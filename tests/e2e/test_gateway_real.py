"""The real LiteLLM proxy, started by our gateway, as the plain SDK sees it."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest
from openai import OpenAI

from ..fakes.upstream import UNKNOWN_MODEL, UpstreamControl
from .running import Gateway

SEARCH: Any = {"type": "web_search_preview"}
RESEARCH: Any = {
    "type": "function",
    "name": "deep_research",
    "parameters": {"type": "object", "properties": {"research_question": {"type": "string"}}},
    "strict": False,
}


def say(client: OpenAI, model: str, text: str = "Reply with exactly: OK", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


def finished(client: OpenAI, response_id: str) -> Any:
    for _ in range(100):
        response = client.responses.retrieve(response_id)
        if response.status not in ("queued", "in_progress"):
            return response
        time.sleep(0.1)
    raise AssertionError("never finished")


# The offline provider through the proxy


def test_chat(sdk: OpenAI) -> None:
    assert say(sdk, "gpt-4o", "Reply with exactly: 안녕 🎉").choices[0].message.content == "안녕 🎉"


def test_chat_stream(sdk: OpenAI) -> None:
    text = "나는 " * 30 + "."
    chunks = list(say(sdk, "gpt-4o", f"Reply with exactly: {text}", stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == text
    assert len(pieces) > 3


def test_response_and_its_stream(sdk: OpenAI) -> None:
    assert sdk.responses.create(model="gpt-4o", input="Reply with exactly: OK").output_text == "OK"
    events = list(sdk.responses.create(model="gpt-4o", input="hello", stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text.endswith("You said: hello")
    assert events[-1].type == "response.completed"


def test_instructions_and_the_previous_response(sdk: OpenAI) -> None:
    first = sdk.responses.create(model="gpt-4o", input="I am Mina", instructions="Be kind")
    assert "Instructions: Be kind" in first.output_text
    second = sdk.responses.create(model="gpt-4o", input="Who am I?", previous_response_id=first.id)
    assert "Before that you said: I am Mina" in second.output_text


def test_background(sdk: OpenAI) -> None:
    made = sdk.responses.create(model="gpt-4o", input="Reply with exactly: late", background=True)
    assert made.status == "queued"
    assert finished(sdk, made.id).output_text == "late"


def test_cancel_and_delete(sdk: OpenAI) -> None:
    made = sdk.responses.create(model="gpt-4o", input="x", background=True)
    assert sdk.responses.cancel(made.id).status == "cancelled"
    assert sdk.responses.retrieve(made.id).status == "cancelled"
    sdk.responses.delete(made.id)
    with pytest.raises(openai.APIStatusError):
        sdk.responses.retrieve(made.id)


def test_web_search(sdk: OpenAI) -> None:
    made: Any = sdk.responses.create(model="gpt-4o", input="News?", tools=[SEARCH])
    assert [item.type for item in made.output] == ["web_search_call", "message"]
    assert made.output[1].content[0].annotations[0].url == "https://example.com/offline-demo"


def test_a_function_call_and_its_output(sdk: OpenAI) -> None:
    first: Any = sdk.responses.create(model="gpt-4o", input="Research tides", tools=[RESEARCH])
    (call,) = first.output
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "THE MOON"}
    second = sdk.responses.create(model="gpt-4o", input=[output], previous_response_id=first.id, tools=[RESEARCH])
    assert "You asked: Research tides" in second.output_text
    assert "THE MOON" in second.output_text


def test_research(sdk: OpenAI) -> None:
    made = sdk.responses.create(model="o3-deep-research", input="Why tides?", tools=[SEARCH], background=True)
    assert made.status == "queued"
    assert "Why tides?" in finished(sdk, made.id).output_text
    with pytest.raises(openai.BadRequestError, match="Deep research models"):
        sdk.responses.create(model="o3-deep-research", input="Why tides?", tools=[RESEARCH])


def test_a_bridged_model(sdk: OpenAI, upstream: UpstreamControl) -> None:
    model = upstream.model(bridged=True)
    made = sdk.responses.create(model=model, input="Reply with exactly: OK", background=True)
    assert (made.status, made.output_text) == ("completed", "OK")
    assert [(one.method, one.path) for one in upstream.requests(model)] == [("POST", "/v1/chat/completions")]
    assert sdk.responses.create(model="bridged", input="Reply with exactly: OK").output_text == "OK"


def test_a_bridged_model_knows_the_question_if_all_items_are_sent(sdk: OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": "Research tides"}]
    first: Any = sdk.responses.create(model="bridged", input=items, tools=[RESEARCH])
    call = next(item for item in first.output if item.type == "function_call")
    items += [
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "THE MOON"},
    ]
    text = sdk.responses.create(model="bridged", input=items, tools=[RESEARCH]).output_text
    assert "You asked: Research tides" in text
    assert "THE MOON" in text


# Faults


def test_wrong_key(gateway: Gateway) -> None:
    with (
        OpenAI(base_url=f"{gateway.base_url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="No connected db"),
    ):
        say(client, "gpt-4o")


def test_unknown_model(sdk: OpenAI) -> None:
    # "Invalid model name" where no route has a wildcard
    with pytest.raises(openai.BadRequestError, match="no healthy deployments for this model"):
        say(sdk, UNKNOWN_MODEL)


@pytest.mark.parametrize("status", [401, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("background", [True, False])
def test_the_gateway_posts_once(sdk: OpenAI, upstream: UpstreamControl, status: int, background: bool) -> None:
    model = upstream.model(str(status))
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.responses.create(model=model, input="x", background=background)
    assert caught.value.status_code in (status, 500)
    assert upstream.posts(model) == 1


@pytest.mark.parametrize("step", ["drop", "reset", "cut", "garbage", "html"])
def test_a_broken_answer_is_one_post(sdk: OpenAI, upstream: UpstreamControl, step: str) -> None:
    for api in ("chat", "responses"):
        model = upstream.model(step)
        with pytest.raises(openai.APIStatusError):
            say(sdk, model) if api == "chat" else sdk.responses.create(model=model, input="x")
        assert upstream.posts(model) == 1


def test_a_temporary_fault_is_passed_through(sdk: OpenAI, upstream: UpstreamControl) -> None:
    model = upstream.model("429-then-503-then-ok")
    for error in (openai.RateLimitError, openai.InternalServerError):
        with pytest.raises(error):
            say(sdk, model)
    assert say(sdk, model).choices[0].message.content == "OK"
    assert upstream.posts(model) == 3


def test_a_hanging_provider(sdk: OpenAI, upstream: UpstreamControl) -> None:
    model = upstream.model("hang")
    with pytest.raises(openai.APITimeoutError):
        say(sdk.with_options(timeout=1), model)
    assert upstream.posts(model) == 1


def test_a_cut_stream(sdk: OpenAI, upstream: UpstreamControl) -> None:
    text = "a long text " * 20
    seen = ""
    with pytest.raises(openai.APIError):
        for chunk in say(sdk, upstream.model("cut"), f"Reply with exactly: {text}", stream=True):
            seen += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert seen
    assert text.startswith(seen)
    events = list(sdk.responses.create(model=upstream.model("cut"), input=f"Reply with exactly: {text}", stream=True))
    assert events[-1].type == "response.failed"


def test_failing_polls(sdk: OpenAI, upstream: UpstreamControl) -> None:
    model = upstream.model("ok", "500-then-404-then-cut-then-ok")
    made = sdk.responses.create(model=model, input="Reply with exactly: OK", background=True)
    for _ in range(3):
        with pytest.raises(openai.APIStatusError):
            sdk.responses.retrieve(made.id)
    assert finished(sdk, made.id).output_text == "OK"
    assert upstream.posts(model) == 1


@pytest.mark.parametrize(
    ("step", "status"), [("failed", "failed"), ("incomplete", "incomplete"), ("empty", "completed")]
)
def test_other_outcomes(sdk: OpenAI, upstream: UpstreamControl, step: str, status: str) -> None:
    made = sdk.responses.create(model=upstream.model(step), input="x")
    assert made.status == status
    assert bool(made.output_text) is (step == "incomplete")
    late = sdk.responses.create(model=upstream.model(step), input="x", background=True)
    assert finished(sdk, late.id).status == status
