"""The journal: a record of each piece of paid work, durable in the state directory before its `POST` leaves.

A record begins as an intent under a local id. The answer turns it into the accepted work, with the id and token that
pick it up; a certain refusal removes it. If neither comes, it stays *not confirmed*. No clock removes a record: it goes
when the work was read whole, has ended, or is forgotten by hand.

A record is a file that is replaced in one step, so that commands which run at once do not disturb one another.
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

from ..config import ConfigurationError
from ..json_object import JsonObject
from ..payer import Payer
from ..state import state_dir, state_path, sync_directory, write_private

RESPONSE, RESEARCH = "response", "research run"
LOCAL = "local_"  # how the id of an intent begins
_WORDS = 60  # characters of the prompt
_MOST = 256 * 1024 * 1024  # bytes of a record that are read


class Record(NamedTuple):
    """A background response, or a research run at a relay.

    Attributes:
        id: of the accepted work; `local` while it is not confirmed.
        words: the first words of its prompt.
        created: when it was submitted, in seconds since 1970.
        token: reads and cancels a research run; a secret.
        relay: address of the run's relay; None for one that ran as long as its command.
        conversation: what it takes to finish the answer that the run is for, if there is one.
        paid_by: the headers of its payer.
        local: its name in the journal; None in a record of version 0.2, which has that of its id.
        key: idempotency key of the run; a secret, as it gives the token.
        arguments: of a run without a conversation.
        gateway: address of the response's gateway.
    """

    kind: str
    id: str
    words: str
    created: float
    token: str | None = None
    relay: str | None = None
    conversation: JsonObject | None = None
    paid_by: dict[str, str] | None = None
    local: str | None = None
    key: str | None = None
    arguments: JsonObject | None = None
    gateway: str | None = None

    @property
    def confirmed(self) -> bool:
        """Was the work accepted for certain?"""
        return self.id != self.local

    @property
    def name(self) -> str:
        """The name of the record, which stays when the work is accepted."""
        return self.local or self.id

    @property
    def payer(self) -> Payer:
        try:
            return Payer.of(self.paid_by)
        except ConfigurationError:  # not written by this program
            return Payer()

    def __repr__(self) -> str:
        return f"Record(kind={self.kind!r}, id={self.id!r})"


def intent(kind: str, prompt: str, key: str | None = None, **more: Any) -> Record:
    """Return the record of work that is about to be submitted; `key` is the idempotency key of a run."""
    line = " ".join(prompt[: _WORDS * 4].split())
    words = line if len(line) <= _WORDS else line[: _WORDS - 3] + "..."
    local = local_id(key or uuid.uuid4().hex)
    return Record(kind, local, words, time.time(), local=local, key=key, **more)


def local_id(key: str) -> str:
    """Return the local id of work with this idempotency key, which cannot be told from it."""
    return LOCAL + hashlib.sha256(key.encode()).hexdigest()[:16]


def record(entry: Record) -> None:
    """Write a record, or write it over. It is on the disk when this returns.

    Raises:
        ConfigurationError: there is no state directory that can be used.
        OSError: the record cannot be written.
    """
    write_private(state_dir() / _file_name(entry.name), json.dumps(entry._asdict()))


def forget(entry: Record) -> None:
    """Remove a record: its work was read whole, has ended, was not accepted, or is of no interest. Raises OSError."""
    path = state_path() / _file_name(entry.name)
    path.unlink(missing_ok=True)
    for unfinished in path.parent.glob(f".{path.name}.*"):  # left by a command that was killed while it wrote
        unfinished.unlink(missing_ok=True)
    with suppress(OSError):
        sync_directory(path.parent)


def find(work_id: str | None) -> Record | None:
    """Return the record of work by its id or its local id; None if there is none that can be read."""
    if not work_id:
        return None
    with suppress(ConfigurationError):
        entry = _load(state_path() / _file_name(work_id))
        if entry is not None and work_id in (entry.id, entry.local):
            return entry
        return next((entry for entry in _all(state_path()) if entry.id == work_id), None)
    return None


def all_records() -> list[Record]:
    """Return all records that can be read, the oldest first.

    Raises:
        ConfigurationError: there is no state directory.
    """
    path = state_path()
    if not os.access(path, os.R_OK | os.X_OK):
        path = state_dir()  # made on demand, or it says why it cannot be used
    return sorted(_all(path), key=lambda entry: entry.created)


def _all(path: Path) -> list[Record]:
    with suppress(OSError):
        return [entry for file in path.glob("work-*.json") if (entry := _load(file)) is not None]
    return []


def _load(path: Path) -> Record | None:
    """Read a file that may be anything: torn, of another version, or planted."""
    try:
        entry = Record(**json.loads(_read(path)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (entry.kind, entry.id, entry.words)
    optional = (entry.token, entry.relay, entry.local, entry.key, entry.gateway)
    objects = (entry.conversation, entry.paid_by, entry.arguments)
    fits = (
        all(isinstance(text, str) for text in texts)
        and all(text is None or isinstance(text, str) for text in optional)
        and all(one is None or isinstance(one, dict) for one in objects)
        and type(entry.created) in (int, float)
    )
    fits = fits and path.name == _file_name(entry.name)  # else to forget it would remove another
    return entry if fits and math.isfinite(entry.created) else None


def _read(path: Path) -> str:
    # No link, and no pipe, for which a read would wait.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags), encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST:
            raise ValueError("not a record")
        return file.read()


def _file_name(name: str) -> str:
    # Ids are too long for a file name, and their characters are a gateway's choice.
    return f"work-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:32]}.json"
