"""The command's ways to have deep_research run: by the model's decision, directly, or picked up again."""

from __future__ import annotations

import json
from dataclasses import asdict

from ..calls.sources import source_list
from ..calls.steps import run as drive
from ..config import ConfigurationError, setting
from ..errors import CutShortError
from ..json_object import JsonObject
from ..research.contract import Invocation
from ..research.loop import Conversation, ToolCall, ToolCallingResult, converse, research_through
from ..research.relay_calls import RelayError
from ..research.relay_client import RelayClient
from ..transport.policy import telling_retries
from . import work
from .again import own_relay
from .ask import tell_dropped_fields
from .ending import NOT_AS_ASKED
from .output import notice, progress, stderr_is_terminal, without_keys
from .session import Session
from .verbose import tell_run, tell_turns
from .work import RESEARCH, Work, begun


def run(session: Session, prompt: str) -> int:
    """Carry out a command line with --auto-tool-call, --target relay, --invocation or --cancel inv_..."""
    options = session.options
    known = work.recall(options.invocation or options.cancel or "")
    if options.auto_tool_call and not options.follows_up:
        _ = session.client  # its settings are checked before anything else
    if known is not None:
        session.pays_as(known.payer)
    # The deadline around the whole command is the only one.
    with RelayClient(_address(known), timeout=None, payer=session.payer) as relay:
        if options.invocation:
            return _pick_up(session, relay, options.invocation, known)
        if options.cancel:
            return _cancel(session, relay, options.cancel, known)
        if options.auto_tool_call:
            return _answer_with_tools(session, relay, prompt)
        return _research(session, relay, prompt)


def _address(known: Work | None) -> str | None:
    """Where a research run that is remembered is, unless the user says where; None for the usual place."""
    return known.relay if known is not None and not setting("RELAY_BASE_URL") else None


def _token(known: Work | None) -> str:
    token = setting("RELAY_INVOCATION_TOKEN") or (known.token if known is not None else None)
    if not token:
        raise ConfigurationError("the token of the invocation is needed: set RELAY_INVOCATION_TOKEN")
    return token


def _answer_with_tools(session: Session, relay: RelayClient, prompt: str) -> int:
    options = session.options
    conversation = Conversation(
        session.client.model,
        prompt,
        options.instructions,
        options.web_search,
        options.previous_response_id,
        fields=options.further,
    )
    conversation.search_tool = options.tool or conversation.search_tool
    relay.check()  # before the first call that is paid for
    tell_dropped_fields(session)
    session.sent = True
    return _converse(session, relay, conversation)


def _converse(session: Session, relay: RelayClient, conversation: Conversation) -> int:
    """Go on with a conversation, and print the answer. While research runs, it can be picked up."""
    relay.payer = conversation.paid_by(session.payer)

    def on_accepted(call: ToolCall) -> None:
        session.invocation = (call.invocation_id or "", call.invocation_token or "")
        _remember(relay, conversation)
        notice(f"[deep_research was accepted by the relay as {call.invocation_id}]")

    with progress(f"waiting for {conversation.model}") as shown, telling_retries(shown.retrying):

        def on_view(view: Invocation) -> None:
            shown.status(f"waiting for {conversation.model}" if view.finished else _status(view))

        research = research_through(relay, on_accepted, on_view)
        result = session.client.run(converse(conversation, research), session_id=conversation.session_id)
    session.answer_id = result.response_id
    code = _print(session, result)
    for call in conversation.calls:
        work.forget(call.invocation_id)
    if session.options.verbose:
        tell_turns(session, result)
    return code


def _print(session: Session, result: ToolCallingResult) -> int:
    """The answer on stdout, and on stderr how it came about: in short to a person, as JSON to a program."""
    person = stderr_is_terminal()
    if person:
        _tell_ids(result, short=True)
    if session.options.json:
        session.out.paragraph(json.dumps(asdict(result), ensure_ascii=False))
    else:
        session.out.paragraph(result.final_text)
        if session.options.sources:
            session.out.paragraph(source_list(result.sources, result.final_text))
    for call in result.calls:
        if call.error:
            notice(f"[{call.name} {call.status}: {call.error}]")
    if not person:
        _tell_ids(result, short=False)
    if result.research_failed:
        notice("Error: the answer was given without the research that the model called for")
        return NOT_AS_ASKED
    return 0


def _tell_ids(result: ToolCallingResult, *, short: bool) -> None:
    if not result.tool_called:
        return
    notice("[deep_research was called automatically]")
    names = ("response_id", "previous_response_id", "tool_call_id", "invocation_id", "invocation_token")
    ids = {name: getattr(result, name) for name in (*names, "upstream_response_id")}
    if not short:
        notice(json.dumps(ids, ensure_ascii=False))
        return
    for call in result.calls:
        if call.invocation_id:
            notice(f"[research run {_short(call.invocation_id)}: {call.status}]")
    notice(f"[answer {_short(result.response_id)}]")


def _short(text: str | None) -> str:
    text = without_keys(text or "without an id")  # before it is cut: half a key would not be found
    return text if len(text) <= 48 else f"{text[:45]}..."


def _research(session: Session, relay: RelayClient, prompt: str) -> int:
    """--target relay: the prompt as the question of a research run."""
    options = session.options
    streams = session.streams and not options.background
    arguments: JsonObject = {"research_question": prompt, "stream" if streams else "background": True}
    if options.deliverable_format:
        arguments["deliverable_format"] = options.deliverable_format
    if options.instructions:
        arguments["system_prompt"] = options.instructions
    session.sent = True
    with progress("submitting the research run to the relay"):
        accepted = relay.invoke(arguments)
    session.invocation = (accepted.invocation_id, accepted.invocation_token)
    _keep(relay, begun(RESEARCH, accepted.invocation_id, prompt, token=accepted.invocation_token))
    if options.background:
        session.out.paragraph(accepted.model_dump_json())
        return 0
    notice(f"[the relay accepted the research run as {accepted.invocation_id}]")
    if streams:
        return _stream(session, relay)
    return _finish(session, accepted) if accepted.finished else _wait(session, relay)


def _stream(session: Session, relay: RelayClient) -> int:
    invocation_id, token = session.invocation or ("", "")
    last: JsonObject = {}
    with progress("waiting for the relay's research run: queued") as shown:
        for event in relay.events(invocation_id, token):
            if event.name == "output_text":
                shown.stop()
                session.out.write(event.data["delta"])
            elif event.name == "status":
                shown.status(f"waiting for the relay's research run: {event.data['status']}")
            elif event.name in ("completed", "error"):
                last = event.data
    # A relay may hold that its last event was had before, and send none.
    return _finish(session, Invocation.model_validate(last)) if last else _wait(session, relay)


def _pick_up(session: Session, relay: RelayClient, invocation_id: str, known: Work | None) -> int:
    """--invocation: wait for a research run, and finish the answer that it was started for, if there is one."""
    token = _token(known)
    session.invocation = (invocation_id, token)
    conversation = _conversation(known)
    if conversation is None:
        return _wait(session, relay)
    for call in conversation.calls:
        if call.invocation_id == invocation_id:
            call.invocation_token = token
    return _converse(session, relay, conversation)


def _cancel(session: Session, relay: RelayClient, invocation_id: str, known: Work | None) -> int:
    view = relay.cancel(invocation_id, _token(known))
    session.out.paragraph(view.model_dump_json())
    if view.finished:
        work.forget(invocation_id)
    return 0


def _wait(session: Session, relay: RelayClient) -> int:
    invocation_id, token = session.invocation or ("", "")
    with progress("waiting for the relay's research run") as shown:
        view = drive(relay, relay.wait_operation(invocation_id, token, lambda seen: shown.status(_status(seen))))
    return _finish(session, view)


def _finish(session: Session, view: Invocation) -> int:
    """Print what a research run has come to. Raises what it must be called if it is not whole."""
    options = session.options
    if options.json:
        session.out.write(view.model_dump_json())
    elif not session.out.wrote and view.status in ("completed", "incomplete"):
        session.out.write(view.output_text or "")
    session.out.end()
    if options.sources and not options.json and session.out.wrote:
        session.out.paragraph(source_list(view.sources, view.output_text or ""))
    if options.verbose:
        tell_run(view)
    work.forget(view.invocation_id)
    session.invocation = None  # there is nothing left to pick up
    _require_complete(view)
    return 0


def _require_complete(view: Invocation) -> None:
    if view.status == "completed" and view.output_text:
        return
    ends = {"completed": "has no text", "cancelled": "was cancelled", "failed": "failed", "incomplete": "ended early"}
    cause = f"the research run {ends.get(view.status, 'ended as ' + view.status)}"
    details: JsonObject = {"code": view.error_code, "message": view.error_message or ""}
    if view.status == "incomplete" and view.output_text:
        raise CutShortError(cause, text=view.output_text, **details)
    raise RelayError(cause, **details)


def _status(view: Invocation) -> str:
    return f"waiting for the relay's research run: {view.status}, as of {view.updated_at.astimezone():%H:%M:%S}"


# What it takes to finish an answer after this process has ended, by the research runs that it waits for.


def _remember(relay: RelayClient, conversation: Conversation) -> None:
    saved = conversation.save()
    for call in conversation.calls:
        if call.invocation_id:
            one = begun(RESEARCH, call.invocation_id, conversation.prompt, token=call.invocation_token)
            _keep(relay, one._replace(conversation=saved, paid_by=relay.payer.headers))


def _keep(relay: RelayClient, one: Work) -> None:
    work.remember(one if own_relay() else one._replace(relay=relay.base_url))


def _conversation(known: Work | None) -> Conversation | None:
    if known is None or known.conversation is None:
        return None
    try:
        return Conversation.load(known.conversation)
    except (TypeError, KeyError, ValueError):  # of another version of this program
        return None
