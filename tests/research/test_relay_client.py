"""The relay client against foreign relays, and against arbitrary answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from litellm_openai_example import AsyncRelayClient, RelayClient, RelayError, ResearchRunningError
from litellm_openai_example.research import relay_calls
from litellm_openai_example.research.contract import Invocation
from litellm_openai_example.research.relay_answers import read_view
from litellm_openai_example.research.relay_client import RelayEvent

from ..fakes.scripted import Answer
from ..fakes.served import FakeGateway

INVOCATIONS = "/api/v1/tool-invocations"
VIEW = {"invocation_id": "0c7f", "tool_name": "deep_research", "mode": "background", "invocation_token": "tok"}
NOTE = {"type": "url_citation", "url": "https://a.example/1", "title": "One"}
PAYLOAD = {
    "id": "resp_1",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "FOUND", "annotations": [NOTE]}]}],
}


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A foreign relay without /readyz, idempotency and times."""
    with HTTPServer() as server:
        monkeypatch.setenv("RELAY_BASE_URL", server.url_for(""))
        yield server


def test_a_relay_without_readyz_is_accepted(other: HTTPServer) -> None:
    other.expect_request("/readyz").respond_with_data("nothing here", 404)
    with RelayClient() as relay:
        relay.check()


def test_a_relay_that_asks_for_a_short_wait_is_checked_again(other: HTTPServer) -> None:
    """A load balancer may send the next request to another replica."""
    for _ in range(2):
        other.expect_oneshot_request("/readyz").respond_with_data("", 503, {"Retry-After": "0"})
    other.expect_oneshot_request("/readyz").respond_with_data("{}")
    with RelayClient() as relay:
        relay.check()
    assert len(other.log) == 3


@pytest.mark.parametrize(
    ("status", "headers"), [(500, {}), (500, {"Retry-After": "0"}), (401, {}), (503, {"Retry-After": "99"})]
)
def test_a_relay_that_is_not_ready_is_refused_at_once(status: int, headers: dict[str, str], other: HTTPServer) -> None:
    other.expect_request("/readyz").respond_with_data("", status, headers)
    with RelayClient() as relay, pytest.raises(RelayError):
        relay.check()
    assert len(other.log) == 1


def test_a_foreign_relays_run_is_read(other: HTTPServer) -> None:
    asked: list[Any] = []

    def start(request: Request) -> Response:
        asked.append(request.get_json())
        return Response(json.dumps({**VIEW, "status": "pending"}), 202, content_type="application/json")

    other.expect_request(INVOCATIONS, method="POST").respond_with_handler(start)
    # Its wait returns too early twice, then with the text only in the response.
    for body in ({"status": "pending"}, {"status": "post-processing"}, {"status": "succeeded", "response": PAYLOAD}):
        other.expect_oneshot_request(f"{INVOCATIONS}/0c7f/wait").respond_with_json({**VIEW, **body})
    with RelayClient() as relay:
        accepted = relay.invoke({"research_question": "Why?", "background": True})
        polled: list[Invocation] = []
        view = relay.wait(accepted.invocation_id, accepted.invocation_token, on_view=polled.append)
    assert [seen.status for seen in polled] == ["running", "running", "completed"]
    assert asked[0]["arguments"]["deliverable_format"] == "markdown_brief"
    assert (accepted.status, view.status, view.output_text) == ("running", "completed", "FOUND")
    assert [(page.url, page.title) for page in view.sources] == [("https://a.example/1", "One")]


def test_a_run_can_be_picked_up_after_its_relay_is_gone(other: HTTPServer) -> None:
    other.expect_request(f"{INVOCATIONS}/0c7f/wait").respond_with_data("", 503)
    with RelayClient(timeout=1.5) as relay, pytest.raises(ResearchRunningError) as caught:
        relay.wait("0c7f", "tok")
    assert caught.value.invocation == ("0c7f", "tok")


@pytest.mark.parametrize("hang", [Answer(pause=60.0), Answer(drip=0.1), Answer(drip_head=0.1)])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_hanging_or_dripping_wait_is_repeated(
    monkeypatch: pytest.MonkeyPatch, hang: Answer, asynchronous: bool
) -> None:
    monkeypatch.setattr(relay_calls, "_WAIT_SECONDS", 0.3)
    monkeypatch.setattr(relay_calls, "_WAIT_GRACE", 0.5)
    ended = json.dumps({**VIEW, "status": "completed", "output_text": "FOUND"}).encode()
    answers = [replace(hang, body=b" " * 1000), Answer(body=ended)]

    async def wait(url: str) -> Invocation:
        async with AsyncRelayClient(url) as relay:
            polled: list[Invocation] = []
            view = await relay.wait("0c7f", "tok", timeout=20, on_view=polled.append)
            assert polled == [view]
            return view

    with FakeGateway(lambda _: answers.pop(0)) as gateway:
        if asynchronous:
            view = asyncio.run(wait(gateway.url))
        else:
            with RelayClient(gateway.url) as relay:
                view = relay.wait("0c7f", "tok", timeout=20)
    assert view.output_text == "FOUND"


Events = Callable[[], list[RelayEvent]]


def events_sync() -> list[RelayEvent]:
    with RelayClient() as relay:
        return list(relay.events("0c7f", "tok"))


def events_async() -> list[RelayEvent]:
    async def collect() -> list[RelayEvent]:
        async with AsyncRelayClient() as relay:
            return [event async for event in relay.events("0c7f", "tok")]

    return asyncio.run(collect())


def stream(*events: dict[str, Any], named: bool = True) -> str:
    heads = [f"event: {event['type']}\n" if named else "" for event in events]
    return "".join(f"{head}data: {json.dumps(event)}\n\n" for head, event in zip(heads, events, strict=True))


def piece(text: str) -> dict[str, Any]:
    return {"invocation_id": "0c7f", "type": "output_text", "status": "running", "data": {"text": text}}


PENDING = {"invocation_id": "0c7f", "type": "status", "status": "pending", "data": {"mode": "stream"}}
DONE = {"invocation_id": "0c7f", "type": "completed", "status": "completed", "data": {"output_text": "Found it"}}


@pytest.mark.parametrize("collect", [events_sync, events_async])
@pytest.mark.parametrize("named", [True, False])
def test_events_of_a_foreign_relay(other: HTTPServer, collect: Events, named: bool) -> None:
    # It breaks in the middle, and without event ids it starts from the beginning.
    for told in ([PENDING, piece("Fou")], [PENDING, piece("Found "), piece("it"), DONE]):
        other.expect_oneshot_request(f"{INVOCATIONS}/0c7f/events").respond_with_data(
            stream(*told, named=named), content_type="text/event-stream"
        )
    events = collect()
    assert "".join(event.data["delta"] for event in events if event.name == "output_text") == "Found it"
    assert events[0].data["status"] == "running"
    assert (events[-1].name, events[-1].data["status"], events[-1].data["output_text"]) == (
        "completed",
        "completed",
        "Found it",
    )


@pytest.mark.parametrize("kind", ["error", "status"])
def test_a_failure_of_a_foreign_relay(other: HTTPServer, kind: str) -> None:
    failed = {"invocation_id": "0c7f", "type": kind, "status": "failed", "data": {"message": "It broke"}}
    other.expect_request(f"{INVOCATIONS}/0c7f/events").respond_with_data(
        stream(failed), content_type="text/event-stream"
    )
    (event,) = events_sync()
    assert (event.name, event.data["status"], event.data["error_message"]) == ("error", "failed", "It broke")


ODD: list[object] = [None, "", 7, -1, 10**400, True, [], [None], {}, {"a": None}, "\ud800", "x\ny", 0.5, float("nan")]
ODD += [{"a": ["\ud800"], "\ud800": 1}, [{"url": "https://a.example", "title": "half of \ud83d"}]]


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize(
    "name",
    [name for name in Invocation.model_fields if name != "invocation_id"],
)
def test_any_field_may_have_any_type(name: str, value: object) -> None:
    view = read_view({**VIEW, "status": "completed", "output_text": "FOUND", name: value})
    assert view.invocation_id == "0c7f"
    assert view.output_text == ("FOUND" if name != "output_text" else view.output_text)
    assert (view.updated_at - view.created_at).total_seconds() == 0
    view.model_dump_json().encode()
