"""The command's ways to have deep_research run: by the model's decision, directly, or picked up again."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .config import ConfigurationError, setting
from .gateway.state import State
from .output import Progress, notice, progress

if TYPE_CHECKING:
    from .commands import Session
    from .relay.client import RelayClient
    from .relay.contract import Invocation
    from .tool_calling import Conversation, ToolCall, ToolCallingResult


def run(session: Session, prompt: str) -> None:
    """Carry out a command line with --auto-tool-call, --target relay or --invocation."""
    if session.options.auto_tool_call:
        _ = session.client  # its settings are checked, and the SDK imported, before anything else
    from .relay.client import RelayClient

    with RelayClient() as relay:
        if session.options.invocation:
            _pick_up(session, relay)
        elif session.options.auto_tool_call:
            _answer_with_tools(session, relay, prompt)
        else:
            _research(session, relay, prompt)


def _answer_with_tools(session: Session, relay: RelayClient, prompt: str) -> None:
    from .tool_calling import Conversation

    options = session.options
    conversation = Conversation(
        session.client.model, prompt, options.instructions, options.web_search, options.previous_response_id
    )
    relay.check(timeout=min(5.0, session.until.remaining()))  # before the first call that is paid for
    session.sent = True
    _converse(session, relay, conversation)


def _converse(session: Session, relay: RelayClient, conversation: Conversation) -> None:
    """Go on with a conversation, and print the answer. While a research runs, it can be picked up."""
    from .tool_calling import converse, research_through

    def on_accepted(call: ToolCall) -> None:
        session.invocation = (call.invocation_id or "", call.invocation_token or "")
        _remember(conversation)
        notice(f"[deep_research was accepted by the relay as {call.invocation_id}]")

    with progress("waiting for the model") as shown:
        research = research_through(relay, on_accepted, lambda view: _show(shown, view))
        result = session.client.run(converse(conversation, research), session.until)
    _forget(conversation)
    _print(session, result)


def _print(session: Session, result: ToolCallingResult) -> None:
    if session.options.json:
        session.out.write(json.dumps(_as_json(result), ensure_ascii=False))
    else:
        session.out.write(result.final_text)
    session.out.end()
    if not result.tool_called:
        return
    for call in result.calls:
        if call.error:
            notice(f"[{call.name} {call.status}: {call.error}]")
    notice("[deep_research was called automatically]")
    names = ("response_id", "previous_response_id", "tool_call_id", "invocation_id", "invocation_token")
    ids = {name: getattr(result, name) for name in (*names, "upstream_response_id")}
    notice(json.dumps(ids, ensure_ascii=False))


def _as_json(result: ToolCallingResult) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(result)


def _research(session: Session, relay: RelayClient, prompt: str) -> None:
    """--target relay: the prompt as the question of a research."""
    options = session.options
    streams = session.streams and not options.background
    arguments: dict[str, Any] = {"research_question": prompt, "stream" if streams else "background": True}
    if options.deliverable_format:
        arguments["deliverable_format"] = options.deliverable_format
    if options.instructions:
        arguments["system_prompt"] = options.instructions
    session.sent = True
    with progress("submitting the research"):
        accepted = relay.invoke(arguments, timeout=session.until.remaining())
    if options.background:
        session.out.write(accepted.model_dump_json())
        session.out.end()
        return
    session.invocation = (accepted.invocation_id, accepted.invocation_token)
    notice(f"[the relay accepted the research as {accepted.invocation_id}]")
    if streams:
        _stream(session, relay)
    else:
        _wait(session, relay, accepted if accepted.finished else None)


def _stream(session: Session, relay: RelayClient) -> None:
    from .relay.contract import Invocation

    invocation_id, token = session.invocation or ("", "")
    with progress("research queued") as shown:
        for event in relay.events(invocation_id, token, timeout=session.until):
            if event.name == "output_text":
                shown.stop()
                session.out.write(_text(event.data.get("delta")))
            elif event.name == "status":
                shown.status(f"research {_text(event.data.get('status'))}")
            elif event.name in ("completed", "error"):
                last = event.data
    view = Invocation.model_validate(last)
    if not session.out.wrote:
        session.out.write(view.output_text or "")
    session.out.end()
    _verdict(view)


def _pick_up(session: Session, relay: RelayClient) -> None:
    """--invocation: wait for a research, and finish the answer that it was started for, if there is one."""
    invocation_id = session.options.invocation or ""
    conversation = _recall(invocation_id)
    calls = [] if conversation is None else [c for c in conversation.calls if c.invocation_id == invocation_id]
    token = setting("RELAY_INVOCATION_TOKEN") or next((call.invocation_token for call in calls), None)
    if not token:
        raise ConfigurationError("the token of the invocation is needed: set RELAY_INVOCATION_TOKEN")
    session.invocation = (invocation_id, token)
    if conversation is None:
        _wait(session, relay, None)
        return
    for call in calls:
        call.invocation_token = token
    _converse(session, relay, conversation)


def _wait(session: Session, relay: RelayClient, view: Invocation | None) -> None:
    from .deadline import deadline
    from .steps import run

    invocation_id, token = session.invocation or ("", "")
    if view is None:
        with progress("waiting for the research") as shown, deadline(session.until):
            view = run(relay, relay.wait_operation(invocation_id, token, lambda seen: _show(shown, seen)))
    if session.options.json:
        session.out.write(view.model_dump_json())
    elif view.status in ("completed", "incomplete"):
        session.out.write(view.output_text or "")
    session.out.end()
    _verdict(view)


def _verdict(view: Invocation) -> None:
    """Raise what an invocation that has ended must be called, unless it is complete."""
    from .errors import CutShortError
    from .relay.operations import RelayError

    if view.status == "completed" and view.output_text:
        return
    cause = f"the research is {view.status}" if view.status != "completed" else "the research has no text"
    details: dict[str, Any] = {"code": view.error_code, "message": view.error_message or ""}
    if view.status == "incomplete" and view.output_text:
        raise CutShortError(cause, text=view.output_text, **details)
    raise RelayError(cause, **details)


def _show(shown: Progress, view: Invocation) -> None:
    shown.status(f"research {view.status}, last event {view.updated_at.astimezone():%H:%M:%S}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# What it takes to finish an answer after this process has ended, by the invocation that it waits for.


def _remember(conversation: Conversation) -> None:
    text = json.dumps(conversation.save())
    with _state_is_not_needed():
        for name in _files(conversation):
            State().write(name, text)


def _recall(invocation_id: str) -> Conversation | None:
    from .tool_calling import Conversation

    try:
        return Conversation.load(json.loads((State().folder / _file(invocation_id)).read_text()))
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):
        return None


def _forget(conversation: Conversation) -> None:
    with _state_is_not_needed():
        for name in _files(conversation):
            (State().folder / name).unlink(missing_ok=True)


def _state_is_not_needed() -> suppress:
    # A home that cannot be written to, or none at all, must not cost an answer: it is kept for a later process only.
    return suppress(OSError, RuntimeError)


def _files(conversation: Conversation) -> list[str]:
    return [_file(call.invocation_id) for call in conversation.calls if call.invocation_id]


def _file(invocation_id: str) -> str:
    return f"pending-{hashlib.sha256(invocation_id.encode()).hexdigest()[:32]}.json"
