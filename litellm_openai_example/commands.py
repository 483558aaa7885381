"""What each way of calling the command does, and how it ends."""

from __future__ import annotations

import sys
import time
import traceback
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .cli import PROGRAM, Options
from .config import ConfigurationError, gateway_settings, is_secret, setting
from .deadline import Deadline
from .output import Output, abandon_stdout, notice, progress, readable_json
from .quick_import import import_client

if TYPE_CHECKING:
    from .client import LiteLLMClient
    from .errors import GatewayError
    from .operations import Reply

WEB_SEARCH = {"type": "web_search_preview"}


class Session:
    """One run of the command.

    Attributes:
        response_id: of a background response that can be picked up.
        invocation: id and token of a research that can be picked up.
        sent: whether something that costs may be on its way.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.started = time.monotonic()
        self.until = Deadline(options.timeout)
        keys = [setting(name) for name in ("LITELLM_API_KEY", "RELAY_API_KEY")]
        self.out = Output(sys.stdout, [key for key in keys if is_secret(key)])
        self.response_id: str | None = None
        self.invocation: tuple[str, str] | None = None
        self.sent = False

    @cached_property
    def client(self) -> LiteLLMClient:
        """The client of the gateway. Raises ConfigurationError when its settings are unusable."""
        settings = gateway_settings()
        module = import_client()
        client: LiteLLMClient = module.LiteLLMClient(
            settings.base_url, settings.api_key, self.options.model or settings.model
        )
        return client

    @property
    def streams(self) -> bool:
        wanted = self.options.stream
        return self.out.terminal and not self.options.json if wanted is None else wanted


def execute(options: Options, prompt: str) -> int:
    """Carry out a valid command line; the exit code."""
    if sys.stdout is None:
        raise ConfigurationError("stdout is closed: the answer would be lost")
    session = Session(options)
    try:
        reply = _dispatch(session, prompt)
    except BaseException as error:  # every way to end is told apart in one place
        try:
            return _ending(session, error)
        except OSError as broken:  # stdout does not even take what arrived of the answer
            return _ending(session, broken)
    if options.verbose and reply is not None:
        _tell(session, reply)
    return 0


def _dispatch(session: Session, prompt: str) -> Reply | None:
    options = session.options
    if options.auto_tool_call or options.target == "relay" or options.invocation:
        from . import research_commands

        research_commands.run(session, prompt)
        return None
    if options.retrieve:
        session.response_id = options.retrieve
        return _wait(session) if options.wait else _retrieve(session)
    if options.cancel:
        return _cancel(session)
    if options.background:
        return _submit(session, prompt)
    return _stream(session, prompt) if session.streams else _ask(session, prompt)


def _ask(session: Session, prompt: str) -> Reply:
    client = session.client
    from . import operations

    create = operations.chat if session.options.api == "chat" else operations.respond
    session.sent = True
    with progress("waiting for the answer"):
        reply = client.run(create(_request(session, prompt)), session.until)
    _print(session, reply)
    return reply


def _stream(session: Session, prompt: str) -> Reply:
    options, client = session.options, session.client
    session.sent = True
    with progress("waiting for the answer") as shown:
        if options.api == "chat":
            stream = client.stream_chat_completion(prompt, instructions=options.instructions, timeout=session.until)
        else:
            stream = client.stream_response(
                prompt,
                tools=_tools(options),
                previous_response_id=options.previous_response_id,
                instructions=options.instructions,
                timeout=session.until,
            )
        for piece in stream:
            shown.stop()
            session.out.write(piece)
    session.out.end()
    return stream.reply


def _submit(session: Session, prompt: str) -> Reply:
    client = session.client
    from . import operations

    session.sent = True
    with progress("submitting"):
        reply = client.run(operations.respond(_request(session, prompt)), session.until)
    session.response_id = reply.answer.id
    if not session.options.wait:
        _print_raw(session, reply)
        return reply
    notice(f"[submitted as {session.response_id}]")
    if reply.answer.status in ("completed", "incomplete"):  # a bridged model: it blocked until it was done
        reply = operations.whole(reply)
        _print(session, reply)
        return reply
    return _wait(session)


def _wait(session: Session) -> Reply:
    client = session.client
    from . import operations

    with progress("waiting for the response") as shown:
        operation = operations.wait(session.response_id or "", shown.status)
        reply = client.run(operation, session.until)
    _print(session, reply)
    return reply


def _retrieve(session: Session) -> Reply:
    client = session.client
    from . import operations

    reply = client.run(operations.retrieve(session.response_id or ""), session.until)
    if reply.answer.status == "incomplete" or reply.answer.failed:
        return operations.whole(reply)  # which raises what is to be said of it
    _print_raw(session, reply)
    return reply


def _cancel(session: Session) -> Reply:
    client = session.client
    from . import operations

    reply = client.run(operations.cancel(session.options.cancel or ""), session.until)
    if reply.answer.failed and reply.answer.status != "cancelled":
        return operations.whole(reply)
    _print_raw(session, reply)
    return reply


def _request(session: Session, prompt: str) -> dict[str, Any]:
    from . import operations

    options, model = session.options, session.client.model
    if options.api == "chat":
        return operations.chat_request(model, prompt, options.instructions)
    return operations.response_request(
        model,
        prompt,
        tools=_tools(options),
        previous_response_id=options.previous_response_id,
        instructions=options.instructions,
        background=options.background,
    )


def _tools(options: Options) -> list[dict[str, Any]] | None:
    return [WEB_SEARCH] if options.web_search else None


def _print(session: Session, reply: Reply) -> None:
    if session.options.json:
        _print_raw(session, reply)
    else:
        session.out.write(reply.text)
        session.out.end()


def _print_raw(session: Session, reply: Reply) -> None:
    session.out.write(readable_json(reply.raw))
    session.out.end()


def _ending(session: Session, error: BaseException) -> int:
    """The exit code for an error, once it is told; what was paid for is printed or can be picked up."""
    if session.options.verbose:
        notice(session.out.without_secrets(traceback.format_exc()).rstrip())
    if isinstance(error, BrokenPipeError):
        abandon_stdout()
        _tell_how_to_pick_up(session)
        return 130
    if isinstance(error, KeyboardInterrupt):
        lost = session.sent and not (session.response_id or session.invocation)
        notice("interrupted" + ("; the request was on its way and may have been executed" if lost else ""))
        _tell_how_to_pick_up(session)
        return 130
    if isinstance(error, ConfigurationError):
        notice(f"Error: {error}")
        return 2
    if isinstance(error, _gateway_error()):
        return _failed(session, error)
    if isinstance(error, OSError):  # what goes wrong with the network is a GatewayError
        abandon_stdout()
        notice(f"Error: cannot write the answer to stdout: {error.strerror or error}")
        _tell_how_to_pick_up(session)
        return 1
    if isinstance(error, Exception):
        notice(f"Error: {PROGRAM} met an error of its own ({type(error).__name__}); --verbose shows where")
        return 1
    raise error


def _gateway_error() -> type[GatewayError]:
    from .errors import GatewayError

    return GatewayError


def _failed(session: Session, failure: GatewayError) -> int:
    from .errors import CutShortError, StillRunningError

    if isinstance(failure, CutShortError) and failure.text and not session.out.wrote:
        session.out.write(readable_json(failure.raw) if session.options.json and failure.raw else failure.text)
    elif failure.research and not session.out.wrote:
        session.out.write(failure.research)  # it was paid for, whatever came after it
    session.out.end()
    notice(session.out.without_secrets(f"Error: {failure}"))
    if isinstance(failure, StillRunningError):
        session.invocation = getattr(failure, "invocation", session.invocation)
        _tell_how_to_pick_up(session)
    elif failure.research:
        _tell_how_to_pick_up(session, "The research is kept by the relay. Try to finish the answer")
    return failure.exit_code


def _tell_how_to_pick_up(session: Session, words: str = "The research goes on at the relay. Pick it up") -> None:
    if session.invocation:
        invocation_id, token = session.invocation
        notice(f"{words}: RELAY_INVOCATION_TOKEN={token} {PROGRAM} --invocation {invocation_id} --timeout 3600")
    elif session.response_id and (session.options.background or session.options.retrieve):
        notice(f"The response is kept by the gateway. Pick it up: {PROGRAM} --retrieve {session.response_id} --wait")


def _tell(session: Session, reply: Reply) -> None:
    """The facts that --verbose shows."""
    answer, headers, usage = reply.answer, reply.headers, reply.answer.usage
    first = session.out.first_at
    facts = {
        "model": answer.model or session.client.model,
        "response id": answer.id,
        **{name: headers.get(name) for name in ("x-litellm-call-id", "llm_provider-x-request-id")},
        "x-litellm-model-id": headers.get("x-litellm-model-id"),
        "retries": f"{reply.retries} here, {headers.get('x-litellm-attempted-retries', '0')} in the gateway",
        "tokens": f"{_number(usage.input_tokens)} in, {_number(usage.output_tokens)} out",
        "cost": None if reply.cost is None else f"{reply.cost:.6f} USD",
        "first text": None if first is None else f"{first - session.started:.3f} s",
        "total": f"{time.monotonic() - session.started:.3f} s",
    }
    lines = "\n".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
    notice(session.out.without_secrets(lines))


def _number(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)
