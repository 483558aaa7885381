"""Errors are diagnosed by kind; no decision depends on a message."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import openai
import pytest

from litellm_openai_example import (
    CutShortError,
    ErrorKind,
    GatewayError,
    LiteLLMClient,
    RelayError,
    ResearchRunningError,
    ResearchUnconfirmedError,
    StillRunningError,
    error_table,
)
from litellm_openai_example.error_table import read_report, row_of
from litellm_openai_example.errors import DeadlineExceededError, LostAnswerError, UnusableSettingError
from litellm_openai_example.http_library import httpx
from litellm_openai_example.relay.engine import replies

from .conftest import RunCommand
from .fakes.scripted import KEY, Answer, ScriptedServer, reply, response_body


def error(status: int, message: str, type_: str = "", param: str | None = None) -> Answer:
    return reply({"error": {"message": message, "type": type_, "param": param, "code": str(status)}}, status)


CONVERTING = "Error converting to valid response block="
WIRE = [
    (error(400, "Budget has been exceeded! Current cost: 3"), ErrorKind.BUDGET),
    (error(429, "Budget has been exceeded! Current cost: 3"), ErrorKind.BUDGET),
    (error(402, "pay"), ErrorKind.BUDGET),
    (error(400, "No connected db.", "no_db_connection"), ErrorKind.BAD_KEY),
    (error(401, "Invalid proxy server token", "token_not_found_in_db"), ErrorKind.BAD_KEY),
    (error(401, "litellm.AuthenticationError: OpenAIException - {}"), ErrorKind.PROVIDER_KEY),
    (error(403, "nope"), ErrorKind.FORBIDDEN),
    (error(400, "Invalid model name passed in model=x"), ErrorKind.UNKNOWN_MODEL),
    (error(400, "model=None"), ErrorKind.UNKNOWN_RESPONSE),
    (error(404, "Response with id 'resp_1' not found"), ErrorKind.UNKNOWN_RESPONSE),
    (error(404, "nothing here"), ErrorKind.NOT_FOUND),
    (error(500, "GET responses is not supported for anthropic"), ErrorKind.NOT_SUPPORTED),
    (error(400, "Web search preview tool is not supported with this model"), ErrorKind.UNSUPPORTED_TOOL),
    (error(400, "Deep research models require at least one of 'web_search_preview', 'mcp'"), ErrorKind.MISSING_TOOL),
    (error(400, "Unsupported parameter", param="reasoning.effort"), ErrorKind.UNSUPPORTED_REASONING),
    (error(400, "Must be false here", param="store"), ErrorKind.UNSUPPORTED_STORE),
    (error(400, "streaming is not allowed"), ErrorKind.UNSUPPORTED_STREAM),
    (error(400, "This model's maximum: context_length_exceeded"), ErrorKind.TOO_LARGE),
    (error(413, ""), ErrorKind.TOO_LARGE),
    (error(400, "content_policy_violation"), ErrorKind.POLICY),
    (error(400, "max_tokens is odd"), ErrorKind.BAD_REQUEST),
    (error(500, "boo"), ErrorKind.SERVER),
    (error(502, "boo"), ErrorKind.SERVER),
    (error(422, f"litellm.BadRequestError: GeminiException - {CONVERTING}Expecting value"), ErrorKind.SERVER),
    (error(408, "boo"), ErrorKind.TIMEOUT),
    (reply({"error": {"message": "No deployments available"}}, 429, retry_after="60"), ErrorKind.RATE_LIMIT),
    (reply({}, 429, retry_after="60"), ErrorKind.RATE_LIMIT),
    (reply({}, 503, retry_after="60"), ErrorKind.UNAVAILABLE),
    (Answer(drop=True), ErrorKind.LOST),
    (reply({}, 307, location="http://other.invalid/"), ErrorKind.WRONG_ADDRESS),
    (reply(b"no JSON"), ErrorKind.UNREADABLE),
]  # fmt: skip


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(("answer", "kind"), WIRE)
def test_the_kind_of_an_error(answer: Answer, kind: ErrorKind, gateway: ScriptedServer) -> None:
    gateway.answers(answer)
    with LiteLLMClient(gateway.url, KEY, timeout=10) as client, pytest.raises(GatewayError) as caught:
        client.create_response("hi")
    assert caught.value.kind is kind


OFFICIAL = "litellm.BadRequestError: OpenAIException - "
# Refusals of fields that we add ourselves, as providers, LiteLLM and proxies word them.
REASONING = [
    ("Unsupported value: 'high' is not supported with the 'x' model. Supported values are: 'low'.", None),
    ("Invalid value: 'high'. Supported values are: 'low' and 'medium'.", None),
    ("Invalid value", "reasoning.effort"),
    ("No such field", "reasoning_effort"),
    ("x doesn't support `reasoning.effort` (its model cost map entry lacks `supports_reasoning`)", None),
    (f"{OFFICIAL}Unrecognized request argument supplied: reasoning_effort", None),
    (f'{OFFICIAL}{{"error": {{"message": "Unknown parameter", "param": "reasoning", "code": "x"}}}}', None),
    ("This model does not support reasoning.", "model"),
    ("this model doesn't accept reasoning", None),
    ("Reasoning effort is not a valid parameter", None),
    ("litellm.BadRequestError: AnthropicException - thinking: Extra inputs are not permitted", None),
    ("output_config.effort: This model does not support the effort parameter.", None),
    ("litellm.BadRequestError: GeminiException - Thinking level is not supported for this model.", None),
    ('GeminiException - {"error": {"code": 400, "message": "Unknown name \\"thinkingConfig\\""}}', None),
]
STORE = [
    ("Cannot keep responses: zero data retention", "store"),
    ("Input should be False", "store"),
    ("The `store` parameter must be false for organizations with Zero Data Retention enabled.", None),
    ("store=true is not allowed for ZDR organizations", None),
    ("Storing responses is disabled for this project", None),
    ("litellm.UnsupportedParamsError: azure does not support parameters: {'store': True}, for model=x", None),
    (f'{OFFICIAL}{{"error": {{"message": "Unsupported", "param": "store", "code": "x"}}}}', None),
    ("'store' is not permitted with reasoning models", "store"),
]
NEITHER = [
    ("Unsupported value: 'high' is not supported with this model.", "text.verbosity"),
    ("Vector store not found: unknown", None),
    ("Unknown vector_store 'x'", None),
    ("Previous response cannot be used for this organization due to Zero Data Retention.", "previous_response_id"),
    ("Item 'rs_1' of type 'reasoning' was provided without its following item.", "input"),
    ("max_tokens is odd", "max_tokens"),
]


@pytest.mark.parametrize("status", [400, 422])
def test_the_message_of_a_refusal(status: int) -> None:
    for cases, kind in (
        (REASONING, ErrorKind.UNSUPPORTED_REASONING),
        (STORE, ErrorKind.UNSUPPORTED_STORE),
        (NEITHER, ErrorKind.BAD_REQUEST),
    ):
        for message, param in cases:
            body = {"error": {"message": message, "param": param, "code": str(status)}}
            assert row_of(read_report(body, status, "application/json")).kind is kind, message


def decisions(server: ScriptedServer, command: RunCommand) -> list[Any]:
    """Return everything that depends on an error: exit codes, retries, the relay's codes, the rest of a conversation.

    The last poll returns a complete response, which separates callers that keep polling from those that give up.
    """
    made: list[Any] = []
    for answer, _ in WIRE:
        for arguments in (["hi"], ["--api", "responses", "hi"], ["--retrieve", "resp_1", "--wait", "--timeout", "30"]):
            waits = "--wait" in arguments
            if waits and answer.drop:
                continue
            server.seen.clear()
            server.answers(*[answer] * 10, reply(response_body("OK"))) if waits else server.answers(answer)
            run = command(*arguments)
            made.append((run.code, [seen.path for seen in server.seen]))
        server.answers(answer)
        with LiteLLMClient(server.url, KEY, timeout=5) as client:
            for call in (replies.submit_failed, replies.poll_failed):
                try:
                    client.openai.with_options(max_retries=0, timeout=5).responses.create(model="m", input="hi")
                except Exception as failure:
                    made.append(meaning(call, failure))
    return made


def meaning(call: Callable[[Exception], object], failure: Exception) -> Any:
    told = call(failure)
    return type(told).__name__, {name: value for name, value in vars(told).items() if name != "delay"}


@pytest.mark.usefixtures("quick_retries")
def test_no_decision_depends_on_the_message(
    configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = decisions(configured, command)
    assert {(code, len(paths)) for code, paths in before if isinstance(code, int)} >= {(1, 1), (1, 2), (0, 11)}
    reworded = [row._replace(cause=f"row {n}", hint=f"hint {n}") for n, row in enumerate(error_table.ROWS)]
    monkeypatch.setattr(error_table, "ROWS", reworded)
    configured.answers(error(403, "nope"))
    assert "row " in command("hi").err
    assert decisions(configured, command) == before


@pytest.mark.parametrize("words", [CONVERTING, "Unable to get json response - "])
def test_a_response_unreadable_to_the_gateway_counts_as_executed(words: str, gateway: ScriptedServer) -> None:
    gateway.answers(error(422, f"litellm.BadRequestError: GeminiException - {words}Expecting value: line 1"))
    with LiteLLMClient(gateway.url, KEY, timeout=10) as client:
        with pytest.raises(GatewayError, match="the outcome is unknown") as caught:
            client.create_response("hi")
        assert caught.value.outcome_unknown
        with pytest.raises(openai.APIStatusError) as raw:
            client.openai.responses.create(model="m", input="hi")
    assert isinstance(replies.submit_failed(raw.value), replies.OutcomeUnknown)


REQUEST = httpx.Request("POST", "http://127.0.0.1/v1/responses")
OURS: list[Exception] = [
    GatewayError("boo", kind=ErrorKind.BUDGET, status=400, support_ids={"a": "b"}, hint="h", retry_after=2.0),
    CutShortError("cut", text="paid text", raw="{}", response_id="resp_1"),
    StillRunningError("runs", response_id="resp_1"),
    ResearchRunningError("runs", invocation_id="inv_1", invocation_token="tok_1"),
    ResearchUnconfirmedError("lost", idempotency_key="k", arguments={"research_question": "Why?"}),
    RelayError("boo", status=500, code="x"),
    LostAnswerError("lost", REQUEST, outcome_unknown=True),
    DeadlineExceededError("late", REQUEST, outcome_unknown=True),
    UnusableSettingError("LITELLM_API_KEY"),
    replies.Refused("gateway_key_rejected"),
    replies.NotSent(3.0),
]


@pytest.mark.parametrize("ours", OURS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("carry", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_errors_can_be_pickled_and_copied(ours: Exception, carry: Callable[[Exception], Exception]) -> None:
    carried = carry(ours)
    assert type(carried) is type(ours)
    assert str(carried) == str(ours)
    facts = {name: value for name, value in vars(ours).items() if name != "request"}
    assert {name: value for name, value in vars(carried).items() if name != "request"} == facts


def _fail() -> None:
    raise CutShortError("cut", text="paid text", raw="{}", response_id="resp_1")


def test_a_paid_text_survives_a_process_pool() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(CutShortError) as caught:
        pool.submit(_fail).result(60)
    assert (caught.value.text, caught.value.response_id, caught.value.kind) == ("paid text", "resp_1", "cut_short")


def _no_key() -> str:
    raise ValueError("the vault is closed")


@pytest.mark.parametrize("mistake", ["key", "infinite"])
def test_a_programming_error_is_not_turned_into_a_gateway_error(mistake: str, gateway: ScriptedServer) -> None:
    gateway.answers(reply(response_body("OK")))
    key: Any = _no_key if mistake == "key" else KEY
    tools = [{"type": "web_search_preview", "x": float("inf")}] if mistake == "infinite" else None
    with LiteLLMClient(gateway.url, key) as client, pytest.raises(ValueError, match=r"vault|JSON") as caught:
        client.create_response("hi", tools=tools)
    assert not isinstance(caught.value, GatewayError)
    assert gateway.seen == []
