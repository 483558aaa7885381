"""How a run of the command ends: the exit code, and what is said of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from ..config import ConfigurationError, is_visible_ascii
from ..console import FAILED, INTERRUPTED, MISUSED, READER_GONE, abandon_stdout
from ..errors import CutShortError, ErrorKind, GatewayError, StillRunningError
from ..transport.deadline import deadline
from .again import own_relay, pick_up_line, stop_line, typed
from .journal import RESPONSE, Record
from .options import PROGRAM, Options
from .output import notice, readable_json
from .session import Session

NOT_AS_ASKED = 3


def carry_out(run: Callable[[Session, str], int], options: Options, prompt: str, started: float) -> int:
    """Run it, and give the exit code. Every way to end is told apart here."""
    session = Session(options, started)
    try:
        with deadline(session.until):
            return run(session, prompt)
    except BaseException as error:
        try:
            return _ending(session, error)
        except OSError as broken:  # stdout does not even take what arrived of the answer
            return _ending(session, broken)


def _ending(session: Session, error: BaseException) -> int:
    """The exit code for an error, once it is told; what was paid for is printed or can be picked up."""
    if session.options.verbose and not isinstance(error, BrokenPipeError):
        notice(traceback.format_exc().rstrip())
    if isinstance(error, BrokenPipeError):
        abandon_stdout()
        if not session.out.wrote:  # a reader that has what it wanted is no news
            _tell_how_to_pick_up(session)
        return READER_GONE
    if isinstance(error, KeyboardInterrupt):
        lost = session.sent and not any(entry.confirmed for entry in session.in_flight.records)
        notice("interrupted" + ("; the request was on its way and may have been executed" if lost else ""))
        _tell_how_to_pick_up(session, stop=True)
        return INTERRUPTED
    if isinstance(error, ConfigurationError):
        notice(f"Error: {error}")
        return MISUSED
    if isinstance(error, GatewayError):
        return _failed(session, error)
    if isinstance(error, OSError):  # what goes wrong with the network is a GatewayError
        abandon_stdout()
        notice(f"Error: cannot write the answer to stdout: {error.strerror or error}{_named(session)}")
        _tell_how_to_pick_up(session)
        return FAILED
    if isinstance(error, Exception):
        notice(f"Error: {PROGRAM} hit an internal error ({type(error).__name__}); --verbose shows where")
        _tell_how_to_pick_up(session)
        return FAILED
    raise error


def _failed(session: Session, failure: GatewayError) -> int:
    _add_hint(session, failure)
    ended = not isinstance(failure, StillRunningError)
    shown = session.out.wrote
    if isinstance(failure, CutShortError) and failure.text and not shown:
        shown = session.options.json
        session.answer_id = session.answer_id or failure.response_id
        session.out.write(readable_json(failure.raw) if session.options.json and failure.raw else failure.text)
    session.out.end()
    if failure.research and not shown:
        session.out.paragraph(failure.research)  # it was paid for, whatever came after it
    notice(f"Error: {failure}{_listed(session) if ended else ''}")
    if ended and failure.research:
        _tell_how_to_pick_up(session, "The research run is kept by the relay. Try to finish the answer")
    elif ended and session.response_id and _is_over(session, failure):
        session.in_flight.drop_all()
    elif not ended:
        _tell_how_to_pick_up(session)
    return failure.exit_code


_FINAL = (ErrorKind.CUT_SHORT, ErrorKind.CANCELLED, ErrorKind.FAILED, ErrorKind.REFUSED)


def _is_over(session: Session, failure: GatewayError) -> bool:
    """Return True if there is nothing more to be had of a response.

    Another gateway does not know it, and another key may not read it (403): neither says that it is gone.
    """
    if failure.kind is ErrorKind.UNKNOWN_RESPONSE:
        here = str(session.client.openai.base_url)
        return failure.status != 403 and all(entry.gateway in (None, here) for entry in session.in_flight.records)
    return isinstance(failure, CutShortError) or failure.kind in _FINAL


def _add_hint(session: Session, failure: GatewayError) -> None:
    options = session.options
    if failure.kind is ErrorKind.MISSING_TOOL and not options.web_search:
        missing = "--web-search" if options.api == "responses" else "--api responses --web-search"
        failure.hint = f"a deep-research model needs something to search with: {missing}"


def _listed(session: Session) -> str:
    """Where work that failed with an unknown outcome is kept, for the end of a message."""
    unknown = [one for one in session.in_flight.records if not one.confirmed and session.in_flight.is_kept(one)]
    return "".join(f"; --list shows it until it is dismissed: {typed('--forget', one.id)}" for one in unknown)


def _named(session: Session) -> str:
    """By what an answer that was not written can be had again, for the end of a message."""
    answer_id = session.answer_id
    if not answer_id or session.response_id or session.in_flight:
        return ""
    if session.options.api == "responses" and is_visible_ascii(answer_id):
        return f"; the answer can be had again: {typed('--retrieve', answer_id, '--wait')}"
    return f"; the gateway gave the answer the id {answer_id}"


def _tell_how_to_pick_up(session: Session, words: str = "", *, stop: bool = False) -> None:
    """Say how to go on with the work in flight, and how to stop it if the user has just interrupted."""
    entries = session.in_flight.records
    # Any run of a conversation picks up all of it, as long as the journal holds the conversation.
    finish = [entry for entry in entries if entry.conversation is not None and session.in_flight.is_kept(entry)]
    for entry in entries:
        if entry not in finish[1:]:
            _tell_line(session, entry, words)
    if stop:
        for line in filter(None, map(stop_line, entries)):
            notice(f"Stop it: {line}")


def _tell_line(session: Session, entry: Record, words: str) -> None:
    kept = session.in_flight.is_kept(entry)
    if not is_visible_ascii(entry.id):
        notice(f"Its id cannot be typed in a shell: {entry.id!r}")
    elif not entry.confirmed and not kept:
        notice("It may have been executed, and cannot be picked up: no record of it could be written")
    elif (line := pick_up_line(entry)) is None:
        notice(f"Its id is not known. --list shows it until it is dismissed: {typed('--forget', entry.id)}")
    else:
        notice(f"{words or _whereabouts(entry)}: {line}")


def _whereabouts(entry: Record) -> str:
    if entry.kind == RESPONSE:
        return "The response is kept by the gateway. Pick it up"
    if not entry.confirmed:
        return "The relay may have accepted the research run. Ask it again, under the same key, and pick the run up"
    if own_relay():
        return "The relay has stopped with this command and keeps the research run. Pick it up"
    return "The research run goes on at the relay. Pick it up"
