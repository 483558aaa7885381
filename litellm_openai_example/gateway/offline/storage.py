"""The responses and files that the offline provider stores.

A real provider keeps a background response until it is fetched. This one ends with the command it was started for, so
it also writes responses to the user's state directory, where the next one finds them. Files stay in memory.
"""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from ...json_object import JsonObject
from ...state import write_private
from . import wire
from .model import BadRequest, Item

_MOST_RESPONSES = 1000  # in memory
_MOST_KEPT = 200  # on the disk
_KEPT_SECONDS = 3 * 24 * 3600.0  # as long as the relay keeps a run
_KEPT_CHARACTERS = 512 * 1024
_MOST_FILES = 100
_QUEUED_SECONDS = 0.2
_RESPONSE_ID = re.compile(r"resp_[0-9a-f]{32}")


@dataclass
class Stored:
    """A stored response; in the background, it is queued, in progress and completed as time passes.

    Attributes:
        whole: the completed response.
        items: its input items.
        conversation: the conversation up to and including it, for the next turn.
        seconds: the time from its creation to its completion.
        cancelled: True once it was cancelled.
        created: monotonic, so that a corrected clock neither completes a response at once nor delays it.
    """

    whole: JsonObject
    items: Sequence[JsonObject]
    conversation: Sequence[Item]
    seconds: float
    cancelled: bool = False
    created: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """The seconds until it is completed."""
        return max(0.0, self.created + self.seconds - time.monotonic())

    def now(self) -> JsonObject:
        """Return the response in its present state."""
        if self.cancelled:
            return wire.unfinished(self.whole, "cancelled")
        if self.left == 0:
            return self.whole
        young = time.monotonic() - self.created < _QUEUED_SECONDS
        return wire.unfinished(self.whole, "queued" if young else "in_progress")

    def dump(self) -> str:
        """Return all of it as JSON, for `load`."""
        return json.dumps(asdict(self) | {"created": time.time() - (time.monotonic() - self.created)})

    @classmethod
    def load(cls, text: str) -> Self:
        """Return the response that `dump` wrote; raise ValueError, TypeError or KeyError for any other text."""
        kept = json.loads(text)
        # Another process has another monotonic clock: the age is carried over by wall clock, and is never negative.
        created = time.monotonic() - max(0.0, time.time() - kept["created"])
        return cls(**{**kept, "conversation": [Item(**item) for item in kept["conversation"]], "created": created})


class Responses:
    """The responses by id; the oldest go when there are too many.

    Args:
        folder: the directory for their files, of mode 0600, created on demand; None keeps them in memory alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: OrderedDict[str, Stored] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, stored: Stored) -> None:
        """Store a response, or its changed state."""
        with self._lock, suppress(OSError):  # a full disk must not cost an answer
            self._remember(stored)
            self._write(stored)

    def find(self, response_id: str) -> Stored | None:
        """Return the response with this id, or None."""
        with self._lock:
            stored = self._known.get(response_id)
            path = self._path(response_id)
            if stored is None and path is not None:
                with suppress(OSError, ValueError, TypeError, KeyError):
                    stored = Stored.load(path.read_text(encoding="utf-8"))
                    self._remember(stored)
            return stored

    def delete(self, response_id: str) -> bool:
        """Delete a response; return False if it is unknown."""
        known = self.find(response_id) is not None
        with self._lock, suppress(OSError):
            self._known.pop(response_id, None)
            if path := self._path(response_id):
                path.unlink(missing_ok=True)
        return known

    def _remember(self, stored: Stored) -> None:
        self._known[stored.whole["id"]] = stored
        while len(self._known) > _MOST_RESPONSES:
            self._known.popitem(last=False)

    def _path(self, response_id: str) -> Path | None:
        # A client may send any text as an id: only one of our form may become part of a path.
        return self._folder / f"{response_id}.json" if self._folder and _RESPONSE_ID.fullmatch(response_id) else None

    def _write(self, stored: Stored) -> None:
        path = self._path(stored.whole["id"])
        if path is None or len(text := stored.dump()) > _KEPT_CHARACTERS:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)
        # By the files' own times: other providers write to this directory too.
        files = sorted(((file.stat().st_mtime, file) for file in path.parent.glob("resp_*.json")), reverse=True)
        for number, (changed, file) in enumerate(files):
            if number >= _MOST_KEPT or changed < time.time() - _KEPT_SECONDS:
                file.unlink(missing_ok=True)


class Files:
    """The uploaded files, in memory; the oldest go when there are too many."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, tuple[JsonObject, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def upload(self, content_type: str, body: bytes) -> JsonObject:
        """Store the file of a form and return its object. Raises BadRequest."""
        fields = _form(content_type, body)
        name, content = fields.get("file", (None, b""))
        purpose = fields.get("purpose", (None, b""))[1].decode(errors="replace")
        if name is None:
            raise BadRequest("'file' is a required property", param="file")
        if not purpose:
            raise BadRequest("'purpose' is a required property", param="purpose")
        about: JsonObject = {
            "id": f"file-{secrets.token_hex(12)}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        with self._lock:
            self._files[about["id"]] = (about, content)
            while len(self._files) > _MOST_FILES:
                self._files.popitem(last=False)
        return about

    def list(self, purpose: str = "") -> JsonObject:
        """Return a page with all files, or those for one purpose, newest first."""
        with self._lock:
            found = [about for about, _ in reversed(self._files.values()) if purpose in ("", about["purpose"])]
        ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else {}
        return {"object": "list", "data": found, "has_more": False, **ends}

    def find(self, file_id: str) -> tuple[JsonObject, bytes] | None:
        """Return the object of a file and its content, or None."""
        with self._lock:
            return self._files.get(file_id)

    def delete(self, file_id: str) -> bool:
        """Delete a file; return False if it is unknown."""
        with self._lock:
            return self._files.pop(file_id, None) is not None


def _form(content_type: str, body: bytes) -> dict[str, tuple[str | None, bytes]]:
    """Return the fields of a `multipart/form-data` body (RFC 7578): name to file name and content."""
    if not content_type.lower().startswith("multipart/form-data"):
        raise BadRequest("The body must be multipart/form-data.")
    # The only parser of multipart bodies in the standard library is that of e-mails.
    head = f"content-type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    fields: dict[str, tuple[str | None, bytes]] = {}
    for part in form.iter_parts() if form.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = (part.get_filename(), content)
    return fields
