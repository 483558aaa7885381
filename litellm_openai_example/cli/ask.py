"""Asking the gateway: answers, streams, background responses and what follows up on them."""

from __future__ import annotations

from ..attachments import content_of
from ..calls import requests
from ..calls.finish_reasons import RUNNING, TERMINAL
from ..calls.reply import Reply, require_complete, source_list
from ..calls.requests import chat_request, foreign_fields, response_request
from ..client import text_stream
from ..config import ConfigurationError
from ..errors import ErrorKind, GatewayError
from ..json_object import JsonObject
from ..transport.policy import telling_retries
from . import journal
from .journal import RESPONSE, Record
from .output import notice, progress, readable_json
from .session import Session
from .verbose import tell

_CHECK_SECONDS = 5.0


def run(session: Session, prompt: str) -> int:
    """Carry out a command line that asks the gateway alone."""
    options = session.options
    if options.follows_up:
        _follow(session, options.retrieve or options.cancel or "")
    if options.retrieve:
        reply = _wait(session) if options.wait else _retrieve(session)
    elif options.cancel:
        reply = _cancel(session)
    elif options.background:
        reply = _submit(session, prompt)
    elif session.streams:
        reply = _stream(session, prompt)
    else:
        reply = _ask(session, prompt)
    if options.verbose:
        tell(session, reply)
    return 0


def _ask(session: Session, prompt: str) -> Reply:
    reply = _create(session, _request(session, prompt), f"waiting for {session.client.model}")
    _print(session, reply)
    _tell_what_is_missing(session, reply)
    return reply


def _create(session: Session, request: JsonObject, doing: str) -> Reply:
    session.sent = True
    with progress(doing) as shown, telling_retries(shown.retrying):
        return session.client.run(requests.create(_api(session), request))


def _stream(session: Session, prompt: str) -> Reply:
    request = _request(session, prompt)
    session.sent = True
    with progress(f"waiting for {session.client.model}") as shown, telling_retries(shown.retrying):
        stream = text_stream(session.client, _api(session), request)
        for piece in stream:
            shown.stop()
            session.answer_id = stream.id
            session.out.write(piece)
    session.out.end()
    _print_sources(session, stream.reply)
    _tell_what_is_missing(session, stream.reply)
    return stream.reply


def _submit(session: Session, prompt: str) -> Reply:
    request = _request(session, prompt)
    gateway = str(session.client.openai.base_url)
    entry = journal.intent(RESPONSE, prompt, paid_by=session.payer.headers, gateway=gateway)
    session.in_flight.begin(entry)
    try:
        reply = _create(session, request, f"submitting to {session.client.model}")
    except (GatewayError, ConfigurationError) as error:
        if isinstance(error, GatewayError) and error.response_id:  # it was executed, and has failed
            session.response_id = error.response_id
            session.in_flight.accept(entry, error.response_id)
        elif _was_refused(error):
            session.in_flight.drop(entry)
        raise
    session.response_id = reply.answer.id
    session.in_flight.accept(entry, reply.answer.id or entry.id)
    if not session.options.wait:
        _print_raw(session, reply)
        _drop_if_ended(session, reply)
        return reply
    notice(f"[submitted as {session.response_id}]")
    if reply.answer.status not in RUNNING:  # a bridged model: it blocked until it was done
        reply = require_complete(reply)
        _print(session, reply)
        session.in_flight.drop_all()
    else:
        reply = _wait(session)
    _tell_what_is_missing(session, reply)
    return reply


def _wait(session: Session) -> Reply:
    with progress("waiting for the response") as shown:
        reply = session.client.run(requests.wait(session.response_id or "", shown.status))
    _print(session, reply)
    session.in_flight.drop_all()
    return reply


def _retrieve(session: Session) -> Reply:
    reply = session.client.run(requests.retrieve(session.response_id or ""))
    if reply.answer.status == "incomplete" or reply.answer.failed:
        return require_complete(reply)  # which raises what is to be said of it
    _print_raw(session, reply)
    _drop_if_ended(session, reply)
    return reply


def _cancel(session: Session) -> Reply:
    reply = session.client.run(requests.cancel(session.response_id or ""))
    if reply.answer.failed and reply.answer.status != "cancelled":
        return require_complete(reply)
    _print_raw(session, reply)
    _drop_if_ended(session, reply)
    return reply


def _drop_if_ended(session: Session, reply: Reply) -> None:
    """Forget a response that was printed, unless it goes on, or says nothing that is known."""
    if reply.answer.status in TERMINAL or (reply.text and not reply.answer.status):
        session.in_flight.drop_all()


def _follow(session: Session, response_id: str) -> None:
    """Take up the background response of an earlier command, by its id or the local id of its record."""
    known = journal.find(response_id)
    if known is None and response_id.startswith(journal.LOCAL):
        raise ConfigurationError(f"nothing is kept here as {response_id}: --list shows what is")
    if known is not None and not known.confirmed:
        other = "its id is not known" if known.kind == RESPONSE else "a research run is picked up with --invocation"
        raise ConfigurationError(f"{response_id} is not the id of a response at the gateway: {other}")
    if known is not None:
        session.pays_as(known.payer)
    session.response_id = known.id if known is not None else response_id
    session.in_flight.follow(known or Record(RESPONSE, response_id, "", 0.0))


def _was_refused(error: GatewayError | ConfigurationError) -> bool:
    """Return True if a background submit that failed with this error was certainly not executed."""
    if isinstance(error, ConfigurationError):
        return True
    if error.outcome_unknown:
        return False
    # A time limit whose outcome is known passed before the request was sent.
    unsent = error.kind in (ErrorKind.UNREACHABLE, ErrorKind.TIMEOUT, ErrorKind.NOT_SUPPORTED, ErrorKind.WRONG_ADDRESS)
    return unsent or (error.status is not None and 400 <= error.status < 500)


def _api(session: Session) -> requests.Api:
    return requests.CHAT if session.options.api == "chat" else requests.RESPONSES


def tell_dropped_fields(session: Session) -> None:
    """Tell which fields of -o reach no provider: LiteLLM drops those that it does not know of a response.

    Those of a chat completion it passes on, and the provider refuses what it does not know.
    """
    fields = session.options.fields
    names = foreign_fields(session.client.openai.responses.create, fields) if fields else []
    if names:
        notice(f"[the gateway passes {', '.join(names)} to no provider: not in the Responses API]")


def _request(session: Session, prompt: str) -> JsonObject:
    options, model = session.options, session.client.model
    try:
        content = content_of(prompt, options.files, options.api)
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}; nothing was sent") from None
    except ValueError as error:
        raise ConfigurationError(f"-f: {error}; nothing was sent") from None
    if options.api == "chat":
        return chat_request(model, content, options.instructions, options.further)
    tell_dropped_fields(session)
    return response_request(
        model,
        content,
        tools=[options.tool] if options.tool else None,
        previous_response_id=options.previous_response_id,
        instructions=options.instructions,
        background=options.background,
        fields=options.further,
    )


def _print(session: Session, reply: Reply) -> None:
    session.answer_id = reply.answer.id
    if session.options.json:
        _print_raw(session, reply)
        return
    session.out.paragraph(reply.text)
    _print_sources(session, reply)


def _print_sources(session: Session, reply: Reply) -> None:
    if session.options.sources and not session.options.json:
        session.out.paragraph(source_list(reply.answer.sources, reply.text))


def _print_raw(session: Session, reply: Reply) -> None:
    session.answer_id = reply.answer.id
    session.out.paragraph(readable_json(reply.raw))


def _tell_what_is_missing(session: Session, reply: Reply) -> None:
    """What a gateway leaves out without a word: the search that was asked for, the conversation before."""
    options = session.options
    if options.web_search and not reply.answer.searched:
        notice("[the answer shows no web search: the model did not search, or the gateway left the tool out]")
    if options.previous_response_id and reply.answer.id and _is_bridged(session, reply.answer.id):
        notice(f"[the gateway bridges {session.client.model}: it may have forgotten the conversation before]")


def _is_bridged(session: Session, response_id: str) -> bool:
    """Whether the gateway makes this model's responses out of another API, which keeps none of them."""
    try:
        with progress("checking that the model knew the conversation"):
            session.client.run(requests.retrieve(response_id), _CHECK_SECONDS)
    except GatewayError as error:
        return error.kind is ErrorKind.NOT_SUPPORTED
    return False
