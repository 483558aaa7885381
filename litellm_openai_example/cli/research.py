"""The command lines that use a relay: --auto-tool-call, --target relay, and the follow-ups of research runs."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from ..calls.reply import source_list
from ..config import DEFAULT_RELAY_URL, ConfigurationError, setting
from ..errors import CutShortError
from ..json_object import JsonObject
from ..research.contract import AcceptedInvocation, Invocation
from ..research.relay_answers import RelayError, until_words
from ..research.relay_client import RelayClient
from . import journal
from .ending import Session
from .journal import RESEARCH, Record, own_relay
from .options import Options
from .output import notice, progress
from .tool_calling import finish_answer, is_gone, new_answer, open_page, run_status, saved_conversation, show_page
from .verbose import show_run


def run(session: Session, prompt: str) -> int:
    """Carry out a command line that uses a relay, and return the exit code."""
    options = session.options
    followed = options.invocation or options.cancel or options.open_page
    known = _find(followed) if followed else None
    if options.auto_tool_call:
        _ = session.client  # reject unusable settings first
    if known is not None:
        session.default_payer(known.payer)
    # No time limit, as the deadline of the command bounds every call.
    with RelayClient(relay_url(known), timeout=None, payer=session.payer) as relay:
        if followed:
            record = _follow(session, relay, followed, known)
            if options.open_page:
                return _open(session, relay, record)
            return _cancel(session, relay, record) if options.cancel else _pick_up(session, relay, record)
        if options.auto_tool_call:
            return new_answer(session, relay, prompt)
        return _research(session, relay, prompt)


def _find(work_id: str) -> Record | None:
    """Return the record of a research run by its id or local id. Raise ConfigurationError if it is of other work."""
    known = journal.find(work_id)
    if known is None and work_id.startswith(journal.LOCAL):
        raise ConfigurationError(f"no record of {work_id} here; --list shows all records")
    if known is not None and known.kind == journal.RESPONSE:
        reason = "pick it up with --retrieve" if known.confirmed else "its id is not known, so it cannot be picked up"
        raise ConfigurationError(f"{work_id} is a background response at the gateway: {reason}")
    return known


def relay_url(known: Record | None) -> str | None:
    """Return the base URL of a recorded run's relay; None for the relay of the environment.

    The environment takes precedence for an accepted run. An unconfirmed one is submitted to the same relay as before,
    because another relay would start it a second time.
    """
    if known is None:
        return None
    if not known.confirmed:
        return known.relay or (None if own_relay() else DEFAULT_RELAY_URL)
    return None if setting("RELAY_BASE_URL") else known.relay


def _follow(session: Session, relay: RelayClient, work_id: str, known: Record | None) -> Record:
    """Take over the run of an earlier command. Raise ConfigurationError if its token is not known."""
    if known is not None and known.conversation is not None and known.payer_headers:
        relay.payer = known.payer  # for the calls of the conversation that are yet to be submitted
    if known is not None and not known.confirmed:
        session.pending.follow(known)
        return known
    token = setting("RELAY_INVOCATION_TOKEN") or (known.token if known is not None else None)
    if not token:
        raise ConfigurationError("the token of the research run is not known here: set RELAY_INVOCATION_TOKEN")
    record = known or Record(RESEARCH, work_id, "", 0.0, relay=None if own_relay() else relay.base_url)
    record = record._replace(token=token)
    session.pending.follow(record)
    return record


def _research(session: Session, relay: RelayClient, prompt: str) -> int:
    """Carry out --target relay, with the prompt as the research question."""
    options = session.options
    # The provider has no stream for a window.
    streams = session.streams and not options.background and not options.window
    arguments = run_arguments(options, prompt, "stream" if streams else "background")
    record = journal.intent(
        RESEARCH,
        prompt,
        uuid.uuid4().hex,
        relay.base_url,
        arguments=arguments,
        payer_headers=session.payer.headers,
        window=options.window,
    )
    # Durable before the POST, so that no crash loses a run that was paid for.
    session.pending.begin(record)
    try:
        accepted = _submit(session, relay, record)
    # Both are definite: an unknown outcome is a ResearchUnconfirmedError, and its record stays.
    except (RelayError, ConfigurationError):
        session.pending.drop(record)
        raise
    if options.background:
        session.out.paragraph(accepted.model_dump_json())
        show_page(relay.base_url, accepted)
        return 0
    notice(f"[the relay accepted the research run as {accepted.invocation_id}{until_words(accepted)}]")
    streams = streams and not accepted.window  # perhaps the relay's default
    show_page(relay.base_url, accepted)
    if accepted.finished and not streams:
        return _finish(session, accepted)
    return (_stream if streams else _wait)(session, relay, accepted.invocation_id, accepted.invocation_token)


def run_arguments(options: Options, prompt: str, mode: str) -> JsonObject:
    """Return the arguments of the research run for a prompt; `mode` is "background" or "stream"."""
    arguments: JsonObject = {"research_question": prompt, mode: True}
    if options.deliverable_format:
        arguments["deliverable_format"] = options.deliverable_format
    if options.window:
        arguments["window"] = options.window
    if options.instructions:
        arguments["system_prompt"] = options.instructions
    if options.schema is not None:
        arguments["text_format"] = options.fields["text"]["format"]
    return arguments


def _submit(session: Session, relay: RelayClient, record: Record) -> AcceptedInvocation:
    session.sent = True
    with progress("submitting the research run to the relay"):
        accepted = relay.invoke(record.arguments or {}, idempotency_key=record.key)
    record = record._replace(window=accepted.window)  # perhaps the relay's default
    session.pending.accept(record, accepted.invocation_id, accepted.invocation_token)
    return accepted


def _resubmit(session: Session, relay: RelayClient, record: Record) -> AcceptedInvocation:
    """Submit an unconfirmed run once more. If that fails too, the first submit may still have been accepted."""
    if not record.key or record.arguments is None:
        raise ConfigurationError(f"the record of {record.id} is incomplete, so its request cannot be repeated")
    relay.payer = record.payer
    try:
        return _submit(session, relay, record)
    except RelayError as error:
        raise relay.unconfirmed(record.key, record.arguments, error) from error


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
    # A relay that believes its final event was read before sends none.
    if last:
        return _finish(session, Invocation.model_validate(last))
    return _wait(session, relay, invocation_id, token)


def _pick_up(session: Session, relay: RelayClient, record: Record) -> int:
    """Carry out --invocation: wait for a run, and finish the answer of the conversation that it belongs to."""
    conversation = saved_conversation(record)
    if conversation is not None:
        for call in conversation.calls:
            if record.confirmed and call.invocation_id == record.id:
                call.invocation_token = record.token
        return finish_answer(session, relay, conversation)
    if record.confirmed:
        return _wait(session, relay, record.id, record.token or "")
    accepted = _resubmit(session, relay, record)
    notice(f"[the relay has the research run as {accepted.invocation_id}{until_words(accepted)}]")
    return _wait(session, relay, accepted.invocation_id, accepted.invocation_token)


def _cancel(session: Session, relay: RelayClient, record: Record) -> int:
    """Carry out --cancel. An unconfirmed run is submitted first, because only its id and token can cancel it."""
    invocation_id, token = record.id, record.token or ""
    if not record.confirmed:
        notice("[the run is not confirmed: submitting it again under the same key, to get the id that cancels it]")
        accepted = _resubmit(session, relay, record)
        invocation_id, token = accepted.invocation_id, accepted.invocation_token
    view = _drop_if_gone(session, relay, lambda: relay.cancel(invocation_id, token))
    session.out.paragraph(view.model_dump_json())
    if view.finished:
        session.pending.drop_all()
    return 0


def _open(session: Session, relay: RelayClient, record: Record) -> int:
    """Carry out --open. The record stays: the page may be closed before the report is read."""
    if not record.confirmed:
        raise ConfigurationError(f"the relay has not confirmed {record.id}: --invocation submits it again")
    if own_relay():
        raise ConfigurationError(
            "the page needs a relay that does not stop with this command: start one with make relay"
        )
    token = record.token or ""
    view = _drop_if_gone(session, relay, lambda: relay.get(record.id, token))
    open_page(session.out, relay.base_url, view, token)
    return 0


def _wait(session: Session, relay: RelayClient, invocation_id: str, token: str) -> int:
    with progress("waiting for the relay's research run") as shown:

        def on_view(view: Invocation) -> None:
            shown.status(run_status(view))

        view = _drop_if_gone(session, relay, lambda: relay.wait(invocation_id, token, on_view=on_view))
    return _finish(session, view)


def _finish(session: Session, view: Invocation) -> int:
    """Print the result of a research run. Raise the matching error if it is not complete."""
    options = session.options
    if options.json:
        session.out.write(view.model_dump_json())
    elif not session.out.wrote and view.status in ("completed", "incomplete"):
        session.out.write(view.output_text or "")
    session.out.end()
    if session.lists_sources and view.sources and session.out.wrote:
        session.out.paragraph(source_list(view.sources, view.output_text or ""))
    if options.verbose:
        show_run(view)
    # The result is on stdout, so that even a failed run has nothing left to pick up.
    session.pending.drop_all()
    if view.status == "completed" and view.output_text:
        return session.check(view.output_text)
    ends = {"completed": "has no text", "cancelled": "was cancelled", "failed": "failed", "incomplete": "ended early"}
    cause = f"the research run {ends.get(view.status, 'ended as ' + view.status)}"
    details: JsonObject = {"code": view.error_code, "message": view.error_message or ""}
    if view.status == "incomplete" and view.output_text:
        raise CutShortError(cause, text=view.output_text, **details)
    raise RelayError(cause, **details)


def _drop_if_gone(session: Session, relay: RelayClient, call: Callable[[], Invocation]) -> Invocation:
    """Return the result of a call about a run; if the run's own relay no longer has it, drop its record."""
    try:
        return call()
    except RelayError as error:
        for record in session.pending.records:
            if is_gone(error, record, relay):
                session.pending.drop(record)
        raise
