"""The sending policy: which requests are retried, and the deadline over all attempts."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import openai
import pytest

from litellm_openai_example import (
    AsyncLiteLLM,
    ConfigurationError,
    ErrorKind,
    GatewayError,
    LiteLLM,
    LiteLLMClient,
    LiteLLMHttpxClient,
    error_table,
)
from litellm_openai_example.calls import steps
from litellm_openai_example.errors import UNKNOWN
from litellm_openai_example.http_library import httpx

from ..conftest import RunCommand
from ..fakes.raw import RawServer
from ..fakes.scripted import KEY, Answer, ScriptedServer, Seen, chat_body, free_port, reply
from ..fakes.served import FakeGateway
from .creating import CREATE, OK, Call, both


@both
@pytest.mark.parametrize(
    ("answer", "background"),
    [
        (reply({}, 408), False),
        (reply({}, 500), False),
        (reply({}, 502), False),
        (reply({}, 504), False),
        (reply({}, 520), False),
        (reply({}, 500), True),
        (reply({}, 502), True),
        (reply({}, 503), True),
        (reply({}, 504), True),
        (Answer(drop=True), False),
        (Answer(drop=True), True),
        (Answer(body=b"{}" * 50, cut=3), False),
        (Answer(pause=30), False),
    ],
    ids=lambda value: f"{value.status}-{value.drop}-{value.cut}-{value.pause}" if isinstance(value, Answer) else value,
)
def test_requests_that_may_have_been_executed_are_sent_once(
    create: Call, answer: Answer, background: bool, gateway: ScriptedServer
) -> None:
    gateway.answers(answer)
    with pytest.raises(openai.APIError, match="the outcome is unknown") as caught:
        create(gateway.url, background=background, timeout=1 if answer.pause else 20)
    assert len(gateway.posts) == 1
    assert isinstance(caught.value, openai.APIStatusError | openai.APIConnectionError)
    assert KEY not in str(caught.value) + repr(caught.value)


@both
@pytest.mark.parametrize(
    "first",
    [
        reply({}, 429),
        reply({}, 503),
        reply({}, 429, retry_after="0.2"),
        reply({}, 503, **{"retry-after-ms": "10"}),
        reply({}, 429, **{"llm_provider-retry-after": "0.2"}),
        reply({}, 429, retry_after="nonsense"),
        reply({}, 429, retry_after="-5"),
    ],
    ids=lambda answer: f"{answer.status} {list(answer.headers.items())[1:]}",
)
def test_refused_requests_are_retried(create: Call, first: Answer, gateway: ScriptedServer) -> None:
    gateway.answers(first, OK)
    assert create(gateway.url).output_text == "OK"
    assert len(gateway.posts) == 2


@both
def test_retry_after_is_honoured(create: Call, gateway: ScriptedServer) -> None:
    gateway.answers(reply({}, 429, **{"llm_provider-retry-after": "1"}), OK)
    started = time.monotonic()
    create(gateway.url)
    assert time.monotonic() - started >= 1


@both
@pytest.mark.parametrize("wish", ["60", "1e400", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_wait_beyond_the_deadline_is_not_begun(create: Call, wish: str, gateway: ScriptedServer) -> None:
    gateway.answers(reply({"error": {"message": "later"}}, 429, retry_after=wish))
    with pytest.raises(openai.RateLimitError, match="later"):
        create(gateway.url, timeout=5, max_retries=0 if wish == "1e400" else 4)
    assert len(gateway.posts) == 1


@pytest.mark.parametrize("where", ["sdk", "copy", "http client"])
def test_retry_server_errors_retries_a_500(where: str, gateway: ScriptedServer) -> None:
    gateway.answers(reply({}, 500), reply({}, 500), OK)
    if where == "http client":
        http = LiteLLMHttpxClient(retry_server_errors=True)
        sdk = LiteLLM(base_url=gateway.url, api_key=KEY, http_client=http)
    else:
        sdk = LiteLLM(base_url=gateway.url, api_key=KEY, retry_server_errors=True)
        sdk = sdk.with_options(timeout=20).copy(max_retries=2) if where == "copy" else sdk
    with sdk:
        assert sdk.responses.create(**CREATE).output_text == "OK"
        assert len(gateway.posts) == 3
        gateway.answers(reply({}, 500))
        with pytest.raises(openai.InternalServerError, match="the outcome is unknown"):
            sdk.responses.create(**CREATE, background=True)
        assert len(gateway.posts) == 4


def test_retry_server_errors_retries_a_500_asynchronously(gateway: ScriptedServer) -> None:
    async def create() -> None:
        async with AsyncLiteLLM(base_url=gateway.url, api_key=KEY, retry_server_errors=True) as sdk:
            assert (await sdk.with_options(timeout=9).responses.create(**CREATE)).output_text == "OK"

    gateway.answers(reply({}, 500), OK)
    asyncio.run(create())
    assert len(gateway.posts) == 2


def test_an_unsupported_call_has_a_known_outcome(gateway: ScriptedServer) -> None:
    gateway.answers(reply({"error": {"message": "cancel is not supported for anthropic"}}, 500))
    with LiteLLM(base_url=gateway.url, api_key=KEY) as sdk:
        with pytest.raises(openai.InternalServerError) as caught:
            sdk.responses.cancel("resp_1")
        assert UNKNOWN not in str(caught.value)
        # The error is permanent, so a poll is not retried either.
        with pytest.raises(openai.InternalServerError):
            sdk.responses.retrieve("resp_1")
    assert len(gateway.seen) == 2


def test_permanent_500s_are_in_the_error_table(gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        row._replace(fits=lambda report: report.says("geht nicht")) if row.kind is ErrorKind.NOT_SUPPORTED else row
        for row in error_table.ROWS
    ]
    monkeypatch.setattr(error_table, "ROWS", rows)
    gateway.answers(reply({"error": {"message": "das geht nicht"}}, 500))
    with LiteLLM(base_url=gateway.url, api_key=KEY) as sdk, pytest.raises(openai.InternalServerError):
        sdk.responses.retrieve("resp_1")
    assert len(gateway.seen) == 1


@both
def test_pauses_grow(create: Call, gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []

    def script(_: Seen) -> Answer:
        times.append(time.monotonic())
        return reply({}, 429)

    gateway.script = script
    with pytest.raises(openai.RateLimitError):
        create(gateway.url, max_retries=2)
    first, second = (later - earlier for earlier, later in itertools.pairwise(times))
    assert first >= 0.37
    assert second >= 0.75


def test_an_idle_connection_is_given_up_before_a_server_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request on a connection that is just being closed has an unknown outcome; uvicorn and Node close after 5 s."""
    with RawServer() as server, LiteLLM(base_url=server.url, api_key=KEY) as sdk:
        server.answers(OK)
        sdk.responses.create(**CREATE)
        sdk.responses.create(**CREATE)
        assert server.connections == 1
        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + 4)
        sdk.responses.create(**CREATE)
        assert server.connections == 2


@both
def test_no_retries_means_none(create: Call, gateway: ScriptedServer) -> None:
    gateway.answers(reply({}, 429))
    with pytest.raises(openai.RateLimitError):
        create(gateway.url, max_retries=0)
    assert len(gateway.posts) == 1


@both
def test_the_gateway_is_asked_not_to_retry(create: Call, gateway: ScriptedServer) -> None:
    gateway.answers(OK)
    create(gateway.url)
    assert gateway.posts[0].headers["x-litellm-num-retries"] == "0"
    create(gateway.url, extra_headers={"x-litellm-num-retries": "3"})
    assert gateway.posts[1].headers["x-litellm-num-retries"] == "3"


@both
def test_the_word_background_in_a_prompt_changes_nothing(create: Call, gateway: ScriptedServer) -> None:
    gateway.answers(reply({}, 503), OK)
    create(gateway.url, input='{"background":true}', metadata={"background": "true"})
    assert len(gateway.posts) == 2


def test_a_get_is_retried(gateway: ScriptedServer) -> None:
    gateway.answers(Answer(drop=True), reply({}, 502), reply({}, 500), OK)
    with LiteLLM(base_url=gateway.url, api_key=KEY, max_retries=4) as sdk:
        assert sdk.responses.retrieve("resp_1").output_text == "OK"
    assert len(gateway.seen) == 4
    assert "x-litellm-num-retries" not in gateway.seen[0].headers


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 504])
def test_a_get_is_retried_after(status: int, gateway: ScriptedServer) -> None:
    gateway.answers(reply({}, status), OK)
    with LiteLLM(base_url=gateway.url, api_key=KEY, max_retries=1) as sdk:
        assert sdk.responses.retrieve("resp_1").output_text == "OK"


def test_a_create_is_not_retried_after_a_conflict(gateway: ScriptedServer) -> None:
    gateway.answers(reply({}, 409), OK)
    with LiteLLM(base_url=gateway.url, api_key=KEY, max_retries=1) as sdk, pytest.raises(openai.ConflictError):
        sdk.responses.create(model="m", input="hi")
    assert len(gateway.posts) == 1


@both
def test_failed_connects_are_retried(create: Call, gateway: ScriptedServer) -> None:
    with FakeGateway() as closed:
        url = closed.url
    with pytest.raises(openai.APIConnectionError) as caught:
        create(url)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert UNKNOWN not in str(caught.value)


@pytest.mark.parametrize("change", ["base_url", "absolute path"])
def test_no_key_travels_unencrypted(change: str) -> None:
    sdk = LiteLLM(base_url="https://gateway.invalid", api_key=KEY)
    with pytest.raises(ConfigurationError, match=r"unencrypted to 192\.0\.2\.1") as caught:
        if change == "base_url":
            sdk.base_url = "http://192.0.2.1/v1"
            sdk.responses.create(**CREATE)
        else:
            sdk.get("http://192.0.2.1/v1/models", cast_to=object)
    assert isinstance(caught.value, openai.OpenAIError)


@pytest.mark.parametrize(
    ("answers", "posts", "code"),
    [
        ([Answer(drop=True)], 1, 1),
        ([reply({}, 502)], 1, 1),
        ([reply({}, 504)], 1, 1),
        ([reply({}, 429), reply(chat_body())], 2, 0),
        ([reply({}, 503), reply(chat_body())], 2, 0),
    ],
)
def test_the_command_keeps_the_policy(
    answers: list[Answer], posts: int, code: int, configured: ScriptedServer, command: RunCommand
) -> None:
    configured.answers(*answers)
    assert command("hi").code == code
    assert len(configured.posts) == posts


def test_a_failed_connection_through_a_proxy_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:proxy-pa55word@127.0.0.1:{port}")
    with LiteLLMClient("https://gateway.invalid", KEY, timeout=3) as client, pytest.raises(GatewayError) as caught:
        client.create_response("hi")
    assert f"through the proxy 127.0.0.1:{port}" in str(caught.value)
    assert "pa55word" not in str(caught.value)
    assert caught.value.kind == "unreachable"


def test_threads_of_gathered_calls_do_not_delay_an_interrupt() -> None:
    """An interrupt must not wait for a research run."""

    async def one() -> bool:
        daemon: bool = await steps.call(lambda _: threading.current_thread().daemon)
        return daemon

    async def both_() -> list[object]:
        return await steps.gather([one(), one()])

    assert steps.run(None, both_()) == [True, True]
