"""The command lines that call the gateway alone: answers, streams, background responses and their follow-ups."""

from __future__ import annotations

from collections.abc import Callable

from ..attachments import content_of
from ..calls import requests
from ..calls.finish_reasons import RUNNING, TERMINAL
from ..calls.reply import Reply, require_complete, source_list
from ..calls.requests import APIS, chat_request, foreign_fields, response_request
from ..client import text_stream
from ..config import ConfigurationError
from ..errors import ErrorKind, GatewayError
from ..json_object import JsonObject
from ..sdk import DROPPED
from ..transport.policy import telling_retries
from ..window import may_take_until
from . import history, journal
from .ending import Session
from .history import Talk
from .journal import RESPONSE, Record
from .options import Options
from .output import notice, progress, readable_json
from .verbose import show_reply


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
        reply = _answer(session, prompt)
    if options.verbose:
        show_reply(session, reply)
    return session.check(reply.text) if reply.text else 0


def _answer(session: Session, prompt: str) -> Reply:
    exchange = _exchange(session, prompt)
    status = f"waiting for {session.client.model}"
    reply = exchange.send(lambda request: _create(session, request, status))
    try:
        _print(session, reply)
    finally:  # whole, even if stdout does not take it
        exchange.answered(reply)
    _warn_of_omissions(session, reply)
    return reply


def _create(session: Session, request: JsonObject, status: str) -> Reply:
    session.sent = True
    with progress(status) as shown, telling_retries(shown.retrying):
        return session.client.run(requests.create(APIS[session.options.api], request))


def _stream(session: Session, prompt: str) -> Reply:
    exchange = _exchange(session, prompt)
    reply = exchange.send(lambda request: _streamed(session, request))
    session.out.end()
    exchange.answered(reply)
    _print_sources(session, reply)
    _warn_of_omissions(session, reply)
    return reply


def _streamed(session: Session, request: JsonObject) -> Reply:
    if session.options.verbose and session.options.api == "chat":
        # A chat stream counts its tokens on request alone.
        request = {"stream_options": {"include_usage": True}, **request}
    session.sent = True
    with progress(f"waiting for {session.client.model}") as shown, telling_retries(shown.retrying):
        stream = text_stream(session.client, APIS[session.options.api], request)
        for piece in stream:
            # The progress line must be gone before the text is on the same terminal.
            shown.stop()
            session.answer_id = stream.id
            session.out.write(piece)
    return stream.reply


def _submit(session: Session, prompt: str) -> Reply:
    exchange = _exchange(session, prompt)
    gateway = str(session.client.openai.base_url)
    record = journal.intent(
        RESPONSE, prompt, payer_headers=session.payer.headers, gateway=gateway, window=session.window
    )
    # Durable before the POST, so that no crash loses work that was paid for.
    session.pending.begin(record)
    try:
        reply = exchange.send(lambda request: _create(session, request, f"submitting to {session.client.model}"))
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
    if reply.answer.status not in RUNNING:  # a bridged model: the call blocked until the response was complete
        return _finished_at_once(session, exchange, reply)
    if session.response_id:
        history.keep_submitted(session, exchange.asked, session.response_id)
    if not session.options.wait:
        return _print_state(session, reply)
    notice(f"[submitted as {session.response_id}{may_take_until(record.window_ends_at)}]")
    reply = _wait(session)
    _warn_of_omissions(session, reply)
    return reply


def _finished_at_once(session: Session, exchange: _Exchange, reply: Reply) -> Reply:
    if not session.options.wait:
        _print_state(session, reply)
    else:
        notice(f"[submitted as {session.response_id}]")
        reply = require_complete(reply)
        _print(session, reply)
        session.pending.drop_all()
        _warn_of_omissions(session, reply)
    if _is_whole(reply):
        exchange.answered(reply)
    return reply


def _is_whole(reply: Reply) -> bool:
    answer = reply.answer
    return bool(reply.text) and answer.status in ("completed", "") and not answer.failed and not answer.cut_short


def _wait(session: Session) -> Reply:
    (record,) = session.pending.records
    until = may_take_until(record.window_ends_at)
    with progress(f"waiting for the response{until}") as shown:

        def on_status(status: str) -> None:
            shown.status(f"{status}{until}")

        wait = requests.wait(session.response_id or "", on_status, record.window, record.window_ends_at)
        reply = session.client.run(wait)
    try:
        _print(session, reply)
    finally:  # whole, even if stdout does not take it
        history.keep_retrieved(session, reply)
    session.pending.drop_all()
    return reply


def _retrieve(session: Session) -> Reply:
    reply = session.client.run(requests.retrieve(session.response_id or ""))
    if reply.answer.status == "incomplete" or reply.answer.failed:
        return require_complete(reply)  # raises the matching error
    if _is_whole(reply):
        history.keep_retrieved(session, reply)
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
    record = record or Record(RESPONSE, response_id, "", 0.0)
    session.window = record.window
    session.pending.follow(record)


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
    fields = session.options.fields
    if not fields:
        return
    # The SDK's signature lists the fields of the API; an older SDK lacks some of those that the client carries.
    unknown = foreign_fields(session.client.openai.responses.create, fields)
    names = [name for name in unknown if name not in DROPPED["/responses"]]
    if names:
        notice(f"[the gateway passes {', '.join(names)} to no provider: not in the Responses API]")


class _Exchange:
    """One prompt and its answer.

    A stored response is continued by its id. A model that the gateway bridges to another API forgets its responses, and
    a provider deletes them after a while; both get the messages of the conversation instead.

    Args:
        session: of this command; --continue is carried out here.
        content: the content of the prompt's message: a text, or a list of parts.

    Attributes:
        talk: the conversation before the prompt.
        by_id: the prompt continues a stored response by its id.
    """

    def __init__(self, session: Session, content: str | list[JsonObject]) -> None:
        self._session = session
        self._content = content
        self.talk = history.resume(session) if session.options.continue_last else None
        self.by_id = self.talk is not None and self.talk.is_stored

    def request(self) -> JsonObject:
        """Return the fields of the create call."""
        options, model = self._session.options, self._session.client.model
        return request_of(options, model, self._content, self.talk, by_id=self.by_id)

    def send(self, send: Callable[[JsonObject], Reply]) -> Reply:
        """Send the request by `send`, and once more with the messages if the response that it continues is gone."""
        try:
            return send(self.request())
        except GatewayError as error:
            if not self.by_id or error.kind is not ErrorKind.UNKNOWN_RESPONSE:
                raise
            # Refused because of the id, and so not executed.
            if self.talk is None or not self.talk.messages:
                error.hint = "the last response is gone, and its messages were too large to be kept here"
                raise
        notice(f"{history.FROM_COPY}\n{history.SHORTENED}" if self.talk.shortened else history.FROM_COPY)
        self.by_id = False
        return send(self.request())

    def answered(self, reply: Reply) -> None:
        """Keep the conversation with its whole answer."""
        history.keep_answer(self._session, self.asked, reply.text, reply.answer.id)

    def asked(self) -> Talk:
        """Return the conversation with the prompt."""
        options, client = self._session.options, self._session.client
        talk = self.talk or Talk(str(client.openai.base_url), options.api, client.model)
        talk = talk._replace(instructions=options.instructions or talk.instructions)
        return talk.with_prompt(self._content)


def request_of(
    options: Options, model: str, content: str | list[JsonObject], talk: Talk | None = None, *, by_id: bool = False
) -> JsonObject:
    """Return the fields of a create call.

    Args:
        options: of the command line, or of one of many questions.
        model: the model.
        content: the content of the prompt's message.
        talk: the conversation before the prompt.
        by_id: that conversation is a stored response.
    """
    instructions = options.instructions or (talk.instructions if talk else None)
    earlier = talk.messages if talk and not by_id else ()
    if options.api == "chat":
        return chat_request(model, content, instructions, options.fields, earlier)
    messages = [*earlier, {"role": "user", "content": content}]
    return response_request(
        model,
        content if isinstance(content, str) and not earlier else [{"type": "message", **one} for one in messages],
        tools=[options.search_tool] if options.search_tool else None,
        previous_response_id=talk.response_id if talk and by_id else options.previous_response_id,
        instructions=instructions,
        background=options.background,
        fields=options.fields,
    )


def _exchange(session: Session, prompt: str) -> _Exchange:
    if session.options.api == "responses":
        warn_of_dropped_fields(session)
    return _Exchange(session, prompt_content(session.options, prompt))


def prompt_content(options: Options, prompt: str) -> str | list[JsonObject]:
    """Return the content of the prompt's message, with the files.

    Raises:
        ConfigurationError: one of the files cannot be sent.
    """
    if not options.files:
        return prompt
    try:
        content = content_of(prompt, options.files, options.api)
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}; nothing was sent") from None
    except ValueError as error:
        raise ConfigurationError(f"-f: {error}; nothing was sent") from None
    if options.api == "responses" and not isinstance(content, str):  # an input of one message
        content = content[0]["content"]
    return content


def _print(session: Session, reply: Reply) -> None:
    if session.options.json:
        _print_raw(session, reply)
        return
    session.answer_id = reply.answer.id
    session.out.paragraph(reply.text)
    _print_sources(session, reply)


def _print_sources(session: Session, reply: Reply) -> None:
    if session.lists_sources and reply.answer.sources:
        session.out.paragraph(source_list(reply.answer.sources, reply.text))


def _print_raw(session: Session, reply: Reply) -> None:
    session.answer_id = reply.answer.id
    session.out.paragraph(readable_json(reply.raw))


def _warn_of_omissions(session: Session, reply: Reply) -> None:
    """Warn about parts of the request that a gateway omits silently: the web search, the previous response."""
    options = session.options
    if options.search_tool and not reply.answer.searched:
        notice("[the answer shows no web search: the model did not search, or the gateway left the tool out]")
    if not options.previous_response_id or not reply.answer.id:
        return
    if history.check_stored(session, reply.answer.id) is ErrorKind.NOT_SUPPORTED:
        notice(f"[the gateway bridges {session.client.model}: it may have forgotten the conversation before]")
