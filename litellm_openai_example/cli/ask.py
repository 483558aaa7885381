"""Asking the gateway: answers, streams, background responses and what follows up on them."""

from __future__ import annotations

from ..attachments import content_of
from ..calls import calls
from ..calls.reasons import RUNNING
from ..calls.reply import Reply, require_complete
from ..calls.requests import chat_request, foreign_fields, response_request
from ..calls.sources import source_list
from ..client import text_stream
from ..config import ConfigurationError
from ..errors import ErrorKind, GatewayError
from ..json_object import JsonObject
from ..transport.policy import telling_retries
from . import work
from .output import notice, progress, readable_json
from .session import Session
from .verbose import tell

_CHECK_SECONDS = 5.0


def run(session: Session, prompt: str) -> int:
    """Carry out a command line that asks the gateway alone."""
    options = session.options
    if known := work.recall(options.retrieve or options.cancel or ""):
        session.pays_as(known.payer)
    if options.retrieve:
        session.response_id = options.retrieve
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
    reply = _create(session, prompt, f"waiting for {session.client.model}")
    _print(session, reply)
    _tell_what_is_missing(session, reply)
    return reply


def _create(session: Session, prompt: str, doing: str) -> Reply:
    request = _request(session, prompt)
    session.sent = True
    with progress(doing) as shown, telling_retries(shown.retrying):
        return session.client.run(calls.ask(_api(session), request))


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
    reply = _create(session, prompt, f"submitting to {session.client.model}")
    session.response_id = reply.answer.id
    if reply.answer.status in RUNNING and reply.answer.id:
        work.remember(work.begun(work.RESPONSE, reply.answer.id, prompt, paid_by=session.payer.headers))
    if not session.options.wait:
        _print_raw(session, reply)
        return reply
    notice(f"[submitted as {session.response_id}]")
    if reply.answer.status not in RUNNING:  # a bridged model: it blocked until it was done
        reply = require_complete(reply)
        _print(session, reply)
    else:
        reply = _wait(session)
    _tell_what_is_missing(session, reply)
    return reply


def _wait(session: Session) -> Reply:
    with progress("waiting for the response") as shown:
        reply = session.client.run(calls.wait(session.response_id or "", shown.status))
    _print(session, reply)
    work.forget(session.response_id)
    return reply


def _retrieve(session: Session) -> Reply:
    reply = session.client.run(calls.retrieve(session.response_id or ""))
    if reply.answer.status == "incomplete" or reply.answer.failed:
        return require_complete(reply)  # which raises what is to be said of it
    _print_raw(session, reply)
    if reply.answer.status not in RUNNING:
        work.forget(session.response_id)
    return reply


def _cancel(session: Session) -> Reply:
    reply = session.client.run(calls.cancel(session.options.cancel or ""))
    if reply.answer.failed and reply.answer.status != "cancelled":
        return require_complete(reply)
    work.forget(session.options.cancel)
    _print_raw(session, reply)
    return reply


def _api(session: Session) -> calls.Api:
    return calls.CHAT if session.options.api == "chat" else calls.RESPONSES


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
            session.client.run(calls.retrieve(response_id), _CHECK_SECONDS)
    except GatewayError as error:
        return error.kind is ErrorKind.NOT_SUPPORTED
    return False
