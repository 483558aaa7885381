"""The clients of the library: prompts in, replies out, with one deadline for each call.

Longer than other files, because every signature stands here twice, so that editors complete both clients. A new field
of the API needs no new signature: each method passes fields that it does not name through `**fields`.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from openai import DefaultAsyncHttpxClient, DefaultHttpxClient, Timeout

from .attachments import ApiName, content_of
from .calls import requests
from .calls.reply import RawResponse, Reply
from .calls.requests import (
    APIS,
    CHAT,
    RESPONSES,
    Api,
    Tools,
    chat_request,
    check_prompt,
    check_response_id,
    further,
    response_request,
)
from .calls.steps import Operation, awaitable, run, run_async
from .calls.streams import AsyncTextStream, StreamReader, TextStream
from .config import DEFAULT_MODEL, DEFAULT_TIMEOUT, gateway_settings
from .errors import GatewayError
from .json_object import JsonObject
from .payer import SESSION_HEADER, Payer, resolve_payer
from .sdk import NO_PLATFORM, AsyncLiteLLM, LiteLLM, SDKOptions
from .transport.bodies import MAX_ANSWER
from .transport.policy import deadline
from .window import WINDOWS, Window, as_window

if TYPE_CHECKING:
    from .many import AskedReply, Unanswered
    from .research.conversation import Conversation, ToolCallingResult
    from .research.relay_calls import RelayCalls

P = ParamSpec("P")
T = TypeVar("T")
SDK = TypeVar("SDK", LiteLLM, AsyncLiteLLM)
Http = TypeVar("Http")
Files = Sequence[str | os.PathLike[str]]


# The deadline ends the retries. This bounds them for a call without a deadline.
_MAX_RETRIES = 10


class ClientOptions(SDKOptions, total=False):
    """The options of `LiteLLM` that a client passes on."""

    max_retries: int
    retry_server_errors: bool
    max_answer: int | None
    payer: Payer


class EnvironmentOptions(ClientOptions, total=False):
    """The options of `from_env`."""

    model: str
    timeout: float | None
    tags: Iterable[str] | None
    end_user: str | None
    http_client: Any


class _Client(Generic[SDK, Http]):
    """The arguments of both clients, checked and turned into requests."""

    openai: SDK
    _sdk_type: Callable[..., SDK]

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str = DEFAULT_MODEL,
        timeout: float | None = DEFAULT_TIMEOUT,
        *,
        tags: Iterable[str] | None = None,
        end_user: str | None = None,
        http_client: Http | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        self._payer = options.get("payer") or resolve_payer(tags, end_user)
        self.model = check_prompt(model, "model name")
        self.timeout = check_timeout(timeout)
        self.openai = self._sdk_type(
            http_client=http_client, base_url=base_url, api_key=api_key, **_sdk_options(options, self._payer)
        )

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ, **options: Unpack[EnvironmentOptions]) -> Self:
        """Return a client from `LITELLM_BASE_URL`, `LITELLM_API_KEY` and `LITELLM_MODEL`; options win over them."""
        settings = gateway_settings(env)
        given: dict[str, Any] = {"base_url": settings.base_url, "api_key": settings.api_key, "model": settings.model}
        return cls(**{**given, **options})

    def __repr__(self) -> str:
        name, url = type(self).__name__, str(self.openai.base_url)
        return f"{name}(base_url={url!r}, model={self.model!r}, timeout={self.timeout!r})"

    def _seconds(self, timeout: float | None) -> float | None:
        return self.timeout if timeout is None else check_timeout(timeout)

    def _model(self, model: str | None) -> str:
        return self.model if model is None else check_prompt(model, "model name")

    def _content(self, prompt: str, files: Files, api: ApiName) -> str | list[JsonObject]:
        checked = check_prompt(prompt)
        return content_of(checked, files, api) if files != () else checked

    def _chat(
        self,
        prompt: str,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        **fields: object,
    ) -> JsonObject:
        return chat_request(self._model(model), self._content(prompt, files, "chat"), instructions, fields)

    def _response(
        self,
        prompt: str,
        background: bool = False,
        tools: Tools | None = None,
        previous_response_id: str | None = None,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        **fields: object,
    ) -> JsonObject:
        if previous_response_id is not None:
            check_response_id(previous_response_id)
        return response_request(
            self._model(model),
            self._content(prompt, files, "responses"),
            tools=tools,
            previous_response_id=previous_response_id,
            instructions=instructions,
            background=background,
            fields=fields,
        )

    def _request(self, api: ApiName, prompt: str, arguments: Mapping[str, Any]) -> JsonObject:
        if "timeout" in arguments:
            raise ValueError("timeout is an argument of ask_all, for each of its questions")
        make = self._chat if api == "chat" else self._response
        try:
            return make(prompt, **arguments)
        except TypeError as error:
            raise ValueError(str(error)) from None


class LiteLLMClient(_Client[LiteLLM, DefaultHttpxClient]):
    """Blocking calls to a LiteLLM gateway.

    Args:
        base_url: the gateway's root or `/v1`; otherwise `LITELLM_BASE_URL`.
        api_key: a gateway key; otherwise `LITELLM_API_KEY`.
        model: the model of every call.
        timeout: seconds that a whole call may take, retries and polling included; None for no limit. Each method
            accepts a `timeout` for its call, too.
        tags: tags for the gateway's cost reports; otherwise `LITELLM_TAGS`, separated by commas.
        end_user: the user on whose behalf the calls are made; otherwise `LITELLM_END_USER`.
        http_client: as for `LiteLLM`.
        **options: the other options of `LiteLLM`.

    `chat`, `respond` and `wait` return a `Reply`: the text with usage, cost and sources. `stream_chat_completion` and
    `stream_response` yield the text in pieces and have the reply at the end. `create_chat_completion` and
    `create_response` return the text alone.

    Every create method accepts `model`, `timeout` (seconds) and any further field of the API's create call, such as
    `temperature`, `reasoning` or `metadata`; it refuses the fields that it sets itself. Most accept `files`, paths of
    texts, images and PDFs that go with the prompt (see `file_part`).

    Every method raises `GatewayError` if the call fails, its subclass `CutShortError` (with `text`) if the answer is
    incomplete, its subclass `StillRunningError` (with `response_id`) if the deadline passes while background work
    continues, and `ValueError` for an argument that cannot be sent (`OSError` for a file that cannot be read).
    """

    _sdk_type = LiteLLM

    def run(self, operation: Operation[T], timeout: float | None = None, session_id: str = "") -> T:
        """Run an operation of this package within `timeout` seconds, with its calls in one session.

        The nearer deadline wins if another one encloses the call.
        """
        with closing(operation), deadline(self._seconds(timeout)):
            return run(_sdk_of(self.openai, session_id), operation)

    def create_chat_completion(self, /, prompt: str, *, timeout: float | None = None, **options: Any) -> str:
        """Return the text of a chat completion. Accepts the arguments of `chat`."""
        return self.run(_text(requests.create, CHAT, self._chat(prompt, **options)), timeout)

    def chat(
        self,
        /,
        prompt: str,
        *,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> Reply:
        """Return the reply to a chat completion. If the model calls functions, it may have `calls` and no text."""
        request = self._chat(prompt, instructions, model, files, **fields)
        return self.run(requests.create(CHAT, request, may_call=True), timeout)

    def create_response(
        self,
        /,
        prompt: str,
        background: bool = False,
        tools: Tools | None = None,
        previous_response_id: str | None = None,
        instructions: str | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> str:
        """Return the text of a response, or the JSON of a background one. Accepts the arguments of `respond`."""
        request = self._response(prompt, background, tools, previous_response_id, instructions, **options)
        # A background response has no text yet; its JSON has the id.
        return self.run((_raw if background else _text)(requests.create, RESPONSES, request), timeout)

    def respond(
        self,
        /,
        prompt: str,
        *,
        background: bool = False,
        tools: Tools | None = None,
        previous_response_id: str | None = None,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> Reply:
        """Return the reply to a response. If the model calls functions, it may have `calls` and no text.

        With `background` it is the reply to the submit; pass its `id` to `wait`.
        """
        request = self._response(prompt, background, tools, previous_response_id, instructions, model, files, **fields)
        return self.run(requests.create(RESPONSES, request, may_call=True), timeout)

    def stream_chat_completion(
        self,
        /,
        prompt: str,
        *,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> TextStream:
        """Return a stream of the text of a chat completion; at its end, `reply` has usage, cost and sources."""
        return self._stream(CHAT, self._chat(prompt, instructions, model, files, **fields), timeout)

    def stream_response(
        self,
        /,
        prompt: str,
        tools: Tools | None = None,
        previous_response_id: str | None = None,
        instructions: str | None = None,
        *,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> TextStream:
        """Return a stream of the text of a response; at its end, `reply` has usage, cost and sources."""
        request = self._response(prompt, False, tools, previous_response_id, instructions, model, files, **fields)
        return self._stream(RESPONSES, request, timeout)

    def wait(
        self,
        response_id: str | None,
        timeout: float | None = None,
        *,
        on_status: Callable[[str], None] | None = None,
        window: Window | None = None,
    ) -> Reply:
        """Poll a background response until it has ended, and return its reply.

        Args:
            response_id: the `id` of the submit's reply; that of a later reply may not work.
            timeout: seconds to wait at most.
            on_status: called with the status of each poll.
            window: the `completion_window` that the response was submitted with ("2h" or "8h"): it is polled once a
                minute, later once in five.
        """
        operation = requests.wait(check_response_id(response_id), on_status, check_window(window))
        return self.run(operation, timeout)

    def retrieve_response(self, response_id: str, *, timeout: float | None = None) -> str:
        """Return the gateway's JSON of a response in any status."""
        return self.run(_raw(requests.retrieve, check_response_id(response_id)), timeout)

    def cancel_response(self, response_id: str, *, timeout: float | None = None) -> str:
        """Cancel a background response, and return the gateway's JSON of it."""
        return self.run(_raw(requests.cancel, check_response_id(response_id)), timeout)

    def create_response_with_tool_calling(
        self,
        /,
        prompt: str,
        relay_base_url: str | None = None,
        instructions: str | None = None,
        previous_response_id: str | None = None,
        web_search: bool = False,
        *,
        relay_api_key: str | None = None,
        model: str | None = None,
        timeout: float | None = None,
        window: Window | None = None,
        **fields: object,
    ) -> ToolCallingResult:
        """Answer a prompt for which the model may call deep_research, which a relay runs.

        Args:
            prompt: the question.
            relay_base_url: the relay's root; otherwise `RELAY_BASE_URL` or `http://127.0.0.1:8080`.
            web_search: offer web search as well.
            relay_api_key: the relay's key, if it requires one; otherwise `RELAY_API_KEY`.
            timeout: seconds; a research run takes minutes.
            window: discount window of the research runs ("2h" or "8h"), which may take that long.

        Raises:
            StillRunningError: the deadline passed while a research run continues; its subclass `ResearchRunningError`
                has the invocation's id and token.
            ResearchUnconfirmedError: the deadline passed, or the answer was lost, before the relay confirmed a run;
                `idempotency_key` and `arguments` find it. `others` has the further runs of the same turn.
            GatewayError: the call failed; its `research` is the text of the runs that were paid for before.
        """
        # Here and below: what only this call needs would cost every other one a good part of its start.
        from .research.conversation import Conversation

        if previous_response_id is not None:
            check_response_id(previous_response_id)
        conversation = Conversation(
            self._model(model),
            check_prompt(prompt),
            instructions,
            web_search,
            previous_response_id,
            fields=further(fields, tools="the method (deep_research, and web_search=True)"),
            window=check_window(window),
        )
        return self._converse(conversation, relay_base_url, relay_api_key, timeout)

    def ask_all(
        self,
        /,
        prompts: Iterable[str | Mapping[str, Any]],
        *,
        api: ApiName = "chat",
        jobs: int = 4,
        timeout: float | None = None,
        **options: Any,
    ) -> Iterator[AskedReply]:
        """Ask many questions side by side, and yield the end of each as it comes.

        A rate limit of one slows all of them down. Prompts are taken from the iterable only as they are asked. An error
        of a question is yielded with it, not raised. If the iteration is left early, up to `jobs` calls are under way;
        the asynchronous client, which needs asyncio here, cancels them when the iteration is closed.

        Args:
            prompts: texts, or mappings with `prompt`, `id` and arguments of `chat` or `respond` for this question.
            api: "chat" or "responses". With `background=True` a response is polled to its end.
            jobs: the most questions at a time.
            timeout: seconds for each question.
            options: arguments of `chat` or `respond` for all questions.

        Raises:
            ValueError: an argument of this method is unusable.
        """
        from .many import questions

        # A text is an iterable too, and each of its characters would be asked.
        if isinstance(prompts, str | bytes | Mapping):
            raise ValueError("prompts is an iterable of prompts, not a single one")
        if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
            raise ValueError(f"jobs must be a whole number above 0, not {jobs!r}")
        if api not in APIS:
            raise ValueError(f"api must be one of: {', '.join(APIS)}")
        return self._answers(questions(prompts, options), api, jobs, self._seconds(timeout))

    def _converse(
        self, conversation: Conversation, relay_base_url: str | None, relay_api_key: str | None, timeout: float | None
    ) -> ToolCallingResult:
        from .research.relay_client import RelayClient

        with RelayClient(relay_base_url, relay_api_key, payer=conversation.run_payer(self._payer)) as relay:
            return self.run(_with_tools(conversation, relay), timeout, conversation.session_id)

    def _answers(
        self, asked: Iterator[Unanswered], api: ApiName, jobs: int, seconds: float | None
    ) -> Iterator[AskedReply]:
        from .many import Pace, Threads, ask

        pace = Pace(jobs)

        def answer(asked: AskedReply, arguments: Mapping[str, Any]) -> AskedReply:
            try:
                request = self._request(api, asked.prompt, arguments)
                return replace(asked, reply=self.run(ask(APIS[api], request, pace), seconds))
            except (GatewayError, ValueError, OSError) as error:
                return replace(asked, error=error)

        return chain.from_iterable(Threads((partial(answer, *one) for one in asked), jobs))

    def _stream(self, api: Api, request: JsonObject, timeout: float | None) -> TextStream:
        return text_stream(self, api, request, timeout)

    def close(self) -> None:
        """Close the connections."""
        self.openai.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# The asynchronous client has the methods of the blocking one, whose signatures type checkers and editors keep. They
# call `run`, `_stream`, `_converse` and `_answers`, of which each client has its own.


def _streaming(
    method: Callable[Concatenate[LiteLLMClient, P], TextStream],
) -> Callable[Concatenate[AsyncLiteLLMClient, P], AsyncTextStream]:
    of_either: Any = method
    return of_either  # type: ignore[no-any-return]


def _generating(
    method: Callable[Concatenate[LiteLLMClient, P], Iterator[T]],
) -> Callable[Concatenate[AsyncLiteLLMClient, P], AsyncGenerator[T]]:
    of_either: Any = method
    return of_either  # type: ignore[no-any-return]


class AsyncLiteLLMClient(_Client[AsyncLiteLLM, DefaultAsyncHttpxClient]):
    """Asynchronous calls to a LiteLLM gateway, with the methods of `LiteLLMClient`."""

    _sdk_type = AsyncLiteLLM

    async def run(self, operation: Operation[T], timeout: float | None = None, session_id: str = "") -> T:
        """See `LiteLLMClient.run`."""
        with closing(operation), deadline(self._seconds(timeout)):
            return await run_async(_sdk_of(self.openai, session_id), operation)

    create_chat_completion = awaitable(LiteLLMClient.create_chat_completion)
    chat = awaitable(LiteLLMClient.chat)
    create_response = awaitable(LiteLLMClient.create_response)
    respond = awaitable(LiteLLMClient.respond)
    wait = awaitable(LiteLLMClient.wait)
    retrieve_response = awaitable(LiteLLMClient.retrieve_response)
    cancel_response = awaitable(LiteLLMClient.cancel_response)
    stream_chat_completion = _streaming(LiteLLMClient.stream_chat_completion)
    stream_response = _streaming(LiteLLMClient.stream_response)
    create_response_with_tool_calling = awaitable(LiteLLMClient.create_response_with_tool_calling)
    ask_all = _generating(LiteLLMClient.ask_all)

    async def _converse(
        self, conversation: Conversation, relay_base_url: str | None, relay_api_key: str | None, timeout: float | None
    ) -> ToolCallingResult:
        from .research.relay_client import AsyncRelayClient

        async with AsyncRelayClient(relay_base_url, relay_api_key, payer=conversation.run_payer(self._payer)) as relay:
            return await self.run(_with_tools(conversation, relay), timeout, conversation.session_id)

    def _answers(
        self, asked: Iterator[Unanswered], api: ApiName, jobs: int, seconds: float | None
    ) -> AsyncGenerator[AskedReply]:
        from .many import Pace, ask, in_tasks

        pace = Pace(jobs)

        async def answer(asked: AskedReply, arguments: Mapping[str, Any]) -> AskedReply:
            try:
                request = self._request(api, asked.prompt, arguments)
                return replace(asked, reply=await self.run(ask(APIS[api], request, pace), seconds))
            except (GatewayError, ValueError, OSError) as error:
                return replace(asked, error=error)

        return in_tasks((partial(answer, *one) for one in asked), jobs)

    def _stream(self, api: Api, request: JsonObject, timeout: float | None) -> AsyncTextStream:
        # Deferred to the stream: this method is no coroutine, and cannot await the request.
        async def open_() -> tuple[RawResponse, StreamReader]:
            raw = await self.run(requests.open_stream(api, request), timeout)
            return raw, StreamReader(raw, api.accumulator(), self.openai.api_key)

        return AsyncTextStream(open_)

    async def close(self) -> None:
        """Close the connections."""
        await self.openai.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def text_stream(client: LiteLLMClient, api: Api, request: JsonObject, timeout: float | None = None) -> TextStream:
    """Send a request, and return its answer as a stream of text."""
    opened = client.run(requests.open_stream(api, request), timeout)
    return TextStream(opened, StreamReader(opened, api.accumulator(), client.openai.api_key))


async def _text(operation: Callable[..., Operation[Reply]], *arguments: Any) -> str:
    return (await operation(*arguments)).text


async def _raw(operation: Callable[..., Operation[Reply]], *arguments: Any) -> str:
    return (await operation(*arguments)).raw


async def _with_tools(conversation: Conversation, relay: RelayCalls) -> ToolCallingResult:
    from .research.loop import converse, research_through

    await relay.check_operation()  # before the first call that costs money
    return await converse(conversation, research_through(relay))


def check_timeout(seconds: float | None) -> float | None:
    """Return `seconds` if it is a usable timeout: None (no limit) or a finite number above 0.

    Raises:
        ValueError: it is not.
    """
    if seconds is None:
        return None
    # A bool is an int to Python, but hardly meant as seconds.
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"the timeout must be a finite number of seconds above 0, not {seconds!r}")
    return float(seconds)


def check_window(window: object) -> Window | None:
    """Return `window` if it is None or a discount window. Raise ValueError otherwise."""
    if window is not None and as_window(window) is None:
        raise ValueError(f"the window must be one of {', '.join(WINDOWS)}, not {window!r}")
    return as_window(window)


def _sdk_options(options: ClientOptions, payer: Payer) -> dict[str, Any]:
    # The deadline of the call bounds its reads; a timeout for each one would cut slow answers off.
    ours = {"timeout": Timeout(None, connect=5.0), "max_retries": _MAX_RETRIES, "max_answer": MAX_ANSWER}
    headers = {**NO_PLATFORM, **(options.get("default_headers") or {})}
    return {**ours, "payer": payer, **options, "default_headers": headers}


def _sdk_of(sdk: T, session_id: str) -> T:
    """Return `sdk` with a session header, for the gateway's cost report of these calls."""
    if not session_id:
        return sdk
    # The copy shares the HTTP client, so the calls of a session reuse its connections.
    made: T = sdk.with_options(default_headers={SESSION_HEADER: session_id})  # type: ignore[attr-defined]
    return made
