"""What this user has submitted and not yet read whole, kept in the state directory for a later command.

A directory that cannot be had must not cost an answer: then nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..config import ConfigurationError, setting
from ..json_object import JsonObject
from ..payer import Payer
from ..state import state_dir, write_private

RESPONSE, RESEARCH = "response", "research run"
_RETENTION_HOURS = 72.0  # the relay's default
_WORDS = 60  # characters of the prompt


class Work(NamedTuple):
    """A background response, or a research run at a relay.

    Attributes:
        token: that reads and cancels a research run; a secret.
        relay: where the run is, None for the relay at the usual address.
        created: when it was submitted, in seconds since 1970.
        words: how its prompt begins.
        conversation: what it takes to finish the answer that the run is for, if there is one.
        paid_by: the headers of its payer.
    """

    kind: str
    id: str
    words: str
    created: float
    token: str | None = None
    relay: str | None = None
    conversation: JsonObject | None = None
    paid_by: dict[str, str] | None = None

    @property
    def payer(self) -> Payer:
        try:
            return Payer.of(self.paid_by)
        except ConfigurationError:  # not written by this program
            return Payer()

    def __repr__(self) -> str:
        return f"Work(kind={self.kind!r}, id={self.id!r})"


def begun(kind: str, work_id: str, prompt: str, **more: Any) -> Work:
    """Work that begins now."""
    line = " ".join(prompt[: _WORDS * 4].split())
    return Work(kind, work_id, line if len(line) <= _WORDS else line[: _WORDS - 3] + "...", time.time(), **more)


def remember(work: Work) -> None:
    """Keep it for a later command."""
    with suppress(OSError, ConfigurationError):
        write_private(_file(work.id), json.dumps(work._asdict()))


def forget(work_id: str | None) -> None:
    """It was read whole, or has ended: nothing needs it any more."""
    if work_id:
        with suppress(OSError, ConfigurationError):
            _file(work_id).unlink(missing_ok=True)


def recall(work_id: str) -> Work | None:
    """What was kept, if it still is."""
    try:
        return _load(_file(work_id))
    except ConfigurationError:
        return None


def remembered() -> list[Work]:
    """All of it, the oldest first. What the relay would not know any more is forgotten.

    Raises:
        ConfigurationError: there is no state directory.
    """
    found = []
    oldest = time.time() - _retention_hours() * 3600
    for path in state_dir().glob("work-*.json"):
        work = _load(path)
        if work is not None and work.created < oldest:
            with suppress(OSError):
                path.unlink()
        elif work is not None:
            found.append(work)
    return sorted(found, key=lambda work: work.created)


def _load(path: Path) -> Work | None:
    try:
        work = Work(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (work.kind, work.id, work.words, work.token or "", work.relay or "")
    fits = all(isinstance(text, str) for text in texts) and isinstance(work.created, int | float)
    return work if fits and math.isfinite(work.created) else None


def _file(work_id: str) -> Path:
    # Ids are too long for a file name, and their characters are a gateway's choice.
    return state_dir() / f"work-{hashlib.sha256(work_id.encode('utf-8', 'replace')).hexdigest()[:32]}.json"


def _retention_hours() -> float:
    try:
        hours = float(setting("RELAY_RETENTION_HOURS"))
    except ValueError:
        return _RETENTION_HOURS
    return hours if 0 < hours < math.inf else _RETENTION_HOURS
