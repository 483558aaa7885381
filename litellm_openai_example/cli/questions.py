"""The command lines with --questions: each question is asked once, however often the command is killed and repeated."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import click

from ..config import DEFAULT_MODEL, ConfigurationError, setting
from ..console import FAILED, INTERRUPTED, NOT_AS_ASKED
from ..many import Pace, Threads
from ..research.relay_client import RelayClient
from ..state import state_dir
from . import journal
from .ending import Session
from .options import read_line
from .output import notice
from .pending import cancel_command
from .question_calls import Ended, QuestionCalls, forget, record_name
from .question_file import Question, QuestionFile
from .question_progress import Tally, named, shown
from .rows import COMPLETED, NOT_EXECUTED, UNKNOWN, FileRows, PrintedRows
from .rows import FAILED as ROW_FAILED

STILL_RUNNING = 4
_LAST_START = 0.3  # seconds before the deadline; the waits of other questions end there, too


def run(session: Session, prompt: str) -> int:  # noqa: ARG001 (the signature of all of them)
    """Carry out --questions, which takes no prompt, and return the exit code."""
    options = session.options
    ctx = click.get_current_context()
    model = options.model or setting("LITELLM_MODEL") or DEFAULT_MODEL
    with closing(QuestionFile(options.questions or "", partial(read_line, ctx), model, session.until)) as file:
        keys = file.check()
        state_dir()  # without a journal, a crash could make a repeat pay twice
        if "gateway" in file.services:
            _ = session.client  # reject unusable settings first
        if options.out is None:
            return _ask(session, file, keys, PrintedRows(session.out))
        if os.path.exists(options.out) and os.path.exists(file.name) and os.path.samefile(options.out, file.name):
            raise ConfigurationError("--out is the file of --questions")
        with closing(FileRows(options.out)) as rows:
            rows.check(frozenset(keys), file.name)
            return _ask(session, file, keys, rows)


def _ask(session: Session, file: QuestionFile, keys: list[bytes], rows: FileRows | PrintedRows) -> int:
    if "relay" in file.services:
        with RelayClient(None, timeout=None, payer=session.payer) as relay:
            relay.check()  # before the first call that costs money
    return _Batch(session, file, keys, rows).run()


class _Batch:
    """One run of the questions that have no row yet."""

    def __init__(self, session: Session, file: QuestionFile, keys: list[bytes], rows: FileRows | PrintedRows) -> None:
        self._session, self._file, self._keys, self._rows = session, file, keys, rows
        options = session.options
        self._pace = Pace(options.jobs)
        self._calls = QuestionCalls(session, self._pace, retry_unknown=options.retry_unknown)
        self._tally = Tally(len(keys))
        self._problems: dict[str, None] = {}
        self._stops = ""
        self._interrupted = False

    def run(self) -> int:
        """Ask, write the rows, print the summary, and return the exit code."""
        rows = self._rows
        try:
            if isinstance(rows, FileRows):
                self._take_over(rows)
            with shown(self._tally, lambda: (self._calls.running, self._pace.paused)):
                self._ask()
            if isinstance(rows, FileRows) and self._session.options.sort:
                rows.sort(self._keys)
        except OSError as error:
            if not isinstance(rows, FileRows):
                raise
            notice(f"Error: cannot write to --out {rows.name}: {error.strerror or error}")
            self._summarize()
            return FAILED
        self._summarize()
        return self._code()

    def _take_over(self, rows: FileRows) -> None:
        """Count the rows of earlier commands, without those of questions that are to be asked again."""
        again = {NOT_EXECUTED, *((UNKNOWN, ROW_FAILED) if self._session.options.retry_unknown else ())}
        rows.drop({key for key, kept in rows.kept.items() if kept.status in again})
        for kept in rows.kept.values():
            self._tally.add_earlier(kept.id, kept.status, kept.cost)

    def _ask(self) -> None:
        tasks = (partial(self._calls.carry_out, question) for question in self._questions())
        threads = Threads(tasks, self._session.options.jobs)
        with self._interrupts(threads.stop):
            for ended in threads:
                self._save(ended)

    def _questions(self) -> Iterator[Question]:
        """Yield the questions that are to be asked, until a reason to stop."""
        recorded = {record.name for record in journal.all_records()}
        for question in self._file:
            kept = self._rows.kept.get(bytes.fromhex(question.key))
            if kept is not None:
                if kept.status != UNKNOWN and record_name(question) in recorded:
                    forget(question)
                continue
            if self._stops or self._session.until.remaining() < _LAST_START:
                return
            yield question

    def _save(self, ended: list[Ended]) -> None:
        """Write rows, then forget: after a crash in between, the row counts."""
        done = [one for one in ended if one.row is not None]
        if done:
            self._rows.append(one.row for one in done if one.row is not None)
        for one in ended:
            if one.row is not None:
                self._tally.add(one.row)
                one.forget()
            elif one.problem:
                self._tally.going_on.append(str(one.question.id))
                self._problems.setdefault(one.problem)
            self._stops = self._stops or one.stops

    @contextmanager
    def _interrupts(self, stop: Callable[[], None]) -> Iterator[None]:
        """Let Ctrl-C end the loop between two rows; the second one ends the command at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(*_: object) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, before)
            stop()

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _summarize(self) -> None:
        tally = self._tally
        notice(tally.summary())
        if self._session.options.verbose:
            from .verbose import show_tokens  # only for this option

            show_tokens(tally.usage)
        if self._stops:
            notice(f"Error: {self._stops}")
        for problem in list(self._problems)[:3]:
            notice(f"[{problem}]")
        if tally.unknown:
            notice(
                f"May have been executed, without an answer: {named(tally.unknown)}. "
                "--retry-unknown asks again, and may pay twice"
            )
        if self._calls.unchecked:
            from .schema import notice_unchecked  # only for --schema

            notice_unchecked(self._calls.unchecked)
        if self._interrupted:
            notice("interrupted")
            for line in filter(None, map(cancel_command, self._calls.records)):
                notice(f"Stop it: {line}")
        if tally.done < tally.total:
            notice("Repeat the command to go on")

    def _code(self) -> int:
        if self._interrupted:
            return INTERRUPTED
        if self._tally.going_on:
            return STILL_RUNNING
        return 0 if self._tally.counts[COMPLETED] == self._tally.total else NOT_AS_ASKED
