"""The command lines that call the gateway alone: answers, streams, background responses and their follow-ups."""

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
from .options import Options
from .output import notice, progress, readable_json
from .session import Session
from .verbose import show_reply

APIS = {"chat": requests.CHAT, "responses": requests.RESPONSES}
_CHECK_SECONDS = 5.0


def run(session: Session, prompt: str) -> int:
    """Carry out a command line that calls the gateway alone, and return the exit code."""
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
        reply = _create(session, _request(session, prompt), f"waiting for {session.client.model}")
        _print(session, reply)
        _warn_of_omissions(session, reply)
    if options.verbose:
        show_reply(session, reply)
    return 0


def _create(session: Session, request: JsonObject, status: str) -> Reply:
    session.sent = True
    with progress(status) as shown, telling_retries(shown.retrying):
        return session.client.run(requests.create(APIS[session.options.api], request))


def _stream(session: Session, prompt: str) -> Reply:
    request = _request(session, prompt)
    session.sent = True
    with progress(f"waiting for {session.client.model}") as shown, telling_retries(shown.retrying):
        stream = text_stream(session.client, APIS[session.options.api], request)
        for piece in stream:
            # The progress line must be gone before the text is on the same terminal.
            shown.stop()
            session.answer_id = stream.id
            session.out.write(piece)
    session.out.end()
    _print_sources(session, stream.reply)
    _warn_of_omissions(session, stream.reply)
    return stream.reply


def _submit(session: Session, prompt: str) -> Reply:
    request = _request(session, prompt)
    gateway = str(session.client.openai.base_url)
    record = journal.intent(RESPONSE, prompt, payer_headers=session.payer.headers, gateway=gateway)
    # Durable before the POST, so that no crash loses work that was paid for.
    session.pending.begin(record)
    try:
        reply = _create(session, request, f"submitting to {session.client.model}")
    except (GatewayError, ConfigurationError) as error:
        if isinstance(error, GatewayError) and error.response_id:  # it was executed, and has failed
            session.response_id = error.response_id
            session.pending.accept(record, error.response_id)
        elif was_refused(error):
            session.pending.drop(record)
        raise
    session.response_id = reply.answer.id
    # Without an id the record stays unconfirmed.
    session.pending.accept(record, reply.answer.id or record.id)
    if not session.options.wait:
        return _print_state(session, reply)
    notice(f"[submitted as {session.response_id}]")
    if reply.answer.status not in RUNNING:  # a bridged model: the call blocked until the response was complete
        reply = require_complete(reply)
        _print(session, reply)
        session.pending.drop_all()
    else:
        reply = _wait(session)
    _warn_of_omissions(session, reply)
    return reply


def _wait(session: Session) -> Reply:
    with progress("waiting for the response") as shown:
        reply = session.client.run(requests.wait(session.response_id or "", shown.status))
    _print(session, reply)
    session.pending.drop_all()
    return reply


def _retrieve(session: Session) -> Reply:
    reply = session.client.run(requests.retrieve(session.response_id or ""))
    if reply.answer.status == "incomplete" or reply.answer.failed:
        return require_complete(reply)  # raises the matching error
    return _print_state(session, reply)


def _cancel(session: Session) -> Reply:
    reply = session.client.run(requests.cancel(session.response_id or ""))
    if reply.answer.failed and reply.answer.status != "cancelled":
        return require_complete(reply)
    return _print_state(session, reply)


def _print_state(session: Session, reply: Reply) -> Reply:
    """Print a background response as JSON, and drop its record unless it may still run."""
    _print_raw(session, reply)
    if reply.answer.status in TERMINAL or (reply.text and not reply.answer.status):
        session.pending.drop_all()
    return reply


def _follow(session: Session, response_id: str) -> None:
    """Take over the background response of an earlier command.

    Args:
        session: of this command.
        response_id: the response's id, or the local id of its record.

    Raises:
        ConfigurationError: it is not the id of a response.
    """
    record = journal.find(response_id)
    if record is None and response_id.startswith(journal.LOCAL):
        raise ConfigurationError(f"no record of {response_id} here; --list shows all records")
    if record is not None and not record.confirmed:
        reason = "its id is not known" if record.kind == RESPONSE else "a research run is picked up with --invocation"
        raise ConfigurationError(f"{response_id} is not the id of a response at the gateway: {reason}")
    if record is not None:
        session.default_payer(record.payer)
    session.response_id = record.id if record is not None else response_id
    session.pending.follow(record or Record(RESPONSE, response_id, "", 0.0))


def was_refused(error: GatewayError | ConfigurationError) -> bool:
    """Return True if a create that failed with this error was certainly not executed."""
    if isinstance(error, ConfigurationError):
        return True
    if error.outcome_unknown:
        return False
    # A timeout with a known outcome passed before the request was sent.
    unsent = error.kind in (ErrorKind.UNREACHABLE, ErrorKind.TIMEOUT, ErrorKind.NOT_SUPPORTED, ErrorKind.WRONG_ADDRESS)
    return unsent or (error.status is not None and 400 <= error.status < 500)


def warn_of_dropped_fields(session: Session) -> None:
    """Name the fields of -o that reach no provider.

    LiteLLM drops fields of a response that it does not know. Those of a chat completion it passes on, and the provider
    refuses unknown ones.
    """
    # The SDK's signature lists the fields of the API.
    fields = session.options.fields
    names = foreign_fields(session.client.openai.responses.create, fields) if fields else []
    if names:
        notice(f"[the gateway passes {', '.join(names)} to no provider: not in the Responses API]")


def _request(session: Session, prompt: str) -> JsonObject:
    if session.options.api == "responses":
        warn_of_dropped_fields(session)
    return request_of(session.options, session.client.model, prompt)


def request_of(options: Options, model: str, prompt: str) -> JsonObject:
    """Return the request of a call to the gateway.

    Raises:
        ConfigurationError: one of its files cannot be sent.
    """
    try:
        content = content_of(prompt, options.files, options.api)
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}; nothing was sent") from None
    except ValueError as error:
        raise ConfigurationError(f"-f: {error}; nothing was sent") from None
    if options.api == "chat":
        return chat_request(model, content, options.instructions, options.fields)
    return response_request(
        model,
        content,
        tools=[options.search_tool] if options.search_tool else None,
        previous_response_id=options.previous_response_id,
        instructions=options.instructions,
        background=options.background,
        fields=options.fields,
    )


def _print(session: Session, reply: Reply) -> None:
    if session.options.json:
        _print_raw(session, reply)
        return
    session.answer_id = reply.answer.id
    session.out.paragraph(reply.text)
    _print_sources(session, reply)


def _print_sources(session: Session, reply: Reply) -> None:
    if session.options.sources and not session.options.json and reply.answer.sources:
        session.out.paragraph(source_list(reply.answer.sources, reply.text))


def _print_raw(session: Session, reply: Reply) -> None:
    session.answer_id = reply.answer.id
    session.out.paragraph(readable_json(reply.raw))


def _warn_of_omissions(session: Session, reply: Reply) -> None:
    """Warn about parts of the request that a gateway omits silently: the web search, the previous response."""
    options = session.options
    if options.search_tool and not reply.answer.searched:
        notice("[the answer shows no web search: the model did not search, or the gateway left the tool out]")
    if options.previous_response_id and reply.answer.id and _is_bridged(session, reply.answer.id):
        notice(f"[the gateway bridges {session.client.model}: it may have forgotten the conversation before]")


def _is_bridged(session: Session, response_id: str) -> bool:
    """Does the gateway make this model's responses out of another API, which stores none of them?"""
    try:
        with progress("checking that the model knew the conversation"):
            session.client.run(requests.retrieve(response_id), _CHECK_SECONDS)
    except GatewayError as error:
        return error.kind is ErrorKind.NOT_SUPPORTED
    return False
