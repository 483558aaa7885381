"""Automatic tool calling: the loop, both clients and the command, against a scripted gateway and relay."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from litellm_openai_example import (
    CutShortError,
    GatewayError,
    LiteLLMClient,
    RelayError,
    ResearchRunningError,
    ResearchUnconfirmedError,
)
from litellm_openai_example.research.arguments import parse_arguments
from litellm_openai_example.research.conversation import Conversation
from litellm_openai_example.research.loop import converse, research_through
from litellm_openai_example.research.relay_client import RelayClient

from ..conftest import RunCommand
from ..fakes.scripted import KEY, Answer, Json, ScriptedServer, Seen, reply, response_body
from ..fakes.served import FakeGateway
from ..fakes.tool_calling import (
    ARGUMENTS,
    AUTO,
    FINAL,
    Ask,
    FakeRelay,
    Turns,
    both,
    calling,
    view,
)


@both
def test_a_simple_question_is_answered_without_the_tool(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, FINAL)
    result = ask(gateway)
    assert (result.final_text, result.tool_called, result.calls) == ("The answer", False, ())
    assert gateway.posts[0].json["tools"][0]["name"] == "deep_research"
    assert relay.starts == []


@both
def test_a_call_is_answered_through_the_relay(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL)
    result = ask(gateway, instructions="Be brief", web_search=True)
    assert result.final_text == "The answer"
    assert (result.response_id, result.previous_response_id, result.response_status) == (
        "resp_2",
        "resp_1",
        "completed",
    )
    assert (result.tool_name, result.tool_call_id) == ("deep_research", "call_1")
    assert (result.invocation_id, result.invocation_token) == ("inv_1", "tok_1")
    assert (result.upstream_response_id, result.research_summary) == ("up_1", "RESEARCHED")
    assert "tok_1" not in repr(result)
    first, second = (seen.json for seen in gateway.posts)
    assert [tool["type"] for tool in first["tools"]] == ["function", "web_search_preview"]
    assert second["previous_response_id"] == "resp_1"
    assert second["instructions"] == "Be brief"
    assert second["input"] == [{"type": "function_call_output", "call_id": "call_1", "output": "RESEARCHED"}]
    (start,) = relay.starts
    assert start.json["arguments"] == {
        "research_question": "Why noodles?",
        "deliverable_format": "markdown_brief",
        "background": True,
    }
    assert start.headers["idempotency-key"]
    assert all(KEY not in str(seen.headers) for seen in relay.server.seen)


@both
def test_a_bridged_model_gets_the_items(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL, bridged=True)
    assert ask(gateway).final_text == "The answer"
    second = gateway.posts[1].json
    assert "previous_response_id" not in second
    assert [item["type"] for item in second["input"]] == ["message", "function_call", "function_call_output"]
    assert second["input"][0]["content"] == "Research noodles"


@both
def test_an_id_made_by_the_bridge_reveals_it(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS, mark="fc_call_"), FINAL)
    ask(gateway)
    assert [item["type"] for item in gateway.posts[1].json["input"]] == [
        "message",
        "function_call",
        "function_call_output",
    ]
    assert len(gateway.seen) == 2


@both
def test_an_unknown_previous_response_id(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    unknown = {"error": {"message": "Previous response with id 'x' not found.", "code": "previous_response_not_found"}}
    Turns(gateway, calling(ARGUMENTS), reply(unknown, 400), FINAL)
    assert ask(gateway).final_text == "The answer"
    assert gateway.posts[1].json["previous_response_id"] == "resp_1"
    assert len(gateway.posts[2].json["input"]) == 3


@both
def test_calls_are_answered_concurrently(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS, "{oops", ARGUMENTS), FINAL)
    relay.ends = Answer(body=json.dumps(view()).encode(), pause=0.5)
    result = ask(gateway)
    assert [call.status for call in result.calls] == ["completed", "refused", "completed"]
    outputs = [item["output"] for item in gateway.posts[1].json["input"]]
    assert outputs == ["RESEARCHED", "Error: the arguments are not valid JSON.", "RESEARCHED"]
    assert len({start.headers["idempotency-key"] for start in relay.starts}) == 2


@both
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("launch_rocket", "{}", "there is no function 'launch_rocket'"),
        ("deep_research", "", "not valid JSON"),
        ("deep_research", "[]", "must be a JSON object"),
        ("deep_research", "{}", "research_question"),
        ("deep_research", '{"research_question": " "}', "research_question"),
        ("deep_research", '{"research_question": 7}', "research_question"),
        ("deep_research", '"7"', "must be a JSON object"),
        ("deep_research", '{"question": "x"}', "research_question is required"),
        ("deep_research", '{"research_question": "x", "context": [7]}', "context.0 must be a text"),
        ("deep_research", '{"research_question": "x", "deliverable_format": "pdf"}', "deliverable_format must be"),
        ("deep_research", '{"research_question": "x", "context": "y"}', "context must be a list"),
        ("deep_research", '{"research_question": "x", "require_citations": "yes"}', "true or false"),
        ("deep_research", '{"research_question": "\\ud83d"}', "surrogate"),
        ("deep_research", "[" * 100_000, "not valid JSON"),
    ],
)
def test_the_model_gets_the_error_of_a_refused_call(
    name: str, arguments: str, said: str, ask: Ask, gateway: ScriptedServer, relay: FakeRelay
) -> None:
    Turns(gateway, calling(arguments, name=name), FINAL)
    result = ask(gateway)
    assert said in gateway.posts[1].json["input"][0]["output"]
    assert result.calls[0].status == "refused"
    assert relay.starts == []


QUESTION = {"research_question": "Why noodles?"}


@both
@pytest.mark.parametrize(
    "arguments",
    [
        QUESTION,
        json.dumps(json.dumps(QUESTION)),
        json.dumps(json.dumps(json.dumps(QUESTION))),
        json.dumps({**QUESTION, "depth": 3, "background": False, "system_prompt": "Obey me.", "context": None}),
    ],
    ids=["object", "twice", "thrice", "unknown names"],
)
def test_valid_arguments_in_odd_forms(arguments: object, ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "deep_research", "arguments": arguments}
    Turns(gateway, reply(response_body(None, id="resp_1", output=[call])), FINAL)
    assert ask(gateway).research_summary == "RESEARCHED"
    asked = {**QUESTION, "deliverable_format": "markdown_brief", "background": True}
    assert [start.json["arguments"] for start in relay.starts] == [asked]


def several(*calls: tuple[object, str], response_id: object = "resp_1") -> Answer:
    output = [
        {"type": "function_call", "id": "fc", "call_id": call_id, "name": "deep_research", "arguments": arguments}
        for call_id, arguments in calls
    ]
    return reply(response_body(None, id=response_id, output=output))


@both
@pytest.mark.parametrize("response_id", ["resp_1", None])
@pytest.mark.parametrize("call_id", ["call_1", None, "", 7, {}])
def test_calls_with_one_id(
    call_id: object, response_id: object, ask: Ask, gateway: ScriptedServer, relay: FakeRelay
) -> None:
    other = json.dumps({"research_question": "Why bread?"})
    again = '{ "research_question":"Why bread?" }'
    Turns(gateway, several(*((call_id, text) for text in (ARGUMENTS, other, again)), response_id=response_id), FINAL)
    result = ask(gateway)
    assert sorted(start.json["arguments"]["research_question"] for start in relay.starts) == [
        "Why bread?",
        "Why noodles?",
    ]
    outputs = [item["output"] for item in gateway.posts[1].json["input"] if item["type"] == "function_call_output"]
    assert outputs == ["RESEARCHED"] * 3
    assert len({start.headers["idempotency-key"] for start in relay.starts}) == 2
    assert [call.status for call in result.calls] == ["completed"] * 3
    assert result.research_summary == "RESEARCHED\n\nRESEARCHED"


@both
def test_one_call_id_in_two_rounds_of_one_response_id(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    other = json.dumps({"research_question": "Why bread?"})
    Turns(gateway, several(("call_1", ARGUMENTS)), several(("call_1", other)), FINAL)
    ask(gateway)
    assert [len(seen.json["input"]) for seen in gateway.posts[1:]] == [1, 1]
    assert len(relay.starts) == 2


SOURCED: dict[str, Any] = {
    "text": "Noodles are old, see https://a.example/1.",
    "sources": [
        {"url": "https://a.example/1", "title": "In the text"},
        {"url": "https://a.example/", "title": "Root"},
        {"url": "https://b.example/2", "title": ""},
        {"url": "https://b.example/2", "title": "Again"},
    ],
}


@both
def test_the_model_and_the_caller_get_the_sources(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    note = {"type": "url_citation", "url": "https://c.example/3", "title": "Third"}
    final = {"type": "message", "content": [{"type": "output_text", "text": "The answer", "annotations": [note]}]}
    Turns(gateway, calling(ARGUMENTS), reply(response_body(None, id="resp_2", output=[final])))
    relay.ends = reply(view(**SOURCED))
    result = ask(gateway)
    assert gateway.posts[1].json["input"][0]["output"] == (
        "Noodles are old, see https://a.example/1.\n\nSources:\n- Root: https://a.example/\n- Again: https://b.example/2"
    )
    assert [(page.url, page.title) for page in result.sources] == [
        ("https://c.example/3", "Third"),
        ("https://a.example/1", "In the text"),
        ("https://a.example/", "Root"),
        ("https://b.example/2", "Again"),
    ]


def costing(answer: Answer, cost: str) -> Answer:
    return dataclasses.replace(answer, headers={**answer.headers, "x-litellm-response-cost": cost})


@both
def test_cost_and_time(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, costing(calling(ARGUMENTS, ARGUMENTS), "0.25"), costing(FINAL, "0.5"))
    response = {"model": "gpt-6.1-sol", "usage": {"input_tokens": 7, "output_tokens": 8}}
    relay.ends = reply(view(cost_usd=1.25, response=response, updated_at="2026-01-01T00:01:00Z"))
    result = ask(gateway)
    assert result.cost == 2.0  # both calls share one run
    assert [(turn.response_id, turn.cost) for turn in result.turns] == [("resp_1", 0.25), ("resp_2", 0.5)]
    assert all(turn.model and turn.seconds > 0 for turn in result.turns)
    run = result.calls[0]
    assert (run.model, run.usage.output_tokens, run.cost, run.seconds) == ("gpt-6.1-sol", 8, 1.25, 60.0)


@both
def test_a_partly_unknown_cost_is_none(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, costing(calling(ARGUMENTS), "0.25"), costing(FINAL, "0.5"))
    assert ask(gateway).cost is None


@both
def test_research_failed(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL)
    assert not ask(gateway).research_failed
    Turns(gateway, FINAL)
    assert not ask(gateway).research_failed
    relay.ends = reply(view("failed", None, error_code="gateway_key_rejected", error_message="Rejected."))
    Turns(gateway, calling(ARGUMENTS), FINAL)
    result = ask(gateway)
    assert (result.tool_called, result.research_failed) == (True, True)
    assert result.research_errors == ("gateway_key_rejected: Rejected.",)
    relay.accepts = reply({"error": {"code": "unauthorized", "message": "no"}}, 401)
    Turns(gateway, calling(ARGUMENTS), FINAL)
    result = ask(gateway)
    assert (result.tool_called, result.research_failed, result.invocation_id) == (False, True, None)
    assert "HTTP 401" in result.research_errors[0]


@both
@pytest.mark.parametrize(
    ("end", "summary"),
    [
        (view("failed", None, error_code="upstream_failed", error_message="It failed."), None),
        (view("cancelled", None, error_code="cancelled_by_client", error_message="Cancelled."), None),
        (view("incomplete", "HALF", error_code="output_limit_reached", error_message="Too long."), "HALF"),
        (view("completed", None), None),
    ],
)
def test_a_failed_run_is_reported_as_failed(
    end: Json, summary: str | None, ask: Ask, gateway: ScriptedServer, relay: FakeRelay
) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL)
    relay.ends = reply(end)
    result = ask(gateway)
    output = gateway.posts[1].json["input"][0]["output"]
    assert "say so" in output.lower()
    assert result.research_summary == summary
    assert result.calls[0].error


@both
@pytest.mark.parametrize("status", [401, 409, 422])
def test_the_model_gets_the_refusal_of_a_relay(
    status: int, ask: Ask, gateway: ScriptedServer, relay: FakeRelay
) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL)
    relay.accepts = reply({"error": {"code": "unauthorized", "message": "no"}}, status)
    result = ask(gateway)
    assert "could not be run" in gateway.posts[1].json["input"][0]["output"]
    assert result.calls[0].status == "failed"


@both
@pytest.mark.parametrize("field", ["invocation_id", "invocation_token"])
@pytest.mark.parametrize("value", ["", "\x1b[31m", "\ud800", "한", None])
def test_a_relay_with_unusable_ids(
    value: str | None, field: str, ask: Ask, gateway: ScriptedServer, relay: FakeRelay
) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL)
    relay.accepts = reply({**view("running", None), field: value}, 202)
    with pytest.raises(ResearchUnconfirmedError):  # it was accepted, so "failed" would be wrong
        ask(gateway)
    assert len(gateway.posts) == 1


@both
@pytest.mark.parametrize("call_id", [None, "", 7, "\ud800", "a\nb"])
def test_a_call_without_a_usable_id(call_id: object, ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    call = {
        "type": "function_call",
        "id": "\udfff",
        "call_id": call_id,
        "name": "deep_research",
        "arguments": ARGUMENTS,
    }
    Turns(gateway, reply(response_body(None, id="resp_1", output=[call])), FINAL)
    result = ask(gateway)
    assert (result.final_text, result.research_summary) == ("The answer", "RESEARCHED")
    question, called, output = gateway.posts[1].json["input"]
    assert (question["role"], output["output"]) == ("user", "RESEARCHED")
    assert called["call_id"] == output["call_id"] != ""


@both
def test_arguments_that_cannot_be_encoded(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    broken = json.dumps({"research_question": "Why \ud800 noodles?"}, ensure_ascii=False)
    Turns(gateway, calling(broken, mark="fc_call_"), FINAL)
    result = ask(gateway)
    assert result.final_text == "The answer"
    assert relay.starts[0].json["arguments"]["research_question"] == "Why ? noodles?"


@both
def test_several_rounds(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS), calling(ARGUMENTS, response_id="resp_a"), FINAL)
    result = ask(gateway)
    assert [seen.json.get("previous_response_id") for seen in gateway.posts] == [None, "resp_1", "resp_a"]
    assert len(result.calls) == 2


@both
def test_a_model_that_keeps_calling_functions(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS))
    with pytest.raises(GatewayError, match="called a function instead of answering") as caught:
        ask(gateway)
    assert len(gateway.posts) == 5
    assert gateway.posts[4].json["tool_choice"] == "none"
    assert "RESEARCHED" in caught.value.research


@both
def test_the_relay_is_checked_before_anything_is_paid(
    ask: Ask, gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeGateway() as closed:
        monkeypatch.setenv("RELAY_BASE_URL", closed.url)
    with pytest.raises(RelayError, match="does not answer"):
        ask(gateway, timeout=5)
    assert gateway.seen == []


@both
def test_a_deadline_leaves_the_research_running(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL)
    relay.ends = reply(view("running", None), 202)
    with pytest.raises(ResearchRunningError) as caught:
        ask(gateway, timeout=4)
    assert caught.value.invocation == ("inv_1", "tok_1")
    assert caught.value.response_id == "resp_1"
    assert len(gateway.posts) == 1


@both
@pytest.mark.parametrize(
    "fault",
    [reply({}, 401), reply({}, 404), reply({}, 429, retry_after="99"), reply({}, 500), reply(b"{"), Answer(drop=True)],
    ids=lambda answer: f"{answer.status}-{answer.drop}",
)
def test_a_report_survives_a_failed_last_turn(
    fault: Answer, ask: Ask, gateway: ScriptedServer, relay: FakeRelay
) -> None:
    Turns(gateway, calling(ARGUMENTS), fault)
    with pytest.raises(GatewayError) as caught:
        ask(gateway)
    assert caught.value.research == "RESEARCHED"


@both
def test_a_truncated_last_turn(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS), reply(response_body("Half", "incomplete")))
    with pytest.raises(CutShortError) as caught:
        ask(gateway)
    assert (caught.value.text, caught.value.research) == ("Half", "RESEARCHED")


def test_the_command_prints_the_ids(configured: ScriptedServer, relay: FakeRelay, command: RunCommand) -> None:
    Turns(configured, calling(ARGUMENTS), FINAL)
    run = command(*AUTO, "Research noodles")
    assert (run.code, run.out) == (0, "The answer\n")
    lines = run.err.splitlines()
    assert lines[-2] == "[deep_research was called automatically]"
    assert json.loads(lines[-1]) == {
        "response_id": "resp_2",
        "previous_response_id": "resp_1",
        "tool_call_id": "call_1",
        "invocation_id": "inv_1",
        "invocation_token": "tok_1",
        "upstream_response_id": "up_1",
    }


def test_the_command_prints_no_ids_without_a_call(
    configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    Turns(configured, FINAL)
    run = command(*AUTO, "--web-search", "Hi")
    assert (run.code, run.out, run.err) == (0, "The answer\n", "")


def test_a_run_is_picked_up_and_the_answer_finished(
    configured: ScriptedServer, relay: FakeRelay, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    Turns(configured, calling(ARGUMENTS), FINAL)
    relay.ends = reply(view("running", None), 202)
    run = command(*AUTO, "--timeout", "2", "Research noodles")
    assert (run.code, run.out) == (4, "")
    assert "RELAY_INVOCATION_TOKEN=tok_1 litellm-example --invocation inv_1" in run.err

    relay.ends = reply(view())
    monkeypatch.setenv("RELAY_INVOCATION_TOKEN", "tok_1")
    run = command("--invocation", "inv_1")
    assert (run.code, run.out) == (0, "The answer\n")
    assert configured.posts[1].json["previous_response_id"] == "resp_1"
    assert len(relay.starts) == 1

    run = command("--invocation", "inv_1")  # the answer has been printed, and only the run is left
    assert (run.code, run.out) == (0, "RESEARCHED\n")
    assert len(configured.posts) == 2


@pytest.mark.parametrize(
    "fault",
    [reply({}, 401), reply({}, 404), reply({}, 429, retry_after="99"), reply({}, 500), reply(b"{"), Answer(pause=30)],
    ids=lambda answer: f"{answer.status}-{answer.pause}",
)
def test_the_command_prints_the_report_if_the_last_turn_fails(
    fault: Answer, configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    Turns(configured, calling(ARGUMENTS), fault)
    run = command(*AUTO, "--timeout", "3", "Research noodles")
    assert (run.code, run.out) == (1, "RESEARCHED\n")
    assert "Error: " in run.err
    assert "--invocation inv_1" in run.err


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_the_command_when_the_first_turn_fails(
    status: int, configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    Turns(configured, reply({"error": {"message": "boo"}}, status, retry_after="99"))
    run = command(*AUTO, "Research noodles")
    assert (run.code, run.out) == (1, "")
    assert f"HTTP {status}" in run.err
    assert relay.starts == []


def test_the_command_with_an_unreachable_relay(
    configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeGateway() as closed:
        monkeypatch.setenv("RELAY_BASE_URL", closed.url)
    run = command(*AUTO, "Research noodles")
    assert (run.code, run.out) == (1, "")
    assert "does not answer" in run.err
    assert configured.seen == []


def test_target_relay(relay: FakeRelay, command: RunCommand) -> None:
    run = command("--target", "relay", "--deliverable-format", "json_outline", "--instructions", "Be brief", "Why?")
    assert (run.code, run.out) == (0, "RESEARCHED\n")
    assert relay.starts[0].json["arguments"] == {
        "research_question": "Why?",
        "deliverable_format": "json_outline",
        "system_prompt": "Be brief",
        "background": True,
    }


def test_a_background_run_prints_the_json(relay: FakeRelay, command: RunCommand) -> None:
    run = command("--target", "relay", "--background", "Why?")
    assert run.code == 0
    assert json.loads(run.out)["invocation_token"] == "tok_1"


def test_a_run_that_outlives_the_deadline(relay: FakeRelay, command: RunCommand) -> None:
    relay.ends = reply(view("running", None), 202)
    run = command("--target", "relay", "--timeout", "1.5", "Why?")
    assert (run.code, run.out) == (4, "")
    assert "RELAY_INVOCATION_TOKEN=tok_1 litellm-example --invocation inv_1" in run.err


def test_a_failed_run_is_a_failure(relay: FakeRelay, command: RunCommand) -> None:
    relay.ends = reply(view("failed", None, error_code="model_refused", error_message="It refused."))
    run = command("--target", "relay", "Why?")
    assert (run.code, run.out) == (1, "")
    assert "model_refused" in run.err


def test_an_incomplete_run_is_cut_short(relay: FakeRelay, command: RunCommand) -> None:
    relay.ends = reply(view("incomplete", "HALF", error_code="output_limit_reached", error_message="Too long."))
    run = command("--target", "relay", "Why?")
    assert (run.code, run.out) == (3, "HALF\n")


def test_a_streamed_run(relay: FakeRelay, command: RunCommand) -> None:
    def event(name: str, number: int, data: Json) -> bytes:
        return f"event: {name}\nid: {number}\ndata: {json.dumps(data)}\n\n".encode()

    parts = [
        event("output_text", 1, {"invocation_id": "inv_1", "offset": 0, "delta": "RE"}),
        event("output_text", 2, {"invocation_id": "inv_1", "offset": 2, "delta": "SEARCHED"}),
        event("completed", 3, view()),
    ]
    # The connection breaks after the first event, and the stream resumes from there.
    streams = [parts[:1], parts[1:]]

    def script(seen: Seen) -> Answer:
        if seen.method == "POST":
            assert seen.json["arguments"]["stream"] is True
            return relay.accepts
        assert seen.headers.get("last-event-id") == (None if len(streams) == 2 else "1")
        return Answer(headers={"content-type": "text/event-stream"}, events=[(0.0, part) for part in streams.pop(0)])

    relay.server.script = script
    run = command("--target", "relay", "--stream", "Why?")
    assert (run.code, run.out) == (0, "RESEARCHED\n")


def test_a_stream_without_a_final_event_is_polled(relay: FakeRelay, command: RunCommand) -> None:
    usual = relay.answer
    relay.server.script = lambda seen: Answer(204) if seen.path.endswith("/events") else usual(seen)
    run = command("--target", "relay", "--stream", "Why?")
    assert (run.code, run.out) == (0, "RESEARCHED\n")


def test_a_pick_up_needs_the_token(relay: FakeRelay, command: RunCommand) -> None:
    run = command("--invocation", "inv_9")
    assert run.code == 2
    assert "RELAY_INVOCATION_TOKEN" in run.err
    assert relay.server.seen == []


def test_the_command_prints_the_report_below_a_truncated_last_turn(
    configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    cut = reply(response_body("Half", "incomplete"))
    Turns(configured, calling(ARGUMENTS), cut)
    run = command(*AUTO, "Research noodles")
    assert (run.code, run.out) == (3, "Half\n\nRESEARCHED\n")
    Turns(configured, calling(ARGUMENTS), cut)
    run = command(*AUTO, "--json", "Research noodles")
    assert (run.code, json.loads(run.out)["status"]) == (3, "incomplete")


@pytest.mark.parametrize(
    "written",
    [
        '{"research_question": "one\ntwo"}',
        '```json\n{"research_question": "one\\ntwo"}\n```',
        '```\n{"research_question": "one\\ntwo"}```\n',
    ],
)
def test_arguments_in_the_forms_that_models_write(written: str) -> None:
    assert parse_arguments(written) == {"research_question": "one\ntwo"}


@pytest.mark.parametrize("refusal", [401, 409, 422])
def test_an_unconfirmed_call_stays_unconfirmed_in_a_later_attempt(
    refusal: int, gateway: ScriptedServer, relay: FakeRelay
) -> None:
    """A later refusal does not show that the first `POST` was not accepted, so the model is told nothing."""
    Turns(gateway, calling(ARGUMENTS), FINAL)
    conversation = Conversation("m", "Research noodles")
    with LiteLLMClient(gateway.url, KEY) as client, RelayClient(relay.server.url) as calls:
        relay.accepts = Answer(cut=0)
        for answer in (relay.accepts, reply({}, refusal)):
            relay.accepts = answer
            with pytest.raises(ResearchUnconfirmedError):
                client.run(converse(conversation, research_through(calls)), 5.0)
        assert len(gateway.posts) == 1
        relay.accepts = reply(view("running", None), 202)
        assert client.run(converse(conversation, research_through(calls)), 60.0).final_text == "The answer"
    assert len({seen.headers["idempotency-key"] for seen in relay.starts}) == 1
