"""The few calls that a program needs: prompts in, text out, with one deadline for each call.

Longer than other files, because every signature stands here twice, so that editors complete both clients: half of it is
signatures. A new field of the API needs none of them, for what a method does not name goes through `**fields`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from openai import DefaultAsyncHttpxClient, DefaultHttpxClient, Timeout

from .attachments import content_of
from .calls import calls
from .calls.calls import CHAT, RESPONSES, Api
from .calls.reply import Reply
from .calls.requests import Tools, chat_request, check_prompt, check_response_id, further, response_request
from .calls.steps import run, run_async
from .calls.streams import AsyncTextStream, StreamReader, TextStream
from .config import DEFAULT_MODEL, DEFAULT_TIMEOUT, gateway_settings
from .json_object import JsonObject
from .payer import SESSION_HEADER, Payer, who_pays
from .sdk import NO_PLATFORM, AsyncLiteLLM, LiteLLM, SDKOptions
from .transport.bodies import MAX_ANSWER
from .transport.deadline import deadline
from .transport.raw_response import RawResponse

if TYPE_CHECKING:
    from .research.conversation import Conversation, ToolCallingResult
    from .research.relay_calls import RelayCalls

T = TypeVar("T")
Files = Sequence[str | os.PathLike[str]]

# The deadline ends the retries; this only keeps a loop from being endless where there is no deadline.
_MAX_RETRIES = 10


class ClientOptions(SDKOptions, total=False):
    """The options of `LiteLLM` that a client hands on to it."""

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


class _Client:
    """Arguments in, requests out: what both clients share."""

    def __init__(self, model: str, timeout: float | None, payer: Payer) -> None:
        self.model = check_prompt(model, "model name")
        self.timeout = check_timeout(timeout)
        self._payer = payer

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self._base_url!r}, model={self.model!r}, timeout={self.timeout!r})"

    @property
    def _base_url(self) -> str:
        raise NotImplementedError

    def _seconds(self, timeout: float | None) -> float | None:
        return self.timeout if timeout is None else check_timeout(timeout)

    def _model(self, model: str | None) -> str:
        return self.model if model is None else check_prompt(model, "model name")

    def _chat(
        self, prompt: str, instructions: str | None, files: Files, model: str | None, fields: dict[str, object]
    ) -> JsonObject:
        content = content_of(check_prompt(prompt), files, "chat")
        return chat_request(self._model(model), content, instructions, fields)

    def _response(
        self,
        prompt: str,
        files: Files,
        model: str | None,
        fields: dict[str, object],
        tools: Tools | None,
        previous_response_id: str | None,
        instructions: str | None,
        background: bool = False,
    ) -> JsonObject:
        if previous_response_id is not None:
            check_response_id(previous_response_id)
        content = content_of(check_prompt(prompt), files, "responses")
        return response_request(
            self._model(model),
            content,
            tools=tools,
            previous_response_id=previous_response_id,
            instructions=instructions,
            background=background,
            fields=fields,
        )

    def _conversation(
        self,
        prompt: str,
        instructions: str | None,
        previous_response_id: str | None,
        web_search: bool,
        model: str | None,
        fields: dict[str, object],
    ) -> Conversation:
        # Here and below: what only this call needs would cost every other one a good part of its start.
        from .research.conversation import Conversation

        if previous_response_id is not None:
            check_response_id(previous_response_id)
        return Conversation(
            self._model(model),
            check_prompt(prompt),
            instructions,
            web_search,
            previous_response_id,
            fields=further(fields, tools="the method (deep_research, and web_search=True)"),
        )


class LiteLLMClient(_Client):
    """Blocking calls to a LiteLLM gateway.

    Args:
        base_url: the gateway's root or `/v1`; else `LITELLM_BASE_URL`.
        api_key: a gateway key; else `LITELLM_API_KEY`.
        model: the model of every call.
        timeout: seconds that a whole call may take, retries and polling included; None for no limit. Each method
            takes a `timeout` of its own as well.
        tags: by which the gateway tells what its calls cost apart; else `LITELLM_TAGS`, separated by commas.
        end_user: for whom they are made; else `LITELLM_END_USER`.
        http_client, **options: those of `LiteLLM`.

    Every method that asks takes `model`, `timeout` (seconds) and any further field of the API's create call, such as
    `temperature`, `reasoning` or `metadata`; it refuses those that it sets itself. Most take `files`, paths of texts,
    images and PDFs that go with the prompt (see `file_part`).

    Every method raises `GatewayError` when the call failed, its `CutShortError` (with `text`) when the answer is only
    a part, its `StillRunningError` (with `response_id`) when the deadline passed while background work runs on, and
    `ValueError` for an argument that cannot be sent (`OSError` for a file that cannot be read).
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str = DEFAULT_MODEL,
        timeout: float | None = DEFAULT_TIMEOUT,
        *,
        tags: Iterable[str] | None = None,
        end_user: str | None = None,
        http_client: DefaultHttpxClient | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(model, timeout, who_pays(tags, end_user))
        self.openai = LiteLLM(
            http_client=http_client, base_url=base_url, api_key=api_key, **_sdk_options(options, self._payer)
        )

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ, **options: Unpack[EnvironmentOptions]) -> Self:
        """A client from `LITELLM_BASE_URL`, `LITELLM_API_KEY` and `LITELLM_MODEL`; options win over them."""
        settings = gateway_settings(env)
        given: dict[str, Any] = {"model": settings.model, **options}
        return cls(settings.base_url, settings.api_key, **given)

    def run(self, operation: Coroutine[Any, Any, T], timeout: float | None = None, session_id: str = "") -> T:
        """Carry out an operation, its calls in one session, within so many seconds.

        A deadline around the call that is nearer wins.
        """
        with closing(operation), deadline(self._seconds(timeout)):
            return run(_sdk_of(self.openai, session_id), operation)

    def create_chat_completion(
        self,
        prompt: str,
        *,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> str:
        """The text of a chat completion."""
        request = self._chat(prompt, instructions, files, model, fields)
        return self.run(calls.ask(CHAT, request), timeout).text

    def chat(
        self,
        prompt: str,
        *,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> Reply:
        """A chat completion with all that came along; one that calls functions may have `calls` and no text."""
        request = self._chat(prompt, instructions, files, model, fields)
        return self.run(calls.ask(CHAT, request, may_call=True), timeout)

    def create_response(
        self,
        prompt: str,
        background: bool = False,
        tools: Tools | None = None,
        previous_response_id: str | None = None,
        instructions: str | None = None,
        *,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> str:
        """The text of a response; for a background one the gateway's JSON (id, status, ...) as it came."""
        request = self._response(prompt, files, model, fields, tools, previous_response_id, instructions, background)
        reply = self.run(calls.ask(RESPONSES, request), timeout)
        return reply.raw if background else reply.text

    def respond(
        self,
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
        """A response with all that came along.

        A background one is returned as it was submitted; its `id` is for `wait_for_reply`. One that calls functions
        may have `calls` and no text.
        """
        request = self._response(prompt, files, model, fields, tools, previous_response_id, instructions, background)
        return self.run(calls.ask(RESPONSES, request, may_call=True), timeout)

    def stream_chat_completion(
        self,
        prompt: str,
        *,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> TextStream:
        """The text of a chat completion in pieces, as they arrive; at the end its `reply` holds the rest."""
        return text_stream(self, CHAT, self._chat(prompt, instructions, files, model, fields), timeout)

    def stream_response(
        self,
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
        """The text of a response in pieces, as they arrive; at the end its `reply` holds the rest."""
        request = self._response(prompt, files, model, fields, tools, previous_response_id, instructions)
        return text_stream(self, RESPONSES, request, timeout)

    def wait_for_response(
        self,
        response_id: str,
        timeout: float | None = None,
        *,
        on_status: Callable[[str], None] | None = None,
    ) -> str:
        """Poll a background response until it has ended; its text. See `wait_for_reply`."""
        operation = calls.wait(check_response_id(response_id), on_status)
        return self.run(operation, timeout).text

    def wait_for_reply(
        self,
        response_id: str,
        timeout: float | None = None,
        *,
        on_status: Callable[[str], None] | None = None,
    ) -> Reply:
        """Poll a background response until it has ended.

        Args:
            response_id: as `create_response` printed it; an id of a later reply may not work.
            timeout: seconds to wait at most.
            on_status: told the status of each poll.
        """
        operation = calls.wait(check_response_id(response_id), on_status)
        return self.run(operation, timeout)

    def retrieve_response(self, response_id: str, *, timeout: float | None = None) -> str:
        """The gateway's JSON of a response, whatever its status."""
        return self.run(calls.retrieve(check_response_id(response_id)), timeout).raw

    def cancel_response(self, response_id: str, *, timeout: float | None = None) -> str:
        """Stop a background response; the gateway's JSON."""
        return self.run(calls.cancel(check_response_id(response_id)), timeout).raw

    def create_response_with_tool_calling(
        self,
        prompt: str,
        relay_base_url: str | None = None,
        instructions: str | None = None,
        previous_response_id: str | None = None,
        web_search: bool = False,
        *,
        relay_api_key: str | None = None,
        model: str | None = None,
        timeout: float | None = None,
        **fields: object,
    ) -> ToolCallingResult:
        """The answer to a prompt, for which the model may have deep_research run by a relay.

        Args:
            prompt: the question.
            relay_base_url: the relay's root; else `RELAY_BASE_URL`, else `http://127.0.0.1:8080`.
            web_search: offer web search as well.
            relay_api_key: of the relay, if it wants one; else `RELAY_API_KEY`.
            timeout: seconds; a research run takes minutes.

        Raises:
            StillRunningError: the deadline passed while a research run goes on; its `ResearchRunningError` has the
                invocation's id and token.
            ResearchUnconfirmedError: the deadline passed, or the answer was lost, before the relay confirmed a run;
                `idempotency_key` and `arguments` find it. `others` has the further runs of the same turn.
            GatewayError: `research` on it is the text of what was paid for before it failed.
        """
        from .research.relay_client import RelayClient

        conversation = self._conversation(prompt, instructions, previous_response_id, web_search, model, fields)
        with RelayClient(relay_base_url, relay_api_key, payer=conversation.run_payer(self._payer)) as relay:
            return self.run(_with_tools(conversation, relay), timeout, conversation.session_id)

    @property
    def _base_url(self) -> str:
        return str(self.openai.base_url)

    def close(self) -> None:
        """Close the connections."""
        self.openai.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncLiteLLMClient(_Client):
    """Asynchronous calls to a LiteLLM gateway; see `LiteLLMClient`, which has the same methods."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str = DEFAULT_MODEL,
        timeout: float | None = DEFAULT_TIMEOUT,
        *,
        tags: Iterable[str] | None = None,
        end_user: str | None = None,
        http_client: DefaultAsyncHttpxClient | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(model, timeout, who_pays(tags, end_user))
        self.openai = AsyncLiteLLM(
            http_client=http_client, base_url=base_url, api_key=api_key, **_sdk_options(options, self._payer)
        )

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ, **options: Unpack[EnvironmentOptions]) -> Self:
        """See `LiteLLMClient.from_env`."""
        settings = gateway_settings(env)
        given: dict[str, Any] = {"model": settings.model, **options}
        return cls(settings.base_url, settings.api_key, **given)

    async def run(self, operation: Coroutine[Any, Any, T], timeout: float | None = None, session_id: str = "") -> T:
        """See `LiteLLMClient.run`."""
        with closing(operation), deadline(self._seconds(timeout)):
            return await run_async(_sdk_of(self.openai, session_id), operation)

    async def create_chat_completion(
        self,
        prompt: str,
        *,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> str:
        """See `LiteLLMClient.create_chat_completion`."""
        request = self._chat(prompt, instructions, files, model, fields)
        return (await self.run(calls.ask(CHAT, request), timeout)).text

    async def chat(
        self,
        prompt: str,
        *,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> Reply:
        """See `LiteLLMClient.chat`."""
        request = self._chat(prompt, instructions, files, model, fields)
        return await self.run(calls.ask(CHAT, request, may_call=True), timeout)

    async def create_response(
        self,
        prompt: str,
        background: bool = False,
        tools: Tools | None = None,
        previous_response_id: str | None = None,
        instructions: str | None = None,
        *,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> str:
        """See `LiteLLMClient.create_response`."""
        request = self._response(prompt, files, model, fields, tools, previous_response_id, instructions, background)
        reply = await self.run(calls.ask(RESPONSES, request), timeout)
        return reply.raw if background else reply.text

    async def respond(
        self,
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
        """See `LiteLLMClient.respond`."""
        request = self._response(prompt, files, model, fields, tools, previous_response_id, instructions, background)
        return await self.run(calls.ask(RESPONSES, request, may_call=True), timeout)

    def stream_chat_completion(
        self,
        prompt: str,
        *,
        instructions: str | None = None,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> AsyncTextStream:
        """See `LiteLLMClient.stream_chat_completion`."""
        return self._stream(CHAT, self._chat(prompt, instructions, files, model, fields), timeout)

    def stream_response(
        self,
        prompt: str,
        tools: Tools | None = None,
        previous_response_id: str | None = None,
        instructions: str | None = None,
        *,
        model: str | None = None,
        files: Files = (),
        timeout: float | None = None,
        **fields: object,
    ) -> AsyncTextStream:
        """See `LiteLLMClient.stream_response`."""
        request = self._response(prompt, files, model, fields, tools, previous_response_id, instructions)
        return self._stream(RESPONSES, request, timeout)

    async def wait_for_response(
        self,
        response_id: str,
        timeout: float | None = None,
        *,
        on_status: Callable[[str], None] | None = None,
    ) -> str:
        """See `LiteLLMClient.wait_for_response`."""
        operation = calls.wait(check_response_id(response_id), on_status)
        return (await self.run(operation, timeout)).text

    async def wait_for_reply(
        self,
        response_id: str,
        timeout: float | None = None,
        *,
        on_status: Callable[[str], None] | None = None,
    ) -> Reply:
        """See `LiteLLMClient.wait_for_reply`."""
        operation = calls.wait(check_response_id(response_id), on_status)
        return await self.run(operation, timeout)

    async def retrieve_response(self, response_id: str, *, timeout: float | None = None) -> str:
        """See `LiteLLMClient.retrieve_response`."""
        operation = calls.retrieve(check_response_id(response_id))
        return (await self.run(operation, timeout)).raw

    async def cancel_response(self, response_id: str, *, timeout: float | None = None) -> str:
        """See `LiteLLMClient.cancel_response`."""
        operation = calls.cancel(check_response_id(response_id))
        return (await self.run(operation, timeout)).raw

    async def create_response_with_tool_calling(
        self,
        prompt: str,
        relay_base_url: str | None = None,
        instructions: str | None = None,
        previous_response_id: str | None = None,
        web_search: bool = False,
        *,
        relay_api_key: str | None = None,
        model: str | None = None,
        timeout: float | None = None,
        **fields: object,
    ) -> ToolCallingResult:
        """See `LiteLLMClient.create_response_with_tool_calling`."""
        from .research.relay_client import AsyncRelayClient

        conversation = self._conversation(prompt, instructions, previous_response_id, web_search, model, fields)
        async with AsyncRelayClient(relay_base_url, relay_api_key, payer=conversation.run_payer(self._payer)) as relay:
            return await self.run(_with_tools(conversation, relay), timeout, conversation.session_id)

    def _stream(self, api: Api, request: JsonObject, timeout: float | None) -> AsyncTextStream:
        async def open_() -> tuple[RawResponse, StreamReader]:
            raw = await self.run(calls.open_stream(api, request), timeout)
            return raw, StreamReader(raw, api.assembly(), self.openai.api_key)

        return AsyncTextStream(open_)

    @property
    def _base_url(self) -> str:
        return str(self.openai.base_url)

    async def close(self) -> None:
        """Close the connections."""
        await self.openai.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def text_stream(client: LiteLLMClient, api: Api, request: JsonObject, timeout: float | None = None) -> TextStream:
    """Send a request whose answer comes in pieces."""
    opened = client.run(calls.open_stream(api, request), timeout)
    return TextStream(opened, StreamReader(opened, api.assembly(), client.openai.api_key))


async def _with_tools(conversation: Conversation, relay: RelayCalls) -> ToolCallingResult:
    from .research.loop import converse, research_through

    await relay.check_operation()  # before anything is paid for
    return await converse(conversation, research_through(relay))


def check_timeout(seconds: float | None) -> float | None:
    """`seconds`, if a deadline can be made of it: None (no limit), or a finite number above 0.

    Raises:
        ValueError: it is anything else.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"the timeout must be a finite number of seconds above 0, not {seconds!r}")
    return float(seconds)


def _sdk_options(options: ClientOptions, payer: Payer) -> dict[str, Any]:
    # Reads are bounded by the deadline of the call, not one by one.
    ours = {"timeout": Timeout(None, connect=5.0), "max_retries": _MAX_RETRIES, "max_answer": MAX_ANSWER}
    headers = {**NO_PLATFORM, **(options.get("default_headers") or {})}
    return {**ours, "payer": payer, **options, "default_headers": headers}


def _sdk_of(sdk: T, session_id: str) -> T:
    """`sdk` for the calls of one session, by which the gateway can add up what they cost."""
    if not session_id:
        return sdk
    made: T = sdk.with_options(default_headers={SESSION_HEADER: session_id})  # type: ignore[attr-defined]
    return made
