"""The relay's log, and the stderr that it goes to.

Log lines hold the relay's own words only: text from a gateway, a database or a client may hold keys, hosts and prompts.

A thread writes them, so the event loop never waits for a reader of stderr. A pager, a log collector or a disk may stop
taking lines: the relay carries on, drops the lines that the queue cannot hold, and logs afterwards how many were lost.
"""

from __future__ import annotations

import io
import json
import logging
import os
import queue
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ..config import ConfigurationError, keys, redact_text
from ..payer import Payer

log = logging.getLogger("litellm_relay")

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_HELD = 1000  # lines
_LAST = 0.5  # seconds that the last lines get when the process ends


def configure_logging(env: Mapping[str, str] = os.environ) -> None:
    """Log to stderr, by `RELAY_LOG_LEVEL` (default INFO) and `RELAY_LOG_FORMAT` (text or json).

    Raises:
        ConfigurationError: one of them has another value.
    """
    level = env.get("RELAY_LOG_LEVEL", "").strip().upper() or "INFO"
    form = env.get("RELAY_LOG_FORMAT", "").strip().lower() or "text"
    if level not in _LEVELS:
        raise ConfigurationError(f"RELAY_LOG_LEVEL must be one of {', '.join(_LEVELS)}")
    if form not in ("text", "json"):
        raise ConfigurationError("RELAY_LOG_FORMAT must be text or json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text("[relay] %(asctime)s %(levelname)s %(message)s"))
    # On the handler, not on our logger: the libraries' records pass through it too.
    handler.addFilter(_OwnWords(keys(env)))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(level)  # libraries may log what they were sent: from them only warnings


def log_run(event: str, invocation_id: str, payer: Payer, **facts: object) -> None:
    """Log an event of a run, with the payer's tags and facts in the text and as fields of the JSON."""
    facts["tags"] = ",".join(payer.tags) or None
    known = {name: value for name, value in facts.items() if value is not None}
    text = "".join(f" {name}={value}" for name, value in known.items())
    log.info("%s %s%s", invocation_id, event, text, extra={"facts": {"event": event, "id": invocation_id, **known}})


def kind_and_place(error: BaseException) -> str:
    """Return the type of an error and the place where it was raised, without its text."""
    # The file's name alone: its path may hold a user's name.
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


def _of_others(record: logging.LogRecord) -> str:
    """Return a library's warning without its arguments, which may hold anything."""
    error = record.exc_info[1] if record.exc_info else None
    record.exc_info = record.exc_text = record.stack_info = None
    # The unformatted message is the library's own text; only its arguments come from outside.
    text = f"{record.name}: {str(record.msg).partition(chr(10))[0]}"
    return f"{text} ({kind_and_place(error)})" if error is not None else text


class _OwnWords(logging.Filter):
    """Makes each record one line without traceback and keys: a gateway chooses its response ids, and may echo keys."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__()
        self._keys = keys

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage() if record.name == log.name else _of_others(record)
        record.msg = "".join(c if c.isprintable() else " " for c in redact_text(text, *self._keys))
        record.args = ()
        facts = getattr(record, "facts", {})
        record.facts = {
            name: redact_text(value, *self._keys) if isinstance(value, str) else value for name, value in facts.items()
        }
        return True


class _Text(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002
        # With the zone: replicas on machines in several zones may log to one place.
        return datetime.fromtimestamp(record.created).astimezone().isoformat(sep=" ", timespec="milliseconds")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        return json.dumps(line)


class BackgroundStream(io.TextIOBase):
    """A text stream whose `write` never blocks and never fails.

    Args:
        descriptor: written to by a thread.
        tell_losses: called in that thread with the number of lost lines, once the descriptor takes lines again.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, tell_losses: Callable[[int], None]) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._tell_losses = tell_losses
        self._lines: queue.Queue[bytes] = queue.Queue(_HELD)
        self._begun = ""  # the unfinished line
        self._lost = 0
        self._counting = threading.Lock()
        threading.Thread(target=self._write_lines, name="stderr", daemon=True).start()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        # Whole lines only: a traceback comes in pieces, and a lost piece would join two lines.
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            try:
                self._lines.put_nowait(f"{line}\n".encode(errors=self.errors))
            except queue.Full:
                self._count_lost()
        return len(text)

    def drain(self, seconds: float) -> None:
        """Wait until all lines are written, for `seconds` at most."""
        # Not `Queue.join`, which has no time limit: stderr may be what hangs.
        until = time.monotonic() + seconds
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks and (left := until - time.monotonic()) > 0:
                self._lines.all_tasks_done.wait(left)

    def _write_lines(self) -> None:
        while True:
            if not _write(self._descriptor, self._lines.get()):
                self._count_lost()
            elif self._lost:
                with self._counting:
                    lost, self._lost = self._lost, 0
                self._tell_losses(lost)
            self._lines.task_done()

    def _count_lost(self) -> None:
        with self._counting:
            self._lost += 1


def _write(descriptor: int, data: bytes) -> bool:
    """Write all data, however long that takes. Return False if the descriptor fails."""
    try:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # another program made the terminal or pipe non-blocking
                select.select([], [descriptor], [])
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def background_stderr(tell_losses: Callable[[int], None]) -> Iterator[None]:
    """Make `sys.stderr` a `BackgroundStream` for this block: for the log, warnings and tracebacks."""
    usual, stream = sys.stderr, BackgroundStream(2, tell_losses)
    sys.stderr = stream
    try:
        yield
    finally:
        stream.drain(_LAST)
        sys.stderr = usual


def open_standard_streams() -> None:
    """Open /dev/null for each closed standard stream: the next file or socket would take its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def write_line(text: str) -> None:
    """Write a line to stderr, before, during or after `background_stderr`. Ignore failures."""
    with suppress(OSError, ValueError):
        if isinstance(sys.stderr, BackgroundStream):
            sys.stderr.write(f"{text}\n")
        else:
            os.write(2, f"{text}\n".encode(errors="backslashreplace"))
