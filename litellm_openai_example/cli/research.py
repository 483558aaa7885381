"""The command's ways to have deep_research run: by the model's decision, directly, or picked up again."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from ..calls.reply import source_list
from ..calls.steps import run as drive
from ..config import DEFAULT_RELAY_URL, ConfigurationError, setting
from ..errors import CutShortError
from ..json_object import JsonObject
from ..research.contract import AcceptedInvocation, Invocation
from ..research.relay_calls import RelayError
from ..research.relay_client import RelayClient
from . import journal
from .again import own_relay
from .journal import RESEARCH, Record
from .output import notice, progress
from .session import Session
from .tool_calling import finish_answer, is_gone, new_answer, run_status, saved_conversation
from .verbose import tell_run


def run(session: Session, prompt: str) -> int:
    """Carry out a command line with --auto-tool-call, --target relay, --invocation or --cancel inv_..."""
    options = session.options
    followed = options.invocation or options.cancel
    known = _known(followed) if followed else None
    if options.auto_tool_call and not options.follows_up:
        _ = session.client  # its settings are checked before anything else
    if known is not None:
        session.pays_as(known.payer)
    # The deadline around the whole command is the only one.
    with RelayClient(_address(known), timeout=None, payer=session.payer) as relay:
        if followed:
            entry = _follow(session, relay, followed, known)
            return _cancel(session, relay, entry) if options.cancel else _pick_up(session, relay, entry)
        if options.auto_tool_call:
            return new_answer(session, relay, prompt)
        return _research(session, relay, prompt)


def _known(work_id: str) -> Record | None:
    """Return the record of a research run by its id or local id. Raises ConfigurationError where it is of no use."""
    known = journal.find(work_id)
    if known is None and work_id.startswith(journal.LOCAL):
        raise ConfigurationError(f"nothing is kept here as {work_id}: --list shows what is")
    if known is not None and known.kind == journal.RESPONSE:
        reason = "it is followed by --retrieve" if known.confirmed else "its id is not known, so it cannot be followed"
        raise ConfigurationError(f"{work_id} is a background response at the gateway: {reason}")
    return known


def _address(known: Record | None) -> str | None:
    """Return the relay of a run that is kept; None for that of the environment, which wins for an accepted one.

    A run that is not confirmed is posted to where it was posted before, or it could be started twice.
    """
    if known is None:
        return None
    if not known.confirmed:
        return known.relay or (None if own_relay() else DEFAULT_RELAY_URL)
    return None if setting("RELAY_BASE_URL") else known.relay


def _follow(session: Session, relay: RelayClient, work_id: str, known: Record | None) -> Record:
    """Take up the run of an earlier command. Raises ConfigurationError if it takes a token that is not known."""
    if known is not None and known.conversation is not None and known.paid_by:
        relay.payer = known.payer  # the calls that are still to be posted belong to the same payer
    if known is not None and not known.confirmed:
        session.in_flight.follow(known)
        return known
    token = setting("RELAY_INVOCATION_TOKEN") or (known.token if known is not None else None)
    if not token:
        raise ConfigurationError("the token of the invocation is needed: set RELAY_INVOCATION_TOKEN")
    where = None if own_relay() else relay.base_url
    entry = known or Record(RESEARCH, work_id, "", 0.0, relay=where)
    entry = entry._replace(token=token)
    session.in_flight.follow(entry)
    return entry


def _research(session: Session, relay: RelayClient, prompt: str) -> int:
    """--target relay: the prompt as the question of a research run."""
    options = session.options
    streams = session.streams and not options.background
    arguments: JsonObject = {"research_question": prompt, "stream" if streams else "background": True}
    if options.deliverable_format:
        arguments["deliverable_format"] = options.deliverable_format
    if options.instructions:
        arguments["system_prompt"] = options.instructions
    entry = journal.intent(
        RESEARCH,
        prompt,
        uuid.uuid4().hex,
        relay=None if own_relay() else relay.base_url,
        arguments=arguments,
        paid_by=session.payer.headers,
    )
    session.in_flight.begin(entry)
    try:
        accepted = _submit(session, relay, entry)
    except (RelayError, ConfigurationError):
        session.in_flight.drop(entry)
        raise
    if options.background:
        session.out.paragraph(accepted.model_dump_json())
        return 0
    notice(f"[the relay accepted the research run as {accepted.invocation_id}]")
    if accepted.finished and not streams:
        return _finish(session, accepted)
    return (_stream if streams else _wait)(session, relay, accepted.invocation_id, accepted.invocation_token)


def _submit(session: Session, relay: RelayClient, entry: Record) -> AcceptedInvocation:
    session.sent = True
    with progress("submitting the research run to the relay"):
        accepted = relay.invoke(entry.arguments or {}, idempotency_key=entry.key)
    session.in_flight.accept(entry, accepted.invocation_id, accepted.invocation_token)
    return accepted


def _submit_again(session: Session, relay: RelayClient, entry: Record) -> AcceptedInvocation:
    """Repeat the `POST` of a run that is not confirmed. Whatever fails now, the first one may have been accepted."""
    if not entry.key or entry.arguments is None:
        raise ConfigurationError(f"the record of {entry.id} lacks what it takes to repeat its request")
    relay.payer = entry.payer
    try:
        return _submit(session, relay, entry)
    except RelayError as error:
        raise relay.unconfirmed(entry.key, entry.arguments, error) from error


def _stream(session: Session, relay: RelayClient, invocation_id: str, token: str) -> int:
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
    if last:
        return _finish(session, Invocation.model_validate(last))
    return _wait(session, relay, invocation_id, token)


def _pick_up(session: Session, relay: RelayClient, entry: Record) -> int:
    """--invocation: wait for a research run, and finish the answer that it was started for, if there is one."""
    conversation = saved_conversation(entry)
    if conversation is not None:
        for call in conversation.calls:
            if entry.confirmed and call.invocation_id == entry.id:
                call.invocation_token = entry.token
        return finish_answer(session, relay, conversation)
    if entry.confirmed:
        return _wait(session, relay, entry.id, entry.token or "")
    accepted = _submit_again(session, relay, entry)
    notice(f"[the relay has the research run as {accepted.invocation_id}]")
    return _wait(session, relay, accepted.invocation_id, accepted.invocation_token)


def _cancel(session: Session, relay: RelayClient, entry: Record) -> int:
    """--cancel: a run that is not confirmed is asked for first, because only its id and token cancel it."""
    invocation_id, token = entry.id, entry.token or ""
    if not entry.confirmed:
        notice("[the run is not confirmed: asking the relay for it, under the same key, to cancel it]")
        accepted = _submit_again(session, relay, entry)
        invocation_id, token = accepted.invocation_id, accepted.invocation_token
    view = _settled(session, relay, lambda: relay.cancel(invocation_id, token))
    session.out.paragraph(view.model_dump_json())
    if view.finished:
        session.in_flight.drop_all()
    return 0


def _wait(session: Session, relay: RelayClient, invocation_id: str, token: str) -> int:
    with progress("waiting for the relay's research run") as shown:
        waiting = relay.wait_operation(invocation_id, token, lambda seen: shown.status(run_status(seen)))
        view = _settled(session, relay, lambda: drive(relay, waiting))
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
    session.in_flight.drop_all()
    _require_complete(view)
    return 0


def _settled(session: Session, relay: RelayClient, ask: Callable[[], Invocation]) -> Invocation:
    """Return what the run's own relay says of it. If that does not have the run any more, its record goes."""
    try:
        return ask()
    except RelayError as error:
        for entry in session.in_flight.records:
            if is_gone(error, entry, relay):
                session.in_flight.drop(entry)
        raise


def _require_complete(view: Invocation) -> None:
    if view.status == "completed" and view.output_text:
        return
    ends = {"completed": "has no text", "cancelled": "was cancelled", "failed": "failed", "incomplete": "ended early"}
    cause = f"the research run {ends.get(view.status, 'ended as ' + view.status)}"
    details: JsonObject = {"code": view.error_code, "message": view.error_message or ""}
    if view.status == "incomplete" and view.output_text:
        raise CutShortError(cause, text=view.output_text, **details)
    raise RelayError(cause, **details)
