"""Answers for which the model may call deep_research: the conversation, the records and pages of its runs, printing."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from ..calls.reply import source_list
from ..calls.steps import Operation
from ..config import ConfigurationError
from ..console import NOT_AS_ASKED
from ..errors import one_line
from ..json_object import JsonObject
from ..research.contract import AcceptedInvocation, Invocation, page_url, with_token
from ..research.conversation import UNCONFIRMED, Conversation, ToolCall, ToolCallingResult
from ..research.loop import Research, converse, posted_arguments, research_through
from ..research.relay_answers import RelayError, until_words
from ..research.relay_client import RelayClient
from ..transport.policy import telling_retries
from ..window import may_take_until
from . import journal
from .ask import warn_of_dropped_fields
from .ending import Session
from .history import Talk, keep_answer, resume
from .journal import RESEARCH, Record, own_relay
from .options import Options
from .output import Output, notice, progress, stderr_is_terminal, without_keys
from .pending import PendingWork
from .verbose import show_turns


def new_answer(session: Session, relay: RelayClient, prompt: str) -> int:
    """Carry out --auto-tool-call, and return the exit code."""
    options = session.options
    conversation = conversation_of(options, session.client.model, prompt)
    if options.continue_last:
        _continue_last(session, conversation)
    relay.payer = conversation.run_payer(session.payer)
    relay.check()  # before the first call that costs money
    warn_of_dropped_fields(session)
    session.sent = True
    return finish_answer(session, relay, conversation)


def conversation_of(options: Options, model: str, prompt: str) -> Conversation:
    """Return the new conversation of a command line."""
    conversation = Conversation(
        model,
        prompt,
        options.instructions,
        bool(options.search_tool),
        options.previous_response_id,
        fields=options.fields,
        window=options.window,
    )
    conversation.search_tool = options.search_tool or conversation.search_tool
    return conversation


def finish_answer(session: Session, relay: RelayClient, conversation: Conversation) -> int:
    """Continue a conversation to its answer, print it, and return the exit code.

    While research runs, the journal has all that a later command needs to finish the answer.
    """
    records = CallRecords(session.pending, relay, conversation)

    with progress(f"waiting for {conversation.model}") as shown, telling_retries(shown.retrying):

        def on_view(view: Invocation) -> None:
            shown.status(f"waiting for {conversation.model}" if view.finished else run_status(view))

        def on_accepted(call: ToolCall, view: AcceptedInvocation) -> None:
            record = records.accepted(call, view)
            until = may_take_until(record.window_ends_at)
            notice(f"[deep_research was accepted by the relay as {call.invocation_id}{until}]")
            show_page(relay.base_url, view)
            on_view(view)  # the first poll may take as long as the relay lets a request wait

        research = records.recorded(research_through(relay, on_accepted, on_view))
        result = session.client.run(converse(conversation, research), session_id=conversation.session_id)
    session.answer_id = result.response_id
    try:
        code = _print(session, result)
    finally:  # whole, even if stdout does not take it
        _keep(session, conversation, result)
    # A run whose final view was not read may continue, even if the answer did without it.
    unread = {call.invocation_id for call in conversation.calls if call.unread}
    for record in session.pending.records:
        if record.id not in unread:
            session.pending.drop(record)
    if session.options.verbose:
        show_turns(session, result)
    return code


def run_status(view: Invocation) -> str:
    """Return the progress line of a research run."""
    as_of = f"{view.updated_at.astimezone():%H:%M:%S}"
    return f"waiting for the relay's research run: {view.status}, as of {as_of}{until_words(view)}"


def saved_conversation(record: Record) -> Conversation | None:
    """Return the conversation of a record; None if it has none, or one that this version cannot read."""
    if record.conversation is None:
        return None
    try:
        return Conversation.load(record.conversation)
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def is_gone(error: RelayError, record: Record, relay: RelayClient) -> bool:
    """Return True if the run's own relay reports that it no longer has the run."""
    return error.status == 404 and error.code == "not_found" and (record.relay == relay.base_url or own_relay())


def _continue_last(session: Session, conversation: Conversation) -> None:
    """Let a new conversation go on with the last one of this terminal."""
    talk = resume(session)
    conversation.earlier = list(talk.messages)
    conversation.instructions = conversation.instructions or talk.instructions
    if talk.is_stored:
        conversation.previous_response_id = talk.response_id
    else:
        conversation.bridged = True


def _keep(session: Session, conversation: Conversation, result: ToolCallingResult) -> None:
    """Keep the prompt and the answer for --continue; the answer has what the model made of the calls between them."""

    def asked() -> Talk:
        gateway = str(session.client.openai.base_url)
        talk = Talk(gateway, "responses", conversation.model, conversation.instructions, tuple(conversation.earlier))
        return talk._replace(bridged=conversation.bridged or None).with_prompt(conversation.prompt)

    keep_answer(session, asked, result.final_text, result.response_id)


class CallRecords:
    """The journal's records of a conversation's calls.

    Each record holds the whole conversation, so that any one of them is enough to finish the answer.

    Args:
        pending: the work of this conversation.
        relay: runs its calls.
        conversation: a new or a saved one.
    """

    def __init__(self, pending: PendingWork, relay: RelayClient, conversation: Conversation) -> None:
        self._pending, self._relay, self._conversation = pending, relay, conversation
        self._known: dict[str, Record] = {}  # by the call's idempotency key
        for call in conversation.calls:
            known = journal.find(journal.local_id(call.key)) or journal.find(call.invocation_id)
            if known is not None:
                self._known[call.key] = known
                if not known.confirmed:  # the `POST` of an earlier command may have been accepted
                    call.status = UNCONFIRMED
                pending.follow(known)

    def recorded(self, research: Research) -> Research:
        """Return `research`, with the intent of each call made durable before its `POST`."""

        def run(call: ToolCall, arguments: JsonObject) -> Operation[None]:
            return self._run(research, call, arguments)

        return run

    def accepted(self, call: ToolCall, _: AcceptedInvocation) -> Record:
        """Turn the intent of a call into the run that a relay accepted, and return its record."""
        saved = self._conversation.save()
        run_id, token = call.invocation_id or "", call.invocation_token or ""
        record = self._known[call.key]._replace(window=call.window)  # perhaps the relay's default
        self._pending.accept(record, run_id, token, saved)
        return record

    async def _run(self, research: Research, call: ToolCall, arguments: JsonObject) -> None:
        known = self._known.get(call.key)
        if call.invocation_id is None and known is not None and known.confirmed:
            # The conversation was saved before the relay accepted this call, whose own record is newer.
            call.invocation_id, call.invocation_token = known.id, known.token
        elif call.invocation_id is None:
            self._begin(call, arguments)
        try:
            await research(call, arguments)
        except ConfigurationError:
            if call.invocation_id is None and known is None:  # nothing was sent
                self._pending.drop(self._known[call.key])
            raise
        except RelayError as error:
            record = self._known.get(call.key)
            if record is not None and (call.invocation_id is None or is_gone(error, record, self._relay)):
                self._pending.drop(record)
            raise

    def _begin(self, call: ToolCall, arguments: JsonObject) -> None:
        intent = journal.intent(
            RESEARCH,
            self._conversation.prompt,
            call.key,
            self._relay.base_url,
            arguments=posted_arguments(arguments),
            conversation=self._conversation.save(),
            payer_headers=self._relay.payer.headers,
            window=self._conversation.window,
        )
        # The record of an earlier command keeps its submission time; only the conversation is newer.
        known = self._known.setdefault(call.key, intent)
        self._pending.begin(known._replace(conversation=intent.conversation))


def _print(session: Session, result: ToolCallingResult) -> int:
    """Print the answer on stdout, and the calls behind it on stderr: briefly for a person, as JSON for a program."""
    person = stderr_is_terminal()
    if person:
        _print_ids(session, result, person=True)
    if session.options.json:
        session.out.paragraph(json.dumps(asdict(result), ensure_ascii=False))
    else:
        session.out.paragraph(result.final_text)
        if session.lists_sources:
            session.out.paragraph(source_list(result.sources, result.final_text))
    for call in result.calls:
        if call.error:
            notice(f"[{call.name} {call.status}: {call.error}]")
    if not person:
        _print_ids(session, result, person=False)
    if result.research_failed:
        notice("Error: the answer was given without the research that the model called for")
        return NOT_AS_ASKED
    return session.check(result.final_text)


def _print_ids(session: Session, result: ToolCallingResult, *, person: bool) -> None:
    """Print the ids: as JSON those of the last run for a program, those of each run with --verbose; briefly otherwise.

    The JSON holds the tokens, which read and cancel the runs: they are the user's, and stderr is the user's alone.
    """
    if not result.tool_called:
        return
    notice("[deep_research was called automatically]")
    accepted = [call for call in result.calls if call.invocation_id]
    if not person:
        _print_json(result, result)
    elif session.options.verbose:
        for call in accepted:
            _print_json(result, call)
    else:
        for call in accepted:
            notice(f"[research run {_shortened(call.invocation_id)}: {call.status}]")
        notice(f"[answer {_shortened(result.response_id)}]")


def _print_json(result: ToolCallingResult, run: ToolCallingResult | ToolCall) -> None:
    ids = {
        "response_id": result.response_id,
        "previous_response_id": result.previous_response_id,
        "tool_call_id": run.call_id if isinstance(run, ToolCall) else run.tool_call_id,
        "invocation_id": run.invocation_id,
        "invocation_token": run.invocation_token,
        "upstream_response_id": run.upstream_response_id,
    }
    notice(json.dumps(ids, ensure_ascii=False))


def _shortened(text: str | None) -> str:
    text = without_keys(text or "without an id")  # before the cut, as half a key would not be recognized
    return text if len(text) <= 48 else f"{text[:45]}..."


def show_page(relay_url: str, accepted: AcceptedInvocation) -> None:
    """Print the link of an accepted run if a person reads stderr: it includes the token, which no log should keep."""
    link = _link(relay_url, accepted, accepted.invocation_token)
    if link is not None and stderr_is_terminal():
        notice(f"[watch it at {link}]")


def open_page(out: Output, relay_url: str, view: Invocation, token: str) -> None:
    """Open the page of a run in a browser, or print its link if there is none.

    Raises:
        RelayError: the relay has no pages.
    """
    link = _link(relay_url, view, token)
    if link is None:
        raise RelayError("the relay has no pages: it is an older release, or another implementation")
    if _browse(link):
        notice(f"[opened the page of {one_line(view.invocation_id)} in a browser]")
    else:
        out.paragraph(link)


def _link(relay_url: str, view: Invocation, token: str) -> str | None:
    """Return the link of a run, at the relay's public address if it has one; None if the relay has no pages."""
    if "url" not in view.model_fields_set:
        return None
    return with_token(view.url or page_url(relay_url, view.invocation_id), token)


def _browse(link: str) -> bool:
    import webbrowser  # here: few command lines need it

    # Without a display, only browsers within the terminal are left, which do not run the page's script.
    graphical = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not graphical and not os.environ.get("BROWSER"):
        return False
    try:
        return webbrowser.open(link)
    except (webbrowser.Error, OSError):
        return False
