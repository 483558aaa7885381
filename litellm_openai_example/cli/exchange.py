"""One exchange with the gateway: a prompt, the conversation that it continues with --continue, and what is kept of it.

A stored response is continued by its id. A model that the gateway bridges to another API forgets its responses, and a
provider deletes them after a while; both get the messages of the conversation instead.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..calls import requests
from ..calls.answer import sendable
from ..calls.reply import Reply
from ..calls.requests import chat_request, response_request
from ..config import ConfigurationError
from ..errors import ErrorKind, GatewayError
from ..json_object import JsonObject
from .options import Options
from .output import notice, progress
from .session import Session

if TYPE_CHECKING:  # a prompt without --continue needs the history only after its answer
    from .history import Talk

_CHECK_SECONDS = 5.0
_DECISIVE_CHECK_SECONDS = 10.0
_SHORTENED = "[the conversation is longer than what is kept: the model does not get its beginning]"
_FROM_COPY = "[the gateway no longer has the last response: continuing from the messages kept here]"


class Exchange:
    """One prompt and its answer.

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
        self.talk = resume(session) if session.options.continue_last else None
        self.by_id = self.talk is not None and is_stored(self.talk)

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
        notice(f"{_FROM_COPY}\n{_SHORTENED}" if self.talk.shortened else _FROM_COPY)
        self.by_id = False
        return send(self.request())

    def submitted(self, response_id: str) -> None:
        """Keep the conversation of a background response until it is read."""
        from . import history

        if history.is_kept():
            talk = self._asked()
            _keep(self._session, lambda: history.keep_submitted(talk, response_id))

    def answered(self, reply: Reply) -> None:
        """Keep the conversation with its whole answer."""
        keep_answer(self._session, self._asked, reply.text, reply.answer.id)

    def _asked(self) -> Talk:
        from .history import Talk

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
        content if isinstance(content, str) and not earlier else items_of(messages),
        tools=[options.search_tool] if options.search_tool else None,
        previous_response_id=talk.response_id if talk and by_id else options.previous_response_id,
        instructions=instructions,
        background=options.background,
        fields=options.fields,
    )


def items_of(messages: Iterable[JsonObject]) -> list[JsonObject]:
    """Return messages as input items of the Responses API."""
    return [{"type": "message", **message} for message in messages]


def resume(session: Session) -> Talk:
    """Return the conversation that --continue goes on with.

    Raises:
        ConfigurationError: there is none.
    """
    from . import history

    options, client = session.options, session.client
    gateway = str(client.openai.base_url)
    if not history.is_kept():
        raise ConfigurationError("there is nothing to continue: LITELLM_NO_HISTORY is set, so no conversation is kept")
    talk = history.find(gateway, options.api, client.model)
    if talk is None:
        raise ConfigurationError(
            f"there is nothing to continue: no conversation with {client.model} through the {options.api} API at "
            f"{gateway} is kept{_hint(history.find_any(gateway))}"
        )
    if history.is_elsewhere(talk):
        notice(f"[continuing the conversation of another terminal: {talk.words}]")
    if options.api == "responses" and talk.bridged is None and talk.response_id:
        talk = _with_storage(session, talk)
    if not talk.messages and not is_stored(talk):
        raise ConfigurationError(
            f"the last conversation cannot be continued: it is larger than the {history.MOST_BYTES // 2**20} MB that "
            "are kept"
        )
    if talk.shortened and not is_stored(talk):
        notice(_SHORTENED)
    return talk


def is_stored(talk: Talk) -> bool:
    """Can the conversation be continued by the id of its last response, as far as is known?"""
    return talk.response_id is not None and not talk.bridged


def keep_answer(session: Session, asked: Callable[[], Talk], text: str, response_id: str | None) -> None:
    """Keep a conversation whose last prompt has a whole answer; an unusable state directory is reported in one line.

    Args:
        session: of this command.
        asked: returns the conversation with that prompt.
        text: the answer.
        response_id: its id, for the Responses API.
    """
    from . import history

    if history.is_kept():
        talk = asked()
        talk = talk.with_answer(sendable(text), response_id if talk.api == "responses" else None)
        _keep(session, lambda: history.keep(talk))


def keep_retrieved(session: Session, reply: Reply) -> None:
    """Keep the conversation of a background response that an earlier command has submitted."""
    from . import history

    response_id = session.response_id or ""
    if history.is_kept() and (talk := history.take_submitted(response_id)) is not None:
        keep_answer(session, lambda: talk, reply.text, response_id)


def check_stored(session: Session, response_id: str, seconds: float = _CHECK_SECONDS) -> ErrorKind | None:
    """Return None if the gateway has a response, otherwise the kind of error.

    It is NOT_SUPPORTED if the gateway makes this model's responses out of another API, which stores none of them, and
    UNKNOWN_RESPONSE if the response is gone. Any other kind says nothing about the response.
    """
    try:
        with progress("checking that the model knows the conversation"):
            session.client.run(requests.retrieve(response_id), seconds)
    except GatewayError as error:
        return error.kind
    return None


def _with_storage(session: Session, talk: Talk) -> Talk:
    """Return the conversation with what the gateway says of its last response."""
    # Longer than a warning may take: without an answer, a bridged model is asked without its conversation.
    kind = check_stored(session, talk.response_id or "", _DECISIVE_CHECK_SECONDS)
    if kind is ErrorKind.UNKNOWN_RESPONSE and talk.messages:
        notice(_FROM_COPY)
        return talk._replace(response_id=None)
    if kind in (None, ErrorKind.NOT_SUPPORTED):
        return talk._replace(bridged=kind is not None)
    return talk  # the id is tried


def _keep(session: Session, write: Callable[[], None]) -> None:
    try:
        write()
    except (OSError, ConfigurationError) as error:
        if not session.pending.told:
            reason = str(error) if isinstance(error, ConfigurationError) else error.strerror
            notice(f"[the conversation is not kept for --continue: {reason}]")


def _hint(other: Talk | None) -> str:
    if other is None:
        return ""
    options: Iterable[str] = ["--model", other.model, *(["--api", other.api] if other.api != "chat" else [])]
    return f"; the last one was with {shlex.join(options)}"
