"""The fault table: the answers that a gateway may give to each API, and the command's end for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from .cli.running import NOT_SEARCHED
from .conftest import RunCommand
from .fakes.scripted import (
    KEY,
    Answer,
    Json,
    ScriptedServer,
    chat_body,
    chat_events,
    reply,
    response_body,
    response_events,
    sse,
    zipped,
)
from .fakes.served import FakeGateway

MODES = {
    "chat": [],
    "responses": ["--api", "responses"],
    "background": ["--api", "responses", "--background"],
    "web search": ["--api", "responses", "--web-search"],
}
STREAMS = {"chat stream": ["--stream"], "responses stream": ["--api", "responses", "--stream"]}


@dataclass
class Fault:
    """One row: an answer, and the command's end. `out` and `err` are required parts of its output."""

    name: str
    answer: Answer | Callable[[], Answer]
    code: int = 1
    err: str = ""
    out: str = ""
    modes: tuple[str, ...] = ("chat", "responses", "background", "web search")
    posts: int | None = 1
    arguments: list[str] = field(default_factory=list)


def error(status: int, message: object = "boo", type_: object = None, code: object = None, **headers: str) -> Answer:
    return reply({"error": {"message": message, "type": type_, "param": None, "code": code}}, status, **headers)


def provider(status: int, name: str, inner: Json, **headers: str) -> Answer:
    """Return a provider's error as LiteLLM wraps it."""
    message = f"litellm.{name}: {name}: OpenAIException - {json.dumps({'error': inner})}. Received Model Group=gpt-4o"
    return error(status, message, "x", str(status), **headers)


def streamed_as(content_type: str) -> Callable[[], Answer]:
    return lambda: replace(sse(*chat_events("Hi")), headers={"content-type": content_type})


CHAT, RESPONSES = ("chat",), ("responses", "web search")
BOTH = ("chat", "responses", "web search")
NOT_JSON = "cannot be read"
DEEP = b"[" * 200_000

EVERYWHERE = [
    *(
        Fault(f"redirect {status}", reply({}, status, location="http://other.invalid/v1/x"), err=f"HTTP {status}")
        for status in (300, 301, 302, 303, 307, 308)
    ),
    Fault("bad request", error(400, "max_tokens is too large"), err="max_tokens is too large"),
    Fault("wrong key, no database", error(400, "No connected db.", "no_db_connection", "400"), err="LITELLM_API_KEY"),
    Fault("wrong key, database", error(401, "Invalid proxy server token", "token_not_found_in_db"), err="not know this key"),
    Fault("missing key", error(401, "No api key passed in.", "auth_error", "401"), err="does not accept this key"),
    Fault("wrong key, no prisma", Answer(500, b"Internal Server Error", {"content-type": "text/plain"}),
          err="check LITELLM_API_KEY"),
    Fault("the gateway quotes the key", error(401, f"Received API Key = {KEY}"), err="[key]"),
    Fault("provider key", provider(401, "AuthenticationError", {"message": "bad", "code": "invalid_api_key"}),
          err="invalid_api_key"),
    Fault("unknown model", error(400, "Invalid model name passed in model=gpt-4o"), err="no such model"),
    Fault("budget", error(400, "Budget has been exceeded! Current cost: 3"), err="budget of this key is spent"),
    Fault("payment", error(402), err="HTTP 402"),
    Fault("forbidden", error(403, "nope"), err="does not permit"),
    Fault("wrong path", reply({"detail": "Not Found"}, 404), err="LITELLM_BASE_URL"),
    Fault("not found, HTML", Answer(404, b"<html>404</html>", {"content-type": "text/html"}), err="HTTP 404"),
    Fault("method not allowed", reply({"detail": "Method Not Allowed"}, 405), err="HTTP 405"),
    Fault("provider timeout", error(408), err="the outcome is unknown"),
    Fault("conflict", error(409), err="HTTP 409"),
    Fault("too large", Answer(413, b"", {}), err="too large"),
    Fault("unprocessable", reply({"detail": [{"loc": ["body"], "msg": "field required"}]}, 422), err="field required"),
    Fault("throttled", provider(429, "RateLimitError", {"message": "slow down", "code": "rate_limit_exceeded"},
                                retry_after="60"), err="rate_limit_exceeded"),
    Fault("cooldown", error(429, "No deployments available", "None", "all_deployments_in_cooldown", retry_after="60"),
          err="paused this model"),
    Fault("provider's wish to wait", error(429, **{"llm_provider-retry-after": "60"}), err="retry after 60 s"),
    Fault("server error", error(500), err="the outcome is unknown"),
    Fault("not implemented", error(501), err="the outcome is unknown"),
    Fault("bad gateway, HTML", Answer(502, b"<html>nginx</html>", {"content-type": "text/html"}),
          err="the outcome is unknown"),
    Fault("overloaded", error(503, retry_after="60"), err="HTTP 503"),
    Fault("gateway timeout", Answer(504, b"", {}), err="the outcome is unknown"),
    Fault("web server is down", Answer(521, b"oops", {"content-type": "text/plain"}), err="the outcome is unknown"),
    Fault("error without a message", reply({"error": {}}, 400), err="HTTP 400"),
    Fault("error is a text", reply({"error": "plain words"}, 400), err="plain words"),
    Fault("error is a list", reply({"error": ["a", 1]}, 400), err="HTTP 400"),
    Fault("error is null", reply({"error": None}, 400), err="HTTP 400"),
    Fault("error of wrong types", error(400, {"a": 1}, 7, [1]), err="HTTP 400"),
    Fault("error with escapes", error(400, "\x1b[31mred\x07\r\nnext \x9b"), err="red next"),
    Fault("error of 2 MB", error(400, "long " * 400_000), err="[...]"),
    Fault("empty", reply(b""), err="the answer is empty"),
    Fault("blank", reply(b"  \n"), err="the answer is empty"),
    Fault("HTML with 200", Answer(200, b"<!doctype html><p>hello", {"content-type": "text/html"}), err=NOT_JSON),
    Fault("text with 200", Answer(200, b"hello", {"content-type": "text/plain"}), err=NOT_JSON),
    Fault("truncated JSON", reply(b'{"id": "resp_1", "output": [{"ty'), err=NOT_JSON),
    Fault("not UTF-8", reply(b'{"id": "\xff\xfe"}'), err=NOT_JSON),
    Fault("JSON null", reply(b"null"), err="not a JSON object"),
    Fault("JSON list", reply(b"[]"), err="not a JSON object"),
    Fault("JSON number", reply(b"42"), err="not a JSON object"),
    Fault("JSON text", reply(b'"OK"'), err="not a JSON object"),
    Fault("nested too deeply", reply(DEEP), err=NOT_JSON),
    Fault("200 with an error", reply({"error": {"message": "sorry", "code": "oops"}}), err="sorry"),
    Fault("200 with an error text", reply({"error": "sorry"}), err="sorry"),
    Fault("empty object", reply({})),
    Fault("broken gzip", Answer(200, b"\x1f\x8bno gzip", {"content-type": "application/json", "content-encoding": "gzip"}),
          err="its encoding (gzip) cannot be read"),
    Fault("text said to be gzip", Answer(200, b"no gzip", {"content-type": "text/plain", "content-encoding": "gzip"}),
          err=NOT_JSON),
    Fault("error in an unknown encoding", Answer(400, b"\x1f\x9d\x90", {"content-encoding": "compress"}), err="HTTP 400"),
    Fault("cut body", Answer(200, b'{"id": "resp_1"}' * 10, cut=20), err="the outcome is unknown"),
    Fault("dropped", Answer(drop=True), err="the outcome is unknown"),
    Fault("hangs", Answer(pause=30), err="no complete answer within 0.7 s", arguments=["--timeout", "0.7"]),
    Fault("drips", Answer(200, b" " * 500, drip=0.05), err="no complete answer within 0.7 s",
          arguments=["--timeout", "0.7"]),
    Fault("drips from the first byte", Answer(200, b" " * 500, drip_head=0.05), err="no complete answer within 0.7 s",
          arguments=["--timeout", "0.7"]),
    Fault("429 for ever", error(429), err="HTTP 429", posts=None, arguments=["--timeout", "0.7"]),
]  # fmt: skip

NO_TEXT = "holds no text"
SPECIFIC = [
    Fault("chat: whole", reply(chat_body("Hi")), 0, out="Hi\n", modes=CHAT),
    Fault("chat: emoji and Korean", reply(chat_body("안녕 👩‍🚀")), 0, out="안녕 👩‍🚀\n", modes=CHAT),
    Fault("chat: escapes stay in a pipe", reply(chat_body("\x1b[31mred")), 0, out="\x1b[31mred\n", modes=CHAT),
    Fault("chat: half a surrogate pair", reply(b'{"choices":[{"message":{"content":"a\\ud83d"}}]}'), 0, out="a\\ud83d\n",
          modes=CHAT),
    Fault("chat: 5 MB", reply(chat_body("x" * 5_000_000)), 0, out="x" * 5_000_000 + "\n", modes=CHAT),
    Fault("chat: gzip", zipped(json.dumps(chat_body("Hi")).encode()), 0, out="Hi\n", modes=CHAT),
    Fault("chat: wrong content type", Answer(200, json.dumps(chat_body("Hi")).encode(), {"content-type": "text/plain"}),
          0, out="Hi\n", modes=CHAT),
    Fault("chat: list of parts", reply(chat_body([{"type": "text", "text": "Hi"}, None])), 0, out="Hi\n", modes=CHAT),
    Fault("chat: length", reply(chat_body("Half", "length")), 3, "length limit", "Half\n", modes=CHAT),
    Fault("chat: length, nothing yet", reply(chat_body(None, "length")), 3, "length limit", "", modes=CHAT),
    Fault("chat: content filter", reply(chat_body("Half", "content_filter")), 3, "content filter", "Half\n", modes=CHAT),
    Fault("chat: refusal", reply(chat_body(None, refusal="I will not")), 1, "I will not", modes=CHAT),
    Fault("chat: empty text", reply(chat_body("")), 1, NO_TEXT, modes=CHAT),
    Fault("chat: text null", reply(chat_body(None)), 1, NO_TEXT, modes=CHAT),
    Fault("chat: text a number", reply(chat_body(42)), 0, out="42\n", modes=CHAT),
    Fault("chat: choices null", reply({**chat_body(), "choices": None}), 1, NO_TEXT, modes=CHAT),
    Fault("chat: choices empty", reply({**chat_body(), "choices": []}), 1, NO_TEXT, modes=CHAT),
    Fault("chat: choices of nulls", reply({**chat_body(), "choices": [None]}), 1, NO_TEXT, modes=CHAT),
    Fault("chat: message null", reply({**chat_body(), "choices": [{"message": None}]}), 1, NO_TEXT, modes=CHAT),
    Fault("chat: calls a tool", reply(chat_body(None, "tool_calls", tool_calls=[{"function": {"name": "f"}}, 3])), 1,
          "called a function", modes=CHAT),
    Fault("chat: nulls around", reply({**chat_body("Hi", None), "usage": None, "id": None, "model": None}), 0, "", "Hi\n",
          modes=CHAT),
    Fault("responses: whole", reply(response_body("Hi")), 0, out="Hi\n", modes=RESPONSES),
    Fault("responses: emoji and Korean", reply(response_body("안녕 👩‍🚀")), 0, out="안녕 👩‍🚀\n", modes=RESPONSES),
    Fault("responses: half a surrogate pair", reply(response_body("a\ud83d")), 0, "", "a\\ud83d\n", modes=RESPONSES),
    Fault("responses: nulls around", reply(response_body("Hi", None, usage=None, id=None, model=None)), 0, "", "Hi\n",
          modes=RESPONSES),
    Fault("responses: incomplete", reply(response_body("Half", "incomplete",
          incomplete_details={"reason": "max_output_tokens"})), 3, "length limit", "Half\n", modes=RESPONSES),
    Fault("responses: filtered", reply(response_body("Half", "incomplete",
          incomplete_details={"reason": "content_filter"})), 3, "content filter", "Half\n", modes=RESPONSES),
    Fault("responses: incomplete, no details", reply(response_body("Half", "incomplete")), 3, "cut short", "Half\n",
          modes=RESPONSES),
    Fault("responses: refusal", reply(response_body(None, output=[{"type": "message", "content": [
          {"type": "refusal", "refusal": "I will not"}]}])), 1, "I will not", modes=RESPONSES),
    Fault("responses: failed", reply(response_body(None, "failed", error={"code": "server_error", "message": "boo"})), 1,
          "server_error", modes=(*RESPONSES, "background")),
    Fault("responses: failed, no reason", reply(response_body(None, "failed")), 1, "failed",
          modes=(*RESPONSES, "background")),
    Fault("responses: cancelled", reply(response_body(None, "cancelled")), 1, "cancelled",
          modes=(*RESPONSES, "background")),
    Fault("responses: still queued", reply(response_body(None, "queued")), 1, "queued", modes=RESPONSES),
    Fault("responses: unknown status", reply(response_body("Hi", "pondering")), 3, "pondering", "Hi\n", modes=RESPONSES),
    Fault("responses: status a number", reply(response_body("Hi", 7)), 0, "", "Hi\n", modes=RESPONSES),
    Fault("responses: no text", reply(response_body(None)), 1, NO_TEXT, modes=RESPONSES),
    Fault("responses: text null", reply(response_body([None])), 1, NO_TEXT, modes=RESPONSES),
    Fault("responses: output null", reply(response_body(None, output=None)), 1, NO_TEXT, modes=RESPONSES),
    Fault("responses: output of nulls", reply(response_body(None, output=[None, 1, {"type": "message"}])), 1, NO_TEXT,
          modes=RESPONSES),
    Fault("responses: calls a function", reply(response_body(None, output=[{"type": "function_call", "name": "f"}])), 1,
          "called a function", modes=RESPONSES),
    Fault("background: queued", reply(response_body(None, "queued")), 0, "", '"status": "queued"', modes=("background",)),
    Fault("background: no id", reply(response_body(None, "queued", id=None)), 1, "without an id", modes=("background",)),
    Fault("background: id a number", reply(response_body(None, "queued", id=7)), 1, "without an id",
          modes=("background",)),
    Fault("background: 503 is not repeated", error(503), 1, "the outcome is unknown", modes=("background",)),
    Fault("background: 500 is not repeated", error(500), 1, "the outcome is unknown", modes=("background",)),
]  # fmt: skip

FAILED = {"type": "response.failed", "response": response_body(None, "failed", error={"code": "x1", "message": "boo"})}
STREAMED = [
    Fault("whole", sse(*chat_events("Hel", "lo")), 0, out="Hello\n", modes=("chat stream",)),
    Fault("length", sse(*chat_events("Hel", reason="length")), 3, "length limit", "Hel\n", modes=("chat stream",)),
    Fault("cut", sse(*chat_events("Hel", reason=None), done=False), 3, "before the answer was complete", "Hel\n",
          modes=("chat stream",)),
    Fault("error in the middle", sse(*chat_events("Hel", reason=None), {"error": {"message": "mid", "code": "500"}}), 3,
          "mid", "Hel\n", modes=("chat stream",)),
    Fault("error first", sse({"error": {"message": "at once"}}), 1, "at once", modes=("chat stream",)),
    Fault("broken JSON", sse(*chat_events("Hel", reason=None), b"data: {oops\n\n"), 3, NOT_JSON, "Hel\n",
          modes=("chat stream",)),
    Fault("odd events", sse(None, [], 7, {"choices": [None]}, *chat_events("Hi")), 0, "", "Hi\n", modes=("chat stream",)),
    Fault("plain JSON", reply(chat_body("Hi")), 0, "", "Hi\n", modes=("chat stream",)),
    Fault("events without data", sse(b"retry: 9\n\n", b"event: ping\n\n", b"id: 7\n\n", b"data:\n\n", *chat_events("Hi")),
          0, "", "Hi\n", modes=("chat stream",)),
    Fault("byte order mark", sse(b"\xef\xbb\xbf", *chat_events("Hi")), 0, "", "Hi\n", modes=("chat stream",)),
    Fault("error by its name alone", sse(*chat_events("Hel", reason=None), b'event: error\ndata: {"message": "mid"}\n\n'), 3,
          "mid", "Hel\n", modes=("chat stream",)),
    Fault("key in pieces", sse(*chat_events("a", KEY[:9], KEY[9:], "b", KEY[:9])), 0, "", f"a[key]b{KEY[:9]}\n",
          modes=("chat stream",)),
    *(
        Fault(f"content type {content_type}", streamed_as(content_type), 0, "", "Hi\n", modes=("chat stream",))
        for content_type in ("", "text/plain", "Text/Event-Stream;charset=latin-1", "application/octet-stream")
    ),
    Fault("nothing", sse(), 1, "before the answer was complete", modes=("chat stream", "responses stream")),
    Fault("HTML", Answer(200, b"<html>", {"content-type": "text/html"}), 1, NOT_JSON,
          modes=("chat stream", "responses stream")),
    Fault("bad gateway", error(502), 1, "the outcome is unknown", modes=("chat stream", "responses stream")),
    Fault("whole", sse(*response_events("Hel", "lo", end={"type": "response.completed", "response": response_body()})),
          0, "", "Hello\n", modes=("responses stream",)),
    Fault("text in the last event alone",
          sse(*response_events(end={"type": "response.completed", "response": response_body("Hi")})), 0, "", "Hi\n",
          modes=("responses stream",)),
    Fault("the end of the text in the last event alone",
          sse(*response_events("Hel", end={"type": "response.completed", "response": response_body("Hello")})), 0, "",
          "Hello\n", modes=("responses stream",)),
    Fault("types in the names of events alone", sse(b'event: response.output_text.delta\ndata: {"delta": "Hi"}\n\n',
          b'event: response.completed\ndata: {"response": {"id": "resp_1"}}\n\n'), 0, "", "Hi\n", modes=("responses stream",)),
    Fault("cut", sse(*response_events("Hel"), done=False), 3, "before the answer was complete", "Hel\n",
          modes=("responses stream",)),
    Fault("failed at once", sse(*response_events(end=FAILED)), 1, "x1", modes=("responses stream",)),
    Fault("failed in the middle", sse(*response_events("Hel", end=FAILED)), 3, "x1", "Hel\n", modes=("responses stream",)),
    Fault("error event", sse(*response_events("Hel"), {"type": "error", "code": "x2", "message": "mid"}), 3, "x2", "Hel\n",
          modes=("responses stream",)),
    Fault("incomplete", sse(*response_events("Hel", end={"type": "response.incomplete", "response": response_body(
          None, "incomplete", incomplete_details={"reason": "max_output_tokens"})})), 3, "length limit", "Hel\n",
          modes=("responses stream",)),
    Fault("plain JSON", reply(response_body("Hi")), 0, "", "Hi\n", modes=("responses stream",)),
]  # fmt: skip

ROWS = [
    pytest.param(fault, mode, id=f"{fault.name} / {mode}")
    for fault in [*EVERYWHERE, *SPECIFIC, *STREAMED]
    for mode in fault.modes
]


@pytest.mark.parametrize(("fault", "mode"), ROWS)
def test_each_fault_ends_the_command_as_listed(
    fault: Fault, mode: str, configured: ScriptedServer, command: RunCommand
) -> None:
    answer = fault.answer if isinstance(fault.answer, Answer) else fault.answer()
    models = reply({"data": [{"id": "gpt-5"}]})
    configured.script = lambda seen: models if seen.path.endswith("/models") else answer

    run = command(*{**MODES, **STREAMS}[mode], "--timeout", "20", *fault.arguments, "the prompt")

    assert run.code == fault.code, run
    assert fault.err in run.err
    if fault.code in (0, 3) and mode == "background":
        assert fault.out in run.out
    elif fault.code in (0, 3):
        assert run.out == fault.out
    else:
        assert run.out == ""
        assert run.err.count("\n") == 1, run.err
    # A complete answer without any trace of a search gets a notice on stderr.
    assert (run.code == 0) == (run.err in ("", NOT_SEARCHED))
    if fault.posts is not None:
        assert len(configured.posts) == fault.posts


def test_the_table_is_large_enough() -> None:
    assert len({fault.name for fault in [*EVERYWHERE, *SPECIFIC]}) >= 60


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("mode", [*MODES, *STREAMS])
def test_a_redirect_never_gets_the_key(status: int, mode: str, configured: ScriptedServer, command: RunCommand) -> None:
    with FakeGateway() as other:
        configured.answers(reply({}, status, location=f"{other.url}/v1/responses"))
        run = command(*{**MODES, **STREAMS}[mode], "the prompt")
    assert run.code == 1
    assert "127.0.0.1" in run.err
    # The other host saw no request at all, so neither key nor prompt.
    assert other.seen == []
