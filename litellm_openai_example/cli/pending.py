"""Pending work: the background responses and research runs that a later command can pick up.

Holds what the running command has submitted, --list and --forget, and the shell commands that resume or cancel work.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import threading
import time
from contextlib import suppress

from ..config import DEFAULT_RELAY_URL, MAKE_TARGET, ConfigurationError, setting
from ..console import FAILED
from ..errors import one_line
from ..json_object import JsonObject
from ..window import may_take_until, time_limit
from . import journal
from .journal import RESEARCH, RESPONSE, Record, own_relay
from .options import PROGRAM, Options
from .output import Output, notice

_PACKAGE = __name__.partition(".")[0]


class PendingWork:
    """The records of what this command has submitted and not yet read whole.

    Its calls run side by side, so each change is made under a lock. A journal that cannot be written must not cost an
    answer: the user gets on stderr at once what would have been recorded.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._records: dict[str, Record] = {}
        self._unwritten: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._records)

    @property
    def records(self) -> list[Record]:
        """The records in the order of submission."""
        return list(self._records.values())

    @property
    def told(self) -> bool:
        """Has the user been told that nothing can be kept?"""
        return bool(self._unwritten)

    def is_recorded(self, record: Record) -> bool:
        """Is the record in the journal, so that a later command finds it?"""
        return record.name not in self._unwritten

    def begin(self, record: Record) -> None:
        """Make an intent durable before anything is sent, and give all records of a conversation its newest state."""
        with self._lock:
            # A run with the state of an earlier round would ask the model for the later rounds once more.
            for other in self.records:
                if record.conversation is not None and other.conversation not in (None, record.conversation):
                    self._write(other._replace(conversation=record.conversation))
            self._write(record)

    def accept(
        self, record: Record, work_id: str, token: str | None = None, conversation: JsonObject | None = None
    ) -> None:
        """Turn an intent into accepted work."""
        with self._lock:
            accepted = record._replace(id=work_id, token=token, conversation=conversation, key=None, arguments=None)
            if not self._write(accepted):
                notice(f"It can be picked up only like this: {resume_command(accepted)}")

    def follow(self, record: Record) -> None:
        """Take over the work of an earlier command."""
        with self._lock:
            self._records[record.name] = record

    def drop(self, record: Record) -> None:
        """Remove the record of work that was read whole, has ended or was not accepted."""
        with self._lock:
            self._records.pop(record.name, None)
            with suppress(OSError, ConfigurationError):
                journal.remove(record)

    def drop_all(self) -> None:
        """Remove all records."""
        for record in self.records:
            self.drop(record)

    def _write(self, record: Record) -> bool:
        """Write a record, and return True if it is in the journal."""
        self._records[record.name] = record
        try:
            journal.write(record)
        except (OSError, ConfigurationError) as error:
            if not self._unwritten:
                reason = str(error) if isinstance(error, ConfigurationError) else error.strerror
                notice(f"[nothing can be kept for a later command: {reason}]")
            self._unwritten.add(record.name)
            return False
        self._unwritten.discard(record.name)
        return True


def list_or_forget(options: Options) -> int:
    """Carry out --list or --forget, and return the exit code. Raise ConfigurationError for an unknown record."""
    return _list(options) if options.list_work else _forget(options.forget or "")


def _list(options: Options) -> int:
    """Print a line for each record, or JSON. The tokens of research runs are secrets and are left out."""
    now = time.time()
    records = journal.all_records()
    if options.json:
        text = json.dumps([_as_json(record, now) for record in records], ensure_ascii=False)
    else:
        text = "\n".join(_as_line(record, now) for record in records)
    Output().paragraph(text)
    # On stderr, so that stdout holds nothing but records.
    responses = [record for record in records if record.kind == RESPONSE]
    if any(record.confirmed for record in responses):
        notice(f"Pick up a {RESPONSE}: {shell_command('--retrieve', 'ID', '--wait')}")
    if any(record.kind == RESEARCH for record in records):
        notice(f"Pick up a {RESEARCH}: {shell_command('--invocation', 'ID')}")
    if not all(record.confirmed for record in responses):
        notice(f"Dismiss an entry: {shell_command('--forget', 'ID')}")
    if not records:
        notice("no pending work")
    return 0


def _forget(work_id: str) -> int:
    record = journal.find(work_id)
    if record is None:
        raise ConfigurationError(f"no record of {one_line(work_id)} here; --list shows all records")
    try:
        journal.remove(record)
    except OSError as error:
        notice(f"Error: cannot remove the record of {record.id}: {error.strerror or error}")
        return FAILED
    notice(f"forgotten: {_as_line(record, time.time())}")
    return 0


def _as_json(record: Record, now: float) -> dict[str, object]:
    return {
        "id": record.id,
        "kind": record.kind,
        "confirmed": record.confirmed,
        "age_seconds": max(0, round(now - record.created)),
        "prompt": record.words,
        "window": record.window,
        "address": record.relay or record.gateway,
    }


def _as_line(record: Record, now: float) -> str:
    kind = record.kind
    if not record.confirmed:
        kind += ", not confirmed"
        kind += " (it may have been executed; its id is not known)" if record.kind == RESPONSE else ""
    work_id = record.id if record.id.isprintable() else ascii(record.id)
    if record.window:
        kind += f" in a window of {record.window}{may_take_until(record.window_ends_at)}"
    return f"{work_id}  {one_line(kind)}, {_age(now - record.created)}: {one_line(record.words)}"


def _age(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def resume_command(record: Record, schema: str | None = None) -> str | None:
    """Return the shell command that picks work up; None for a response whose id is not known.

    Args:
        record: of the work.
        schema: the file with the schema of the answer.
    """
    check = ("--schema", schema) if schema else ()
    seconds = f"{time_limit(record.window):.0f}" if record.window else "3600"
    if record.kind == RESPONSE:
        more = ("--timeout", seconds) if record.window else ()
        return shell_command("--retrieve", record.id, "--wait", *more, *check) if record.confirmed else None
    arguments = ("--invocation", record.id, "--timeout", seconds, *check)
    return shell_command(*arguments, token=record.token, relay=record.relay)


def cancel_command(record: Record) -> str | None:
    """Return the shell command that cancels work; None for a response whose id is not known."""
    if record.kind == RESPONSE and not record.confirmed:
        return None
    return shell_command("--cancel", record.id, token=record.token, relay=record.relay)


def shell_command(*arguments: str, token: str | None = None, relay: str | None = None) -> str:
    """Return a line for the user's shell that runs this program with other arguments.

    The line works exactly as printed, in the directory where this command runs.

    Args:
        arguments: untrusted, as an id comes from a gateway. They are quoted for the shell.
        token: of a research run.
        relay: base URL of the run's relay; by default `RELAY_BASE_URL`.
    """
    words = []
    if token:
        # Another shell need not have this environment.
        relay = relay or setting("RELAY_BASE_URL")
        if relay.rstrip("/") not in ("", DEFAULT_RELAY_URL) and not own_relay():
            words.append(f"RELAY_BASE_URL={shlex.quote(relay)}")
        words.append(f"RELAY_INVOCATION_TOKEN={shlex.quote(token)}")
    target = setting(MAKE_TARGET)
    if target:
        # Quoted twice, because make passes the words of ARGS to another shell.
        words += ["make", shlex.quote(target), f"ARGS={shlex.quote(shlex.join(arguments))}"]
    else:
        words.append(shlex.join([*_program(), *arguments]))
    return " ".join(words)


def _program() -> list[str]:
    """Return the words that start this program as it was started now."""
    start = os.path.abspath(sys.argv[0]) if sys.argv and sys.argv[0] else ""
    folder, name = os.path.split(start)
    program = [PROGRAM]
    if name == "__main__.py" and folder == os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        program = [sys.executable, "-m", _PACKAGE]
    # Another installation may come first on PATH.
    elif name == PROGRAM and os.path.realpath(shutil.which(PROGRAM) or "") != os.path.realpath(start):
        program = [start]
    # The relay has to be started again together with the command.
    if own_relay():
        return [sys.executable, "-m", f"{_PACKAGE}.gateway", "--reuse", "--relay", "--", *program]
    return program
