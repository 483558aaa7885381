"""The function-calling loop, written once without I/O for both clients.

1. Create a response with the tools. 2. Answer every function call in the output, concurrently, through the relay.
3. Create the next response with `previous_response_id` and the outputs. 4. Repeat while the model calls functions, for
four rounds at most.

A model that LiteLLM bridges to another API silently ignores `previous_response_id`, and so forgets the conversation.
Two signs give it away (measured with LiteLLM 1.106): the bridge derives the id of a function call's item from its call
id, and retrieving a response is not supported. Such a model gets all items of the conversation instead of the id, and
so does one whose gateway does not know the id.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from ..calls.answer import FunctionCall, Source, read_response
from ..calls.reply import Reply, require_complete
from ..calls.requests import POLL_TIMEOUT, RESPONSES, create, retrieve
from ..calls.steps import Operation, gather
from ..errors import ErrorKind, GatewayError, StillRunningError, one_line
from ..json_object import JsonObject
from .arguments import TOOL_NAME, parse_arguments
from .contract import AcceptedInvocation, Invocation
from .conversation import MAX_ROUNDS, UNCONFIRMED, Conversation, ToolCall, ToolCallingResult, Turn, call_key
from .relay_answers import RelayError, ResearchUnconfirmedError
from .relay_calls import RelayCalls

# Carries out one call with these arguments, and stores the result in it.
Research = Callable[[ToolCall, JsonObject], Operation[None]]


async def converse(
    conversation: Conversation, research: Research, on_turn: Callable[[bool], None] | None = None
) -> ToolCallingResult:
    """Continue a conversation until the model answers.

    Args:
        conversation: a new one, or one with pending calls; it is updated at every step.
        research: carries out one deep_research call and stores the result in it.
        on_turn: called with True before each turn is sent, and with False once its calls are in the conversation.

    Raises:
        StillRunningError: the deadline passed while a research run continues, or before the relay confirmed one. Its
            outcome is not known, so the model gets no output for it.
        GatewayError: a turn failed; the error's `research` has the reports that were paid for until then.
    """
    try:
        while True:
            if conversation.pending:
                await _answer_calls(conversation, research)
            if on_turn is not None:
                on_turn(True)
            reply = await _turn(conversation)
            previous, conversation.response_id = conversation.response_id, reply.answer.id
            called = reply.answer.calls
            if not called or conversation.rounds >= MAX_ROUNDS:
                return conversation.result(require_complete(reply), previous)
            conversation.rounds += 1
            # Known to be bridged, or else unknown, so that it is detected while the calls run.
            conversation.bridged = conversation.bridged or any(_needs_items(call) for call in called) or None
            conversation.calls += _new_calls(called, reply, conversation.rounds)
            if on_turn is not None:
                on_turn(False)
    except GatewayError as error:
        # The reports were paid for, even though the answer failed.
        error.research = conversation.research
        error.response_id = error.response_id or conversation.response_id
        raise


def research_through(
    relay: RelayCalls,
    on_accepted: Callable[[ToolCall, AcceptedInvocation], object] | None = None,
    on_view: Callable[[Invocation], None] | None = None,
) -> Research:
    """Return the research that a relay carries out.

    Args:
        relay: the relay's client, blocking or asynchronous like the gateway's.
        on_accepted: called with a call and its view when the relay has accepted it, before the wait for its result.
        on_view: called with the view of every poll.
    """

    async def research(call: ToolCall, arguments: JsonObject) -> None:
        view: Invocation | None = None
        started = time.monotonic()
        if call.invocation_id is None or call.invocation_token is None:
            posted = posted_arguments(arguments)
            try:
                accepted = await relay.invoke_operation(posted, call.key)
            except ResearchUnconfirmedError:
                call.status = UNCONFIRMED
                raise
            except RelayError as error:
                # The `POST` of an earlier attempt may have been accepted, whatever became of this one.
                if call.status == UNCONFIRMED:
                    raise relay.unconfirmed(call.key, posted, error) from error
                raise
            call.invocation_id, call.invocation_token = accepted.invocation_id, accepted.invocation_token
            call.status, call.window = "pending", accepted.window
            view = accepted
            if on_accepted is not None:
                on_accepted(call, accepted)
        if view is None or not view.finished:
            view = await relay.wait_operation(call.invocation_id, call.invocation_token, on_view)
        _store_result(call, view, time.monotonic() - started)

    return research


def posted_arguments(arguments: JsonObject) -> JsonObject:
    """Return the arguments of a call as they are posted to the relay."""
    # In the background, so that the id is known from the start, and a later process can pick the run up.
    return {**arguments, "background": True}


def _store_result(call: ToolCall, view: Invocation, waited: float) -> None:
    """Store the result of a run in its call. The model gets an explicit error for a failed run, never an empty text."""
    response = read_response(view.response)
    call.status, call.upstream_response_id = view.status, view.upstream_response_id
    call.model, call.usage, call.cost, call.window = response.model, response.usage, view.cost_usd, view.window
    # The relay's clock covers the time before this process began to wait.
    call.seconds = max(waited, (view.updated_at - view.created_at).total_seconds())
    call.sources = [Source(page.url, page.title) for page in view.sources]
    text = view.output_text or ""
    if view.status == "completed" and text:
        call.summary = text
        call.output = call.report
        return
    reason = f"{view.error_code or 'no reason given'}: {view.error_message or 'the relay gives no reason'}"
    call.error = one_line(reason)
    if view.status == "incomplete" and text:
        call.summary = text
        call.output = (
            f"The research run ended early ({call.error}). This is only a part of it; say so:\n\n{call.report}"
        )
    else:
        ended = f"the research run ended as {view.status} ({call.error})"
        call.output = f"Error: {ended}. There is no result; say so in your answer."


async def _turn(conversation: Conversation) -> Reply:
    started = time.monotonic()
    try:
        reply = await _ask(conversation)
    except GatewayError as error:
        # Refused because of the id, and so not executed: safe to repeat with all items.
        unknown = error.kind is ErrorKind.UNKNOWN_RESPONSE
        if not (unknown and (conversation.calls or conversation.earlier) and not conversation.bridged):
            raise
        conversation.bridged = True
        reply = await _ask(conversation)
    answer = reply.answer
    conversation.turns.append(Turn(answer.id, answer.model, answer.usage, reply.cost, time.monotonic() - started))
    return reply


async def _ask(conversation: Conversation) -> Reply:
    request = conversation.request()
    reply = await create(RESPONSES, request, may_call=True)
    if conversation.web_search:
        conversation.search_tool = request["tools"][-1]  # by the name that the model takes
    return reply


def _needs_items(call: FunctionCall) -> bool:
    """Does the call come from the bridge, or lack the id that a stored response needs to match its output?"""
    return not call.call_id or call.item_id == f"fc_{call.call_id}"


async def _answer_calls(conversation: Conversation, research: Research) -> None:
    """Answer the pending calls concurrently, and detect a bridged model in the meantime."""
    twins: dict[str, list[ToolCall]] = {}
    for call in conversation.pending:
        twins.setdefault(call.key, []).append(call)
    firsts = [next((call for call in same if call.invocation_id), same[0]) for same in twins.values()]
    # Set by the caller, not by the model: a person waits for the answer.
    more = {"window": conversation.window} if conversation.window else {}
    work: list[Operation[object]] = [_answer_call(call, research, more) for call in firsts]
    if conversation.bridged is None and conversation.response_id:
        work.append(_detect_bridge(conversation))
    # All calls finish before an error is raised: their runs are paid for, and their results must be kept.
    outcomes = await gather(work)
    # Identical calls are carried out once.
    for first, same in zip(firsts, twins.values(), strict=True):
        for call in same:
            if call is not first:
                call.copy_result(first)
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    # These come first: a run that continues must be named, even if another call failed for good.
    unsettled = [failure for failure in failures if isinstance(failure, StillRunningError)]
    if unsettled:
        unsettled[0].others = tuple(unsettled[1:])
        raise unsettled[0]
    if failures:
        raise failures[0]


async def _answer_call(call: ToolCall, research: Research, more: JsonObject) -> None:
    """Store the output of one call. The model gets the error of a failed call, but none for a run that continues.

    Args:
        call: as the model made it.
        research: carries it out.
        more: further arguments, which only the caller sets.
    """
    try:
        if call.name != TOOL_NAME:
            raise ValueError(f"there is no function {call.name[:80]!r}; there is: {TOOL_NAME}")
        arguments = {**parse_arguments(call.arguments), **more}
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


async def _detect_bridge(conversation: Conversation) -> None:
    try:
        await retrieve(conversation.response_id or "", timeout=POLL_TIMEOUT)
        conversation.bridged = False
    except GatewayError as error:
        # Any other failure says nothing about the model, so the id is tried.
        conversation.bridged = error.kind is ErrorKind.NOT_SUPPORTED


def _new_calls(called: tuple[FunctionCall, ...], reply: Reply, round: int) -> list[ToolCall]:
    # If a gateway omits the response id, a random one keeps these calls distinct from all others. Two calls without an
    # id are distinguished by their arguments.
    response_id = reply.answer.id or f"unnamed_{uuid.uuid4().hex}"
    calls = []
    for call in called:
        call_id = call.call_id or f"unnamed_{call_key(response_id, '', call.name, call.arguments)[:32]}"
        calls.append(ToolCall(response_id, call_id, call.name, call.arguments, round))
    return calls
