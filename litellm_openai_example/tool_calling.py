"""The function-calling loop, written once without I/O and driven by both clients.

1. create with the tools; 2. every function call in the output is answered, side by side, through the relay; 3. create
with `previous_response_id` and the outputs; 4. again while the model calls functions, for four rounds at most.

A model that LiteLLM bridges to another API forgets the conversation behind a `previous_response_id` without a word. Two
things tell (measured with LiteLLM 1.106): the bridge makes the id of a function call's item from its call id, and
retrieving a response is not supported. For such a model, and where the id turns out not to be known, the items
themselves are sent.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from . import deep_research
from .answer import FunctionCall
from .errors import ErrorKind, GatewayError, StillRunningError, one_line
from .operations import POLL_TIMEOUT, Reply, respond, response_request, retrieve, whole
from .relay.contract import Invocation
from .relay.operations import Requests
from .steps import Operation, gather

MAX_ROUNDS = 4
WEB_SEARCH = {"type": "web_search_preview"}


@dataclass
class ToolCall:
    """One function call of the model, and what became of it.

    `output` is what the model is told; None while the call is not answered. `summary` is the research text, empty
    unless the research is complete; `error` says what went wrong.
    """

    response_id: str
    call_id: str
    name: str
    arguments: str
    output: str | None = None
    status: str = "pending"
    invocation_id: str | None = None
    invocation_token: str | None = field(default=None, repr=False)
    upstream_response_id: str | None = None
    summary: str = ""
    error: str | None = None

    @property
    def key(self) -> str:
        """The idempotency key: the same call of the same response never starts a second research."""
        return hashlib.sha256(f"{self.response_id}\n{self.call_id}".encode()).hexdigest()


@dataclass(frozen=True)
class ToolCallingResult:
    """The answer and how it came about; the fields about one call tell of the last deep_research."""

    final_text: str
    tool_called: bool
    response_id: str | None
    previous_response_id: str | None
    response_status: str
    tool_name: str | None = None
    tool_call_id: str | None = None
    invocation_id: str | None = None
    invocation_token: str | None = field(default=None, repr=False)
    upstream_response_id: str | None = None
    research_summary: str | None = None
    calls: tuple[ToolCall, ...] = ()


@dataclass
class Conversation:
    """Everything that it takes to go on with a conversation, in another process too: plain data."""

    model: str
    prompt: str
    instructions: str | None = None
    web_search: bool = False
    previous_response_id: str | None = None
    response_id: str | None = None
    rounds: int = 0
    bridged: bool | None = None
    calls: list[ToolCall] = field(default_factory=list)

    def save(self) -> dict[str, Any]:
        """The conversation as JSON data."""
        return asdict(self)

    @classmethod
    def load(cls, data: dict[str, Any]) -> Conversation:
        """The conversation that `save` gave. Raises TypeError when it is of another version."""
        return cls(**{**data, "calls": [ToolCall(**call) for call in data["calls"]]})

    @property
    def pending(self) -> list[ToolCall]:
        """The calls of the last turn that are not answered yet."""
        return [call for call in self.calls if call.output is None]

    @property
    def research(self) -> str:
        """All research texts that were paid for."""
        return "\n\n".join(call.summary for call in self.calls if call.summary)

    def request(self) -> dict[str, Any]:
        """The arguments of the next `responses.create`."""
        previous, given = self.previous_response_id, [_message(self.prompt)]
        if self.calls and self.response_id is not None and not self.bridged:
            answered = [call for call in self.calls if call.response_id == self.response_id]
            previous, given = self.response_id, [_output(call) for call in answered]
        elif self.calls:
            given += [_call(call) for call in self.calls] + [_output(call) for call in self.calls]
        request = response_request(
            self.model,
            given if self.calls else self.prompt,
            tools=[deep_research.TOOL, *([WEB_SEARCH] if self.web_search else [])],
            previous_response_id=previous,
            instructions=self.instructions,
        )
        # A model that never stops calling is made to answer with what it has.
        return {**request, "tool_choice": "none"} if self.rounds >= MAX_ROUNDS else request


# What runs one research: arguments, idempotency key, and whom to tell that it was accepted.
Research = Callable[[ToolCall, dict[str, Any]], Operation[None]]


async def converse(conversation: Conversation, research: Research) -> ToolCallingResult:
    """Go on with a conversation until the model answers.

    Args:
        conversation: a new one, or one that was left with calls pending; it is kept up to date.
        research: carries out one deep_research call and fills in what became of it.

    Raises:
        StillRunningError: the deadline passed while a research runs on.
        GatewayError: a turn failed; `research` on it holds what was paid for until then.
    """
    try:
        while True:
            if conversation.pending:
                await _answer_calls(conversation, research)
            reply = await _turn(conversation)
            previous, conversation.response_id = conversation.response_id, reply.answer.id
            called = reply.answer.calls
            if not called or conversation.rounds >= MAX_ROUNDS:
                return _result(conversation, whole(reply), previous)
            conversation.rounds += 1
            conversation.bridged = conversation.bridged or any(_needs_the_items(call) for call in called) or None
            conversation.calls += [_new_call(call, reply) for call in called]
    except GatewayError as error:
        error.research = conversation.research
        error.response_id = error.response_id or conversation.response_id
        raise


def research_through(
    relay: Requests,
    on_accepted: Callable[[ToolCall], None] | None = None,
    on_view: Callable[[Invocation], None] | None = None,
) -> Research:
    """Research by a relay.

    Args:
        relay: the helper of the client's kind, blocking or asynchronous.
        on_accepted: told when the relay has accepted a call, before it is waited for.
        on_view: told how it stands, every now and then.
    """

    async def research(call: ToolCall, arguments: dict[str, Any]) -> None:
        view: Invocation | None = None
        if call.invocation_id is None or call.invocation_token is None:
            # In the background, because then the id is known, and can be picked up, from the start.
            accepted = await relay.invoke_operation({**arguments, "background": True}, call.key)
            call.invocation_id, call.invocation_token = accepted.invocation_id, accepted.invocation_token
            view = accepted
            if on_accepted is not None:
                on_accepted(call)
        if view is None or not view.finished:
            view = await relay.wait_operation(call.invocation_id, call.invocation_token, on_view)
        _take(call, view)

    return research


def _take(call: ToolCall, view: Invocation) -> None:
    """What became of a research, for the model and for the caller. A failed one is never told as an empty answer."""
    call.status, call.upstream_response_id = view.status, view.upstream_response_id
    text = view.output_text or ""
    if view.status == "completed" and text:
        call.summary = call.output = text
        return
    why = f"{view.error_code or 'no reason given'}: {view.error_message or 'the relay gives no reason'}"
    call.error = one_line(why)
    if view.status == "incomplete" and text:
        call.summary = text
        call.output = f"The research ended early ({call.error}). This is only a part of it; say so:\n\n{text}"
    else:
        call.output = f"Error: the research {view.status} ({call.error}). There is no result; say so in your answer."


async def _turn(conversation: Conversation) -> Reply:
    try:
        return await respond(conversation.request(), may_call=True)
    except GatewayError as error:
        # Refused because of the id, and so not executed: it can be asked again with all items.
        unknown = error.kind is ErrorKind.UNKNOWN_RESPONSE
        if not (unknown and conversation.calls and not conversation.bridged):
            raise
    conversation.bridged = True
    return await respond(conversation.request(), may_call=True)


def _needs_the_items(call: FunctionCall) -> bool:
    """Whether the bridge made this call, or it has no id by which a response that is stored would know it."""
    return not call.call_id or call.item_id == f"fc_{call.call_id}"


async def _answer_calls(conversation: Conversation, research: Research) -> None:
    """Answer what is pending, side by side, and find out meanwhile whether the model is bridged."""
    work: list[Operation[Any]] = [_answer_call(call, research) for call in conversation.pending]
    if conversation.bridged is None and conversation.response_id:
        work.append(_find_out(conversation))
    outcomes = await gather(work)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


async def _answer_call(call: ToolCall, research: Research) -> None:
    """Fill in the output of one call; what goes wrong is told to the model, unless the research runs on."""
    try:
        if call.name != deep_research.NAME:
            raise ValueError(f"there is no function {call.name[:80]!r}; there is: {deep_research.NAME}")
        arguments = deep_research.parse_arguments(call.arguments)
    except ValueError as error:
        call.status, call.error, call.output = "refused", str(error), f"Error: {error}."
        return
    try:
        await research(call, arguments)
    except StillRunningError:
        raise
    except GatewayError as error:
        call.status, call.error = "failed", str(error)
        call.output = f"Error: the research could not be run ({error.cause}). Say so in your answer."


async def _find_out(conversation: Conversation) -> None:
    try:
        await retrieve(conversation.response_id or "", timeout=POLL_TIMEOUT)
        conversation.bridged = False
    except GatewayError as error:
        # Any other failure says nothing about the model: the usual way is tried.
        conversation.bridged = error.kind is ErrorKind.NOT_SUPPORTED


def _new_call(call: FunctionCall, reply: Reply) -> ToolCall:
    # Where a gateway leaves an id out, one of our own keeps this call's research apart from all others.
    response_id, call_id = (given or f"unnamed_{uuid.uuid4().hex}" for given in (reply.answer.id, call.call_id))
    return ToolCall(response_id, call_id, call.name, call.arguments)


def _result(conversation: Conversation, reply: Reply, previous: str | None) -> ToolCallingResult:
    researches = [call for call in conversation.calls if call.name == deep_research.NAME]
    result = ToolCallingResult(
        final_text=reply.text,
        tool_called=bool(conversation.calls),
        response_id=reply.answer.id,
        previous_response_id=previous or conversation.previous_response_id,
        response_status=reply.answer.status or "completed",
        calls=tuple(conversation.calls),
    )
    if not researches:
        return result
    last = researches[-1]
    return replace(
        result,
        tool_name=last.name,
        tool_call_id=last.call_id,
        invocation_id=last.invocation_id,
        invocation_token=last.invocation_token,
        upstream_response_id=last.upstream_response_id,
        research_summary=conversation.research or None,
    )


def _message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}


def _output(call: ToolCall) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call.call_id, "output": call.output or ""}
