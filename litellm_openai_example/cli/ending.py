"""One run of the command: its session, and its end with an exit code and the commands that resume paid work."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from functools import cached_property

from ..client import LiteLLMClient
from ..config import ConfigurationError, GatewaySettings, gateway_settings, is_visible_ascii
from ..console import FAILED, INTERRUPTED, MISUSED, READER_GONE, abandon_stdout
from ..errors import INTERNAL_ERROR, CutShortError, ErrorKind, GatewayError, StillRunningError
from ..payer import Payer
from ..transport.policy import Deadline, deadline
from ..window import may_take_until
from .journal import RESPONSE, Record, own_relay
from .options import PROGRAM, Options
from .output import Output, notice, readable_json
from .pending import PendingWork, cancel_command, resume_command, shell_command

# Kinds of error after which a response has ended.
_ENDED = (ErrorKind.CUT_SHORT, ErrorKind.CANCELLED, ErrorKind.FAILED, ErrorKind.REFUSED)


class Session:
    """One run of the command.

    Args:
        options: the command line.
        started: start of the command on the monotonic clock; its deadline counts from then.
        payer: the billing identity of its calls.
        settings: of the gateway; read from the environment when first needed if None.

    Attributes:
        response_id: of the background response that is polled or retrieved.
        answer_id: the gateway's id of a foreground answer.
        sent: True once a request that costs money may have left.
        streams: print the text piece by piece.
        window: discount window of the background response.
    """

    def __init__(self, options: Options, started: float, payer: Payer, settings: GatewaySettings | None) -> None:
        self.options = options
        self.started = started
        self.payer = payer
        self.out = Output()
        self.response_id: str | None = None
        self.answer_id: str | None = None
        self.sent = False
        self.window = options.window
        on_terminal = self.out.terminal and not options.json
        self.streams = on_terminal if options.stream is None else options.stream
        self._settings = settings
        # The time so far counts too, such as that of importing the SDK and reading stdin.
        self.until = Deadline(options.timeout)
        self.until.at -= time.monotonic() - started

    @cached_property
    def pending(self) -> PendingWork:
        """The background responses and research runs that a later command can pick up."""
        return PendingWork()

    @cached_property
    def client(self) -> LiteLLMClient:
        """The gateway's client, without a time limit, as the deadline of the command bounds every call.

        Raises:
            ConfigurationError: its settings are unusable.
        """
        settings = self._settings or gateway_settings()
        model = self.options.model or settings.model
        return LiteLLMClient(settings.base_url, settings.api_key, model, timeout=None, payer=self.payer)

    @property
    def lists_sources(self) -> bool:
        """Do the cited pages follow the text? JSON must stay JSON."""
        options = self.options
        return options.sources and not options.json and options.schema is None

    def check(self, text: str) -> int:
        """Return the exit code for a whole answer on stdout, which --schema checks."""
        if self.options.schema is None:
            return 0
        from .schema import check_answer  # only for this option

        return check_answer(self.options.schema, text)

    def default_payer(self, recorded: Payer) -> None:
        """Bill as when the work was submitted, unless the command line or the environment says otherwise."""
        self.payer = Payer(self.payer.tags or recorded.tags, self.payer.end_user or recorded.end_user)


def run_session(run: Callable[[Session, str], int], session: Session, prompt: str) -> int:
    """Carry out the command line, and return the exit code."""
    try:
        with deadline(session.until):
            return run(session, prompt)
    # An interrupt too must name the work that was paid for.
    except BaseException as error:
        try:
            return _report(session, error)
        except OSError as broken:  # stdout refused the part of the answer that had arrived
            return _report(session, broken)


def _report(session: Session, error: BaseException) -> int:
    """Report an error and return its exit code. Everything that was paid for is printed, or can be picked up."""
    if session.options.verbose and not isinstance(error, BrokenPipeError):
        notice(traceback.format_exc().rstrip())
    # Before OSError, its base class: the other errors of stdout are failures.
    if isinstance(error, BrokenPipeError):
        abandon_stdout()
        if not session.out.wrote:  # a reader that closes early (head) is normal
            _print_resume_commands(session)
        return READER_GONE
    if isinstance(error, KeyboardInterrupt):
        lost = session.sent and not any(record.confirmed for record in session.pending.records)
        until = max((record.window_ends_at or 0.0 for record in session.pending.records), default=0.0)
        words = "; the request was sent and may have been executed" if lost else ""
        notice(f"interrupted{words}{may_take_until(until, '; it ')}")
        _print_resume_commands(session, cancel=True)
        return INTERRUPTED
    if isinstance(error, ConfigurationError):
        notice(f"Error: {error}")
        return MISUSED
    if isinstance(error, GatewayError):
        return _report_failure(session, error)
    if isinstance(error, OSError):  # of stdout, as network failures are GatewayErrors
        abandon_stdout()
        notice(f"Error: cannot write the answer to stdout: {error.strerror or error}{_retrieve_hint(session)}")
        _print_resume_commands(session)
        return FAILED
    if isinstance(error, Exception):
        notice(f"Error: {PROGRAM} {INTERNAL_ERROR} ({type(error).__name__}); --verbose shows where")
        _print_resume_commands(session)
        return FAILED
    raise error


def _report_failure(session: Session, failure: GatewayError) -> int:
    if failure.kind is ErrorKind.MISSING_TOOL and not session.options.search_tool:
        missing = "--web-search" if session.options.api == "responses" else "--api responses --web-search"
        failure.hint = f"a deep-research model needs something to search with: {missing}"
    ended = not isinstance(failure, StillRunningError)
    printed = session.out.wrote
    if isinstance(failure, CutShortError) and failure.text and not printed:
        printed = session.options.json
        # A truncated answer has been paid for, so its text is printed, though not as success.
        session.answer_id = session.answer_id or failure.response_id
        session.out.write(readable_json(failure.raw) if session.options.json and failure.raw else failure.text)
    # The partial text ends here, whether or not anything follows.
    session.out.end()
    if failure.research and not printed:
        session.out.paragraph(failure.research)  # paid for, even though the answer failed
    notice(f"Error: {failure}{_forget_hint(session) if ended else ''}")
    if ended and failure.research:
        _print_resume_commands(session, "The relay keeps the research run. Try to finish the answer")
    elif ended and session.response_id and _has_ended(session, failure):
        session.pending.drop_all()
    elif not ended:
        _print_resume_commands(session)
    return failure.exit_code


def _has_ended(session: Session, failure: GatewayError) -> bool:
    """Return True if nothing more can be read of a background response.

    Another gateway does not know the response, and another key may not read it (403): neither means that it is gone.
    """
    if failure.kind is ErrorKind.UNKNOWN_RESPONSE:
        here = str(session.client.openai.base_url)
        return failure.status != 403 and all(record.gateway in (None, here) for record in session.pending.records)
    return isinstance(failure, CutShortError) or failure.kind in _ENDED


def _forget_hint(session: Session) -> str:
    """Return, for the end of a message, how to dismiss work that failed with an unknown outcome."""
    pending = session.pending
    unknown = [record for record in pending.records if not record.confirmed and pending.is_recorded(record)]
    commands = [shell_command("--forget", record.id) for record in unknown]
    return "".join(f"; --list shows it until it is dismissed: {command}" for command in commands)


def _retrieve_hint(session: Session) -> str:
    """Return, for the end of a message, how to fetch an answer that could not be written."""
    answer_id = session.answer_id
    if not answer_id or session.response_id or session.pending:
        return ""
    if session.options.api == "responses" and is_visible_ascii(answer_id):
        return f"; fetch the answer again: {shell_command('--retrieve', answer_id, '--wait')}"
    return f"; the gateway gave the answer the id {answer_id}"


def _print_resume_commands(session: Session, introduction: str = "", *, cancel: bool = False) -> None:
    """Print how to pick up the pending work, and how to cancel it if the user has just interrupted."""
    pending = session.pending
    # Resuming any run of a conversation resumes all of them, provided that the journal holds the conversation.
    same = [one for one in pending.records if one.conversation is not None and pending.is_recorded(one)]
    for record in pending.records:
        if record not in same[1:]:
            schema = session.options.schema_file
            _print_resume_command(record, introduction, schema, recorded=pending.is_recorded(record))
    if cancel:
        for line in filter(None, map(cancel_command, pending.records)):
            notice(f"Stop it: {line}")


def _print_resume_command(record: Record, introduction: str, schema: str | None, *, recorded: bool) -> None:
    if not is_visible_ascii(record.id):
        notice(f"Its id cannot be typed in a shell: {record.id!r}")
    elif not record.confirmed and not recorded:
        notice("It may have been executed, and cannot be picked up: no record of it could be written")
    elif (command := resume_command(record, schema)) is None:
        notice(f"Its id is not known. --list shows it until it is dismissed: {shell_command('--forget', record.id)}")
    else:
        notice(f"{introduction or _introduction(record)}: {command}")


def _introduction(record: Record) -> str:
    if record.kind == RESPONSE:
        return "The gateway keeps the response. Pick it up"
    if not record.confirmed:
        return "The relay may have accepted the research run. Repeat the request under the same key, and pick it up"
    if own_relay():
        return "The relay has stopped with this command and keeps the research run. Pick it up"
    return "The research run continues at the relay. Pick it up"
