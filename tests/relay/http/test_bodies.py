"""Bad bodies: refused in bounded time and memory, at no cost, without repeating them; never a 500."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from litellm_openai_example.research.arguments import MAX_TEXT, DeepResearchArguments
from litellm_openai_example.research.contract import INVOCATIONS_PATH, MAX_BODY_BYTES

from ...fakes.gateway import Gateway
from ...tools.chance import FIXED
from ..running import FAST, Json, ThreadedRelay, body, settings

MARK = "words-that-must-not-come-back"


def raw(**arguments: Any) -> bytes:
    return json.dumps(body(**arguments)).encode()


def with_question(json_text: str) -> bytes:
    return b'{"tool_name": "deep_research", "arguments": {"research_question": ' + json_text.encode() + b"}}"


def without(name: str) -> bytes:
    request = body()
    (request if name in request else request["arguments"]).pop(name)
    return json.dumps(request).encode()


BAD: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "blank": (b" \n", 400),
    "no JSON": (f"research_question={MARK}".encode(), 400),
    "cut": (raw()[:-2], 400),
    "trailing": (raw() + MARK.encode(), 400),
    "two documents": (raw() + raw(), 400),
    "single quotes": (str(body(MARK)).encode(), 400),
    "not UTF-8": (raw()[:-2] + b"\xff}}", 400),
    "UTF-16": (raw().decode().encode("utf-16"), 400),
    "a byte order mark": (b"\xef\xbb\xbf" + raw(), 400),
    "NaN": (with_question("NaN"), 400),
    "Infinity": (with_question("-Infinity"), 400),
    "a number out of range": (with_question("1e999"), 400),
    "a huge integer": (with_question("9" * 10_000), 400),
    "a control character": (with_question('"a\nb"'), 400),
    "a name that occurs twice": (with_question('"a", "research_question": "b"'), 400),
    "nested deeply": (with_question("[" * 100 + "]" * 100), 422),
    "nested very deeply": (with_question("[" * 200_000 + "]" * 200_000), 400),
    "null": (b"null", 422),
    "a text": (json.dumps(MARK).encode(), 422),
    "a list": (b"[" + raw() + b"]", 422),
    "nothing in it": (b"{}", 422),
    "no tool": (without("tool_name"), 422),
    "no arguments": (without("arguments"), 422),
    "no question": (without("research_question"), 422),
    "another tool": (raw().replace(b"deep_research", b"shallow_research"), 422),
    "arguments as text": (json.dumps({"tool_name": "deep_research", "arguments": json.dumps({})}).encode(), 422),
    "a misspelt name": (raw(contxt=[MARK]), 422),
    "a name at the wrong place": (json.dumps(body() | {"stream": True}).encode(), 422),
    "a very long name": (raw(**{MARK * 10_000: 1}), 422),
    "a blank question": (json.dumps(body(" \u3000\n")).encode(), 422),
    "an empty question": (json.dumps(body("")).encode(), 422),
    "a question of null": (with_question("null"), 422),
    "a question that is a number": (with_question("7"), 422),
    "a question that is too long": (json.dumps(body("x" * (MAX_TEXT + 1))).encode(), 422),
    "a lone surrogate": (with_question(f'"{MARK}\\ud800"'), 422),
    "a lone surrogate in a name": (raw(**{"\udc00": 1}), 422),
    "NUL": (with_question(f'"{MARK}\\u0000"'), 422),
    "both modes": (raw(background=True, stream=True), 422),
    "a mode that is text": (raw(background="true"), 422),
    "a mode that is a number": (raw(stream=1), 422),
    "another format": (raw(deliverable_format="pdf"), 422),
    "context that is text": (raw(context=MARK), 422),
    "context with a number": (raw(context=[MARK, 7]), 422),
    "context with too many": (raw(context=["x"] * 101), 422),
    "constraints with null": (raw(constraints=[None]), 422),
    "citations that are text": (raw(require_citations="yes"), 422),
    "a system prompt that is a list": (raw(system_prompt=[MARK]), 422),
    "a text format without a type": (raw(text_format={}), 422),
    "a text format of another type": (raw(text_format={"type": "xml"}), 422),
    "a JSON schema without a schema": (raw(text_format={"type": "json_schema", "name": "n"}), 422),
    "a text format that is too large": (raw(text_format={"type": "text", "x": "x" * 70_000}), 422),
    "too large": (json.dumps(body(context=["x" * 90_000] * 12)).encode(), 413),
}


@pytest.mark.parametrize(("content", "status"), BAD.values(), ids=list(BAD))
def test_bad_bodies(relay: ThreadedRelay, upstream: Gateway, content: bytes, status: int) -> None:
    answer = relay.api.call("POST", INVOCATIONS_PATH, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] in ("invalid_json", "invalid_request", "body_too_large")
    assert MARK not in error["message"]
    assert len(answer.content) < 2_000
    assert MARK * 3 not in answer.text
    assert not upstream.posts


@pytest.mark.parametrize(
    ("sent", "where", "hint"),
    [
        (body(contxt=[]), "arguments.contxt", "; did you mean context?"),
        (body(zzz=1), "arguments.zzz", "."),
        (body() | {"stream": True}, "stream", "; did you mean arguments.stream?"),
        (body() | {"argument": {}}, "argument", "; did you mean arguments?"),
        (body(tool_nam="deep_research"), "arguments.tool_nam", "; did you mean tool_name beside arguments?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unknown_name_is_answered_with_the_nearest_known_one(
    relay: ThreadedRelay, sent: Json, where: str, hint: str
) -> None:
    known = DeepResearchArguments.model_fields if "." in where else ("tool_name", "arguments")
    problem = f"is not known here{hint} Known: {', '.join(known)}"
    assert relay.api.post(sent).json()["error"]["details"] == [{"where": where, "problem": problem}]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
    ids=str,
)
def test_other_content_types(relay: ThreadedRelay, upstream: Gateway, headers: dict[str, str]) -> None:
    answer = relay.api.call("POST", INVOCATIONS_PATH, content=raw(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert not upstream.posts


class TestOnTheWire:
    """Bodies that need a raw socket."""

    def connect(self, relay: ThreadedRelay, length: str) -> socket.socket:
        url = urlsplit(relay.api.base_url)
        connection = socket.create_connection((url.hostname or "", url.port or 0), 60)
        head = [f"POST {INVOCATIONS_PATH} HTTP/1.1", f"Host: {url.netloc}", "Content-Type: application/json", length]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        return connection

    def answer(self, connection: socket.socket) -> bytes:
        try:
            return connection.recv(4096)
        except ConnectionResetError:
            return b""

    @pytest.mark.parametrize("chunked", [False, True])
    def test_50_megabytes(self, relay: ThreadedRelay, upstream: Gateway, chunked: bool) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        block = b"x" * 1_000_000
        piece = f"{len(block):x}\r\n".encode() + block + b"\r\n" if chunked else block
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {50 * len(block)}"
        with self.connect(relay, length) as connection:
            sent = 0
            try:
                for _ in range(50):
                    connection.sendall(piece)
                    sent += 1
            except OSError:  # the relay has closed it: it need not read a refused body
                pass
            answer = self.answer(connection)
        assert b" 413 " in answer or (not answer and sent < 50)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KB
        assert not upstream.posts
        assert relay.api.call("GET", "/readyz").status_code == 200

    def test_a_body_dripped_byte_by_byte(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        content = raw()
        with self.connect(relay, f"Content-Length: {len(content)}") as connection:
            began = time.monotonic()
            connection.settimeout(0.1)
            for byte in content:
                connection.sendall(bytes([byte]))
                try:
                    answer = connection.recv(4096)
                    break
                except TimeoutError:
                    assert time.monotonic() - began < 60
        assert b" 408 " in answer
        assert not upstream.posts

    def test_a_body_that_never_ends(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        with self.connect(relay, f"Content-Length: {MAX_BODY_BYTES}") as connection:
            connection.sendall(b'{"tool_name"')
            assert b" 408 " in self.answer(connection)
        with self.connect(relay, "Content-Length: 100") as connection:
            connection.sendall(b"{")
        assert relay.api.call("GET", "/readyz").status_code == 200
        assert not upstream.posts

    @pytest.mark.parametrize(
        "length", ["Content-Length: -1", "Content-Length: abc", "Transfer-Encoding: chunked\r\n\r\nzz"]
    )
    def test_invalid_lengths(self, relay: ThreadedRelay, upstream: Gateway, length: str) -> None:
        with self.connect(relay, length) as connection:
            assert b" 400 " in self.answer(connection)[:30]
        assert not upstream.posts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
OPTIONAL = ("context", "constraints", "system_prompt", "text_format", "deliverable_format", "require_citations")
ARGUMENTS = st.fixed_dictionaries({"research_question": st.text() | JSON}, optional=dict.fromkeys(OPTIONAL, JSON))


@pytest.fixture(scope="module", params=[None, "relay-key"], ids=["no key", "key"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedRelay]:
    gateway = Gateway().start()
    gateway.seconds = 0
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.sqlite3"
    with ThreadedRelay(
        settings(url, gateway, wait=1.0, max_running=200, api_key=request.param, timings=replace(FAST, body=60.0))
    ) as relay:
        yield relay
    gateway.stop()


def headers(relay: ThreadedRelay) -> dict[str, str]:
    key = relay.settings.api_key
    return {"Authorization": f"Bearer {key}"} if key else {}


# The relay draws random numbers too, in another thread.
not_ours = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)


@pytest.mark.fuzz
@not_ours
@given(arguments=ARGUMENTS)
@hypothesis_settings(max_examples=150, deadline=None, derandomize=FIXED, suppress_health_check=list(HealthCheck))
def test_any_arguments(served: ThreadedRelay, arguments: Any) -> None:
    content = json.dumps({"tool_name": "deep_research", "arguments": arguments}).encode()
    sent = {"Content-Type": "application/json", **headers(served)}
    answer = served.api.call("POST", INVOCATIONS_PATH, content=content, headers=sent)
    assert answer.status_code in (200, 202, 400, 422), answer.text


@pytest.mark.fuzz
@not_ours
def test_the_documented_api(served: ThreadedRelay) -> None:
    """Every answer is in `/openapi.json`, for valid and invalid requests."""
    schema = schemathesis.openapi.from_url(f"{served.api.base_url}/openapi.json")
    schema.config.generation.update(allow_x00=False)  # refused in any text, which a schema cannot express
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert {operation.path for operation in operations} >= {INVOCATIONS_PATH, "/healthz", "/readyz"}
    for operation in operations:

        @given(case=operation.as_strategy())
        @hypothesis_settings(max_examples=40, deadline=None, derandomize=FIXED, suppress_health_check=list(HealthCheck))
        def conforms(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(base_url=served.api.base_url, headers=headers(served), timeout=60)

        conforms()
