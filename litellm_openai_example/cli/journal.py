"""The journal: a record of each piece of paid work, durable in the state directory before its `POST` leaves.

A record begins as an intent under a local id. The answer turns it into accepted work, with the id and the token that
pick it up; a definite refusal removes it. Without either it stays *not confirmed*. Records do not expire: one is
removed when the work was read whole, has ended, or is dismissed with --forget.

Each record is a file that is replaced atomically, so that concurrent commands do not disturb one another.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..config import OWN_RELAY, ConfigurationError, setting
from ..json_object import JsonObject
from ..payer import Payer
from ..state import file_name, other_owner, state_dir, state_path, sync_directory, write_private
from ..window import Window, as_window, window_seconds

RESPONSE, RESEARCH = "response", "research run"
LOCAL = "local_"  # prefix of the id of an intent
CONVERSATION = "conversation"  # kind of the files of `history`
_WORK = "work"  # kind of the files of records
_MAX_WORDS = 60  # characters of the prompt
_PAYER_KEY = "paid_by"  # key of `payer_headers` in a file, which other versions read
_MAX_BYTES = 256 * 1024 * 1024  # of a record; a larger file is not read


class Record(NamedTuple):
    """A background response, or a research run at a relay.

    Attributes:
        kind: `RESPONSE` or `RESEARCH`.
        id: of the accepted work; the same as `local` until it is confirmed.
        words: the first words of the prompt.
        created: time of the submission, in seconds since 1970.
        token: reads and cancels a research run; a secret.
        relay: base URL of the run's relay; None for a relay that stops with its command.
        conversation: the saved conversation that the run belongs to, if any.
        payer_headers: the headers of its payer.
        local: the name of the record; None in a record of version 0.2, which is named by its id.
        key: idempotency key of the run; a secret, because a relay returns the token for it.
        arguments: of a run without a conversation.
        gateway: base URL of the response's gateway.
        window: discount window of the work.
    """

    kind: str
    id: str
    words: str
    created: float
    token: str | None = None
    relay: str | None = None
    conversation: JsonObject | None = None
    payer_headers: dict[str, str] | None = None
    local: str | None = None
    key: str | None = None
    arguments: JsonObject | None = None
    gateway: str | None = None
    window: Window | None = None

    @property
    def confirmed(self) -> bool:
        """Is the work known to be accepted?"""
        return self.id != self.local

    @property
    def name(self) -> str:
        """The name of the record, which stays the same when the work is accepted."""
        return self.local or self.id

    @property
    def payer(self) -> Payer:
        """The billing identity of the work."""
        try:
            return Payer.of(self.payer_headers)
        except ConfigurationError:  # not written by this program
            return Payer()

    @property
    def window_ends_at(self) -> float | None:
        """The end of the discount window in seconds since 1970, counted from the submit; None without one."""
        return self.created + window_seconds(self.window) if self.window else None

    def __repr__(self) -> str:
        return f"Record(kind={self.kind!r}, id={self.id!r})"


def own_relay() -> bool:
    """Was the relay started for this command, so that it stops with it?"""
    return bool(setting(OWN_RELAY))


def intent(
    kind: str, prompt: str, key: str | None = None, relay: str | None = None, name: str | None = None, **more: Any
) -> Record:
    """Return the record of work that is about to be submitted.

    Args:
        kind: `RESPONSE` or `RESEARCH`.
        prompt: its first words go into the record.
        key: idempotency key of a research run.
        relay: base URL of its relay.
        name: the local id; by default it is derived from the key.
        more: further fields of the record.
    """
    line = " ".join(prompt[: _MAX_WORDS * 4].split())
    words = line if len(line) <= _MAX_WORDS else line[: _MAX_WORDS - 3] + "..."
    local = name or local_id(key or uuid.uuid4().hex)
    # The address of a relay that stops with this command means nothing to a later one.
    relay = None if own_relay() else relay
    return Record(kind, local, words, time.time(), relay=relay, local=local, key=key, **more)


def local_id(key: str) -> str:
    """Return the local id of work with this idempotency key; the key cannot be derived from it."""
    return LOCAL + hashlib.sha256(key.encode()).hexdigest()[:16]


def write(record: Record) -> None:
    """Write or replace a record. It is on disk when this returns.

    Raises:
        ConfigurationError: the state directory is unusable.
        OSError: the record cannot be written.
    """
    data = record._asdict()
    data[_PAYER_KEY] = data.pop("payer_headers")
    write_private(state_dir() / file_name(_WORK, record.name), json.dumps(data))


def remove(record: Record, *, durably: bool = True) -> None:
    """Remove a record, and the conversation of a response that was not read. Raise OSError if that fails.

    Args:
        record: the record.
        durably: False spares the time of the disk, where a record that a power cut brings back does no harm.
    """
    path = state_path() / file_name(_WORK, record.name)
    path.unlink(missing_ok=True)
    if record.kind == RESPONSE:  # and its conversation, which stays without an answer
        (path.parent / file_name(CONVERSATION, json.dumps([record.id]))).unlink(missing_ok=True)
    for unfinished in _unfinished(path):
        unfinished.unlink(missing_ok=True)
    if durably:
        # A record that reappears after a crash does no harm either: its work is only listed once more.
        with suppress(OSError):
            sync_directory(path.parent)


def _unfinished(path: Path) -> list[Path]:
    """Return the files of a record that were left by commands that were killed while writing it."""
    # Not a glob: it would compile a pattern for each record, a tenth of the time of one of many questions.
    with suppress(OSError):
        return [path.parent / name for name in os.listdir(path.parent) if name.startswith(f".{path.name}.")]
    return []


def load(name: str) -> Record | None:
    """Return the record with this name (see `Record.name`); None if it is missing or unreadable."""
    with suppress(ConfigurationError):
        return _load(state_path() / file_name(_WORK, name))
    return None


def find(work_id: str | None) -> Record | None:
    """Return the record of work by its id or local id; None if no readable record has it."""
    if not work_id:
        return None
    with suppress(ConfigurationError):
        # Accepted work keeps the file of its local id, so that its id is found only by reading all records.
        record = _load(state_path() / file_name(_WORK, work_id))
        if record is not None and work_id in (record.id, record.local):
            return record
        return next((record for record in _all(state_path()) if record.id == work_id), None)
    return None


def all_records() -> list[Record]:
    """Return all readable records, oldest first.

    Raises:
        ConfigurationError: the state directory is unusable.
    """
    path = state_path()
    if not os.access(path, os.R_OK | os.X_OK):
        path = state_dir()  # created if missing; the error says why it is unusable
    return sorted(_all(path), key=lambda record: record.created)


def _all(path: Path) -> list[Record]:
    with suppress(OSError):
        return [record for file in path.glob(f"{_WORK}-*.json") if (record := _load(file)) is not None]
    return []


def _load(path: Path) -> Record | None:
    """Read a file that may be anything: torn, of another version, or planted."""
    try:
        data = json.loads(_read(path))
        record = Record(**{"payer_headers" if name == _PAYER_KEY else name: value for name, value in data.items()})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    texts = (record.kind, record.id, record.words)
    optional = (record.token, record.relay, record.local, record.key, record.gateway)
    objects = (record.conversation, record.payer_headers, record.arguments)
    fits = (
        all(isinstance(text, str) for text in texts)
        and all(text is None or isinstance(text, str) for text in optional)
        and all(one is None or isinstance(one, dict) for one in objects)
        # Not isinstance, because bool is an int.
        and type(record.created) in (int, float)
    )
    fits = fits and path.name == file_name(_WORK, record.name)  # otherwise removing it would remove another record
    record = record._replace(window=as_window(record.window))  # a newer version may know others
    return record if fits and math.isfinite(record.created) else None


def _read(path: Path) -> str:
    # Neither a link nor a pipe, on which a read would block.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags), encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        # A file of another user could name a relay, which would then receive this user's key and questions.
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES or other_owner(status) is not None:
            raise ValueError("not a record")
        return file.read()
