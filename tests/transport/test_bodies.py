"""Bodies are bounded while they are read, and the readable part of a too large one is kept."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from litellm_openai_example import AsyncLiteLLM, CutShortError, ErrorKind, GatewayError, LiteLLM, LiteLLMClient
from litellm_openai_example.config import GatewaySettings
from litellm_openai_example.relay.engine.upstream import Upstream
from litellm_openai_example.transport import bodies

from ..fakes.raw import RawServer
from ..fakes.scripted import KEY, Answer, ScriptedServer, chat_body, chat_events, reply, response_body, sse

LIMIT = 10_000
TOO_LARGE = "the answer is larger than"


@pytest.fixture
def client(gateway: ScriptedServer) -> Iterator[LiteLLMClient]:
    with LiteLLMClient(gateway.url, KEY, max_answer=LIMIT) as client:
        yield client


def bulky(text: str = "the report") -> bytes:
    """Return a response with its text first, followed by endless logs."""
    whole = response_body(text)
    whole["output"].append({"type": "code_interpreter_call", "outputs": [{"type": "logs", "logs": "x" * 3 * LIMIT}]})
    return json.dumps(whole).encode()


def packed(body: bytes, encoding: str = "gzip") -> Answer:
    content = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    return Answer(200, content, {"content-type": "application/json", "content-encoding": encoding})


@pytest.mark.parametrize("answer", [reply(bulky()), packed(bulky()), packed(bulky(), "deflate")])
def test_the_text_of_a_too_large_answer_is_kept(answer: Answer, client: LiteLLMClient, gateway: ScriptedServer) -> None:
    gateway.answers(answer)
    with pytest.raises(CutShortError, match=TOO_LARGE) as caught:
        client.create_response("hi")
    assert (caught.value.text, caught.value.response_id) == ("the report", "resp_1")


def test_a_false_content_length_does_not_bypass_the_limit(raw_gateway: RawServer) -> None:
    body = bulky()
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    headers = {"content-type": "application/json", "transfer-encoding": "chunked", "content-length": "9"}
    raw_gateway.answers(Answer(200, chunks, headers))
    with LiteLLMClient(raw_gateway.url, KEY, max_answer=LIMIT) as client, pytest.raises(CutShortError) as caught:
        client.create_response("hi")
    assert caught.value.text == "the report"


def test_a_too_large_answer_without_text_is_an_error(client: LiteLLMClient, gateway: ScriptedServer) -> None:
    for answer in (reply({"x": "y" * 2 * LIMIT, **chat_body("late")}), packed(b" " * 50_000_000)):
        gateway.answers(answer)
        with pytest.raises(GatewayError) as caught:
            client.create_chat_completion("hi")
        assert caught.value.kind in (ErrorKind.ANSWER_TOO_LARGE, ErrorKind.UNREADABLE)


def test_a_gzip_answer_with_several_members(client: LiteLLMClient, gateway: ScriptedServer) -> None:
    body = json.dumps(chat_body("OK")).encode()
    members = gzip.compress(body[:20]) + gzip.compress(body[20:])
    gateway.answers(Answer(200, members, {"content-type": "application/json", "content-encoding": "gzip"}))
    assert client.create_chat_completion("hi") == "OK"


@pytest.mark.parametrize("kind", ["one event", "many events"])
def test_a_stream_is_bounded(kind: str, client: LiteLLMClient, gateway: ScriptedServer) -> None:
    endless = [b"data: " + b"x" * 100 * LIMIT] if kind == "one event" else [b": ping\n\n" * LIMIT] * 20
    gateway.answers(sse(*chat_events("Hel", reason=None), *endless))
    stream = client.stream_chat_completion("hi")
    with pytest.raises(CutShortError, match="larger than") as caught:
        list(stream)
    assert caught.value.text == "Hel"


def test_a_drop_in_client_reads_everything(gateway: ScriptedServer) -> None:
    gateway.answers(packed(bulky()))
    with LiteLLM(base_url=gateway.url, api_key=KEY) as sdk:
        assert len(sdk.responses.create(model="m", input="hi").to_json()) > 3 * LIMIT

    async def use() -> None:
        async with AsyncLiteLLM(base_url=gateway.url, api_key=KEY, max_answer=LIMIT) as limited:
            with pytest.raises((openai.OpenAIError, ValueError)):
                await limited.responses.create(model="m", input="hi")
        async with AsyncLiteLLM(base_url=gateway.url, api_key=KEY) as sdk:
            assert (await sdk.responses.create(model="m", input="hi")).output_text == "the report"

    asyncio.run(use())


def test_the_relay_keeps_the_text_within_the_limit(gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litellm_openai_example.relay.engine.upstream.MAX_ANSWER", LIMIT)

    async def look() -> Any:
        upstream = Upstream(GatewaySettings(f"{gateway.url}/v1", KEY), longest=1000)
        try:
            return await upstream.retrieve("resp_1", timeout=10)
        finally:
            await upstream.close()

    gateway.answers(reply(bulky()))
    outcome = asyncio.run(look()).outcome
    assert (outcome.state, outcome.error_code, outcome.output_text) == ("incomplete", "output_too_large", "the report")


@pytest.mark.parametrize("where", ["chat", "response", "stream"])
def test_a_huge_number_does_not_cost_the_text(where: str, client: LiteLLMClient, gateway: ScriptedServer) -> None:
    digits = "7" * 5000
    if where == "stream":
        event = json.dumps(chat_events("OK")[0])[:-1] + f', "created": {digits}}}'
        gateway.answers(sse(f"data: {event}\n\n".encode(), *chat_events()))
        assert "".join(client.stream_chat_completion("hi")) == "OK"
        return
    body = json.dumps(chat_body("OK") if where == "chat" else response_body("OK"))
    gateway.answers(reply((body[:-1] + f', "created_at": {digits}}}').encode()))
    assert (client.create_chat_completion("hi") if where == "chat" else client.create_response("hi")) == "OK"


HUGE = """
import gzip, sys
sys.path.insert(0, {here!r})
from tests.fakes.raw import RawServer
from tests.fakes.scripted import *
from litellm_openai_example import LiteLLMClient, GatewayError
import resource
packed = bytearray()
import zlib
c = zlib.compressobj(9, zlib.DEFLATED, 31)
packed += c.compress(b'{{"x": "')
for _ in range(300): packed += c.compress(b"y" * 2**20)
packed += c.compress(b'"}}') + c.flush()
with RawServer() as server, LiteLLMClient(server.url, KEY, timeout=60) as client:
    server.answers(Answer(200, bytes(packed), {{"content-type": "application/json", "content-encoding": "gzip"}}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try: client.create_response("hi")
    except GatewayError as error: print(error.kind, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_decompression_bomb_uses_bounded_memory(pytestconfig: pytest.Config) -> None:
    code = HUGE.format(here=str(pytestconfig.rootpath))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    kind, kilobytes = run.stdout.split()
    assert kind == "answer_too_large"
    assert int(kilobytes) < 6 * bodies.MAX_ANSWER / 1024
