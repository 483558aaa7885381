"""An answer for which the model may have research run: the conversation, its journal, and what is printed of it."""

from __future__ import annotations

import json
from dataclasses import asdict

from ..calls.reply import source_list
from ..calls.steps import Operation
from ..config import ConfigurationError
from ..json_object import JsonObject
from ..research.contract import Invocation
from ..research.loop import Conversation, Research, ToolCall, ToolCallingResult, converse, research_through
from ..research.relay_calls import RelayError
from ..research.relay_client import RelayClient
from ..transport.policy import telling_retries
from . import journal
from .again import own_relay
from .ask import tell_dropped_fields
from .ending import NOT_AS_ASKED
from .journal import RESEARCH, Record
from .output import notice, progress, stderr_is_terminal, without_keys
from .session import Session
from .verbose import tell_turns


def new_answer(session: Session, relay: RelayClient, prompt: str) -> int:
    """Carry out --auto-tool-call."""
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
    relay.payer = conversation.paid_by(session.payer)
    relay.check()  # before the first call that is paid for
    tell_dropped_fields(session)
    session.sent = True
    return finish_answer(session, relay, conversation)


def finish_answer(session: Session, relay: RelayClient, conversation: Conversation) -> int:
    """Go on with a conversation, and print the answer. While research runs, it can be picked up."""
    calls = _CallJournal(session, relay, conversation)
    with progress(f"waiting for {conversation.model}") as shown, telling_retries(shown.retrying):

        def on_view(view: Invocation) -> None:
            shown.status(f"waiting for {conversation.model}" if view.finished else run_status(view))

        research = calls.journaled(research_through(relay, calls.accepted, on_view))
        result = session.client.run(converse(conversation, research), session_id=conversation.session_id)
    session.answer_id = result.response_id
    code = _print(session, result)
    unread = {call.invocation_id for call in conversation.calls if call.unread}
    for entry in session.in_flight.records:
        if entry.id not in unread:
            session.in_flight.drop(entry)
    if session.options.verbose:
        tell_turns(session, result)
    return code


def run_status(view: Invocation) -> str:
    """Return the line of progress for a run."""
    return f"waiting for the relay's research run: {view.status}, as of {view.updated_at.astimezone():%H:%M:%S}"


def saved_conversation(known: Record | None) -> Conversation | None:
    """Return the conversation of a record, if there is one that this version can read."""
    if known is None or known.conversation is None:
        return None
    try:
        return Conversation.load(known.conversation)
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def is_gone(error: RelayError, entry: Record, relay: RelayClient) -> bool:
    """Return True if the run's own relay says that it does not have the run any more."""
    return error.status == 404 and error.code == "not_found" and (entry.relay == relay.base_url or own_relay())


class _CallJournal:
    """The records of a conversation's calls: each with the conversation, so that any of them finishes the answer."""

    def __init__(self, session: Session, relay: RelayClient, conversation: Conversation) -> None:
        self._session, self._relay, self._conversation = session, relay, conversation
        self._known: dict[str, Record] = {}  # by the key of the call
        for call in conversation.calls:
            known = journal.find(journal.local_id(call.key)) or journal.find(call.invocation_id)
            if known is not None:
                self._known[call.key] = known
                session.in_flight.follow(known)

    def journaled(self, research: Research) -> Research:
        """Return `research`, with the intent of each call recorded before its `POST`."""

        def run(call: ToolCall, arguments: JsonObject) -> Operation[None]:
            return self._run(research, call, arguments)

        return run

    def accepted(self, call: ToolCall) -> None:
        """Turn the intent of a call into the run that a relay accepted."""
        saved = self._conversation.save()
        run_id, token = call.invocation_id or "", call.invocation_token or ""
        self._session.in_flight.accept(self._known[call.key], run_id, token, saved)
        notice(f"[deep_research was accepted by the relay as {run_id}]")

    async def _run(self, research: Research, call: ToolCall, arguments: JsonObject) -> None:
        known = self._known.get(call.key)
        if call.invocation_id is None and known is not None and known.confirmed:
            call.invocation_id, call.invocation_token = known.id, known.token
        elif call.invocation_id is None:
            self._begin(call, arguments)
        try:
            await research(call, arguments)
        except ConfigurationError:
            if call.invocation_id is None and known is None:  # nothing was sent
                self._session.in_flight.drop(self._known[call.key])
            raise
        except RelayError as error:
            if call.invocation_id is None and known is not None:
                # The first `POST` of this call, by an earlier command, may have been accepted before.
                raise self._relay.unconfirmed(call.key, _posted(arguments), error) from error
            entry = self._known.get(call.key)
            if entry is not None and (call.invocation_id is None or is_gone(error, entry, self._relay)):
                self._session.in_flight.drop(entry)
            raise

    def _begin(self, call: ToolCall, arguments: JsonObject) -> None:
        entry = journal.intent(
            RESEARCH,
            self._conversation.prompt,
            call.key,
            relay=None if own_relay() else self._relay.base_url,
            arguments=_posted(arguments),
            conversation=self._conversation.save(),
            paid_by=self._relay.payer.headers,
        )
        known = self._known.setdefault(call.key, entry)
        self._session.in_flight.begin(known._replace(conversation=entry.conversation))


def _posted(arguments: JsonObject) -> JsonObject:
    """The arguments of a call as the conversation posts them."""
    return {**arguments, "background": True}


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
