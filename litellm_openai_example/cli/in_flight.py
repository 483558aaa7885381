"""The paid work of one command that has not ended: kept in the journal, and named when the command ends."""

from __future__ import annotations

import threading
from contextlib import suppress

from ..config import ConfigurationError
from ..json_object import JsonObject
from . import journal
from .again import pick_up_line
from .journal import Record
from .output import notice


class InFlight:
    """The records of this command's work; its calls run side by side, so each change is made under a lock.

    A journal that cannot be written must not cost an answer: then the user is told at once what would have been kept.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._records: dict[str, Record] = {}
        self._lost: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._records)

    @property
    def records(self) -> list[Record]:
        """The work, in the order in which it was begun."""
        return list(self._records.values())

    def is_kept(self, entry: Record) -> bool:
        """Is its record in the journal, so that a later command finds it?"""
        return entry.name not in self._lost

    def begin(self, entry: Record) -> None:
        """Make the intent durable, before anything is sent.

        All runs of a conversation carry its newest state, or a run of an earlier round would ask the model again.
        """
        with self._lock:
            if entry.conversation is not None:
                self._update(entry.conversation)
            self._put(entry)

    def accept(
        self, entry: Record, work_id: str, token: str | None = None, conversation: JsonObject | None = None
    ) -> None:
        """Make the intent the accepted work."""
        with self._lock:
            accepted = entry._replace(id=work_id, token=token, conversation=conversation, key=None, arguments=None)
            self._put(accepted)
            if not self.is_kept(accepted):
                notice(f"It can be picked up only like this: {pick_up_line(accepted)}")

    def follow(self, entry: Record) -> None:
        """Take up work of an earlier command."""
        with self._lock:
            self._records[entry.name] = entry

    def drop(self, entry: Record) -> None:
        """Forget work that was read whole, has ended, or was not accepted."""
        with self._lock:
            self._records.pop(entry.name, None)
            with suppress(OSError, ConfigurationError):
                journal.forget(entry)

    def drop_all(self) -> None:
        """Forget all of it."""
        for entry in self.records:
            self.drop(entry)

    def _update(self, conversation: JsonObject) -> None:
        for entry in self.records:
            if entry.conversation not in (None, conversation):
                self._put(entry._replace(conversation=conversation))

    def _put(self, entry: Record) -> None:
        self._records[entry.name] = entry
        try:
            journal.record(entry)
        except (OSError, ConfigurationError) as error:
            if not self._lost:
                why = str(error) if isinstance(error, ConfigurationError) else error.strerror
                notice(f"[nothing can be kept for a later command: {why}]")
            self._lost.add(entry.name)
        else:
            self._lost.discard(entry.name)
