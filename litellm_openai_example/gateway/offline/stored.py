"""The offline provider's responses: kept in memory, and as small files, so that the next provider knows them too.

A provider that goes away must not take with it what was paid for. This one ends with the command that it was started
for, so what it has answered waits in the user's state directory, as it would wait at a real provider.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from ...json_object import JsonObject
from ...state import write_private
from . import wire
from .model import Entry

_IN_MEMORY = 1000
_FILES = 200
_FILE_SECONDS = 3 * 24 * 3600.0  # as long as the relay keeps a run
_FILE_CHARACTERS = 512 * 1024
_QUEUED_SECONDS = 0.2
_OURS = re.compile(r"resp_[0-9a-f]{32}")


class Stored:
    """A response that can be retrieved; a background one becomes finished as time passes.

    Attributes:
        whole: the finished response.
        items: the input items it was asked with.
        conversation: what a next turn follows on.
        seconds: how long it takes until it is finished.
    """

    def __init__(
        self, whole: JsonObject, items: Sequence[JsonObject], conversation: Sequence[Entry], seconds: float
    ) -> None:
        self.whole = whole
        self.items = [{"id": f"in_{number}_{whole['id']}", **item} for number, item in enumerate(items)]
        self.conversation = conversation
        self.cancelled = False
        self.seconds = seconds
        self._created = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until it is finished."""
        return max(0.0, self._created + self.seconds - time.monotonic())

    def now(self) -> JsonObject:
        """The response as it stands."""
        if self.cancelled:
            return wire.unfinished(self.whole, "cancelled")
        if self.left == 0:
            return self.whole
        young = time.monotonic() - self._created < _QUEUED_SECONDS
        return wire.unfinished(self.whole, "queued" if young else "in_progress")

    def dump(self) -> str:
        """All of it as JSON, for `load`."""
        kept = {name: value for name, value in vars(self).items() if name != "_created"}
        kept["conversation"] = [vars(entry) for entry in self.conversation]
        return json.dumps(kept | {"created": time.time() - (time.monotonic() - self._created)})

    @classmethod
    def load(cls, text: str) -> Self:
        """What `dump` gave, in another process. Raises ValueError, TypeError or KeyError where it is not that."""
        kept = json.loads(text)
        stored = cls(kept["whole"], kept["items"], [Entry(**entry) for entry in kept["conversation"]], kept["seconds"])
        stored.cancelled = kept["cancelled"]
        stored._created -= max(0.0, time.time() - kept["created"])
        return stored


class Responses:
    """The responses by id; the oldest ones go when there are too many.

    Args:
        folder: where they are kept as files of mode 0600, made on demand; None keeps them in memory alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: OrderedDict[str, Stored] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, stored: Stored) -> None:
        """Keep a response, or how it has changed."""
        with self._lock, suppress(OSError):  # a disk that is full must not cost an answer
            self._remember(stored)
            self._write(stored)

    def find(self, response_id: str) -> Stored | None:
        """The response with this id, if it is known."""
        with self._lock:
            stored = self._known.get(response_id)
            path = self._path(response_id)
            if stored is None and path is not None:
                with suppress(OSError, ValueError, TypeError, KeyError):
                    stored = Stored.load(path.read_text(encoding="utf-8"))
                    self._remember(stored)
            return stored

    def delete(self, response_id: str) -> bool:
        """Forget a response; whether it was known."""
        known = self.find(response_id) is not None
        with self._lock, suppress(OSError):
            self._known.pop(response_id, None)
            if path := self._path(response_id):
                path.unlink(missing_ok=True)
        return known

    def _remember(self, stored: Stored) -> None:
        self._known[stored.whole["id"]] = stored
        while len(self._known) > _IN_MEMORY:
            self._known.popitem(last=False)

    def _path(self, response_id: str) -> Path | None:
        # An id is a client's choice until it is seen to be one of ours: no path may be made of any other.
        return self._folder / f"{response_id}.json" if self._folder and _OURS.fullmatch(response_id) else None

    def _write(self, stored: Stored) -> None:
        path = self._path(stored.whole["id"])
        if path is None or len(text := stored.dump()) > _FILE_CHARACTERS:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)
        files = sorted(((file.stat().st_mtime, file) for file in path.parent.glob("resp_*.json")), reverse=True)
        for number, (changed, file) in enumerate(files):
            if number >= _FILES or changed < time.time() - _FILE_SECONDS:
                file.unlink(missing_ok=True)
