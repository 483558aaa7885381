"""The hub: all waiters and event streams of this process subscribe here, and none queries the database.

A change, made here or announced by another process, is read once for all subscribers of that invocation. Some changes
are not announced: those by another process on SQLite, and those while PostgreSQL was away. They are found by rereading
the watched invocations of other processes from time to time.

The events of an invocation are derived from its row and its pieces of text. Their ids are positions: 1 is `queued`, 2
`running`, then one for each stored piece of text, one for text that was not streamed, and one for the end. So they are
the same on every process and after every restart.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import attrgetter

from ...research.contract import LastEvent, OutputTextEvent, StatusEvent
from ..ledger.failures import LedgerUnavailable, NotAnnounced
from ..ledger.records import Piece, Record, when
from ..ledger.states import Ledger
from ..log import log
from ..tasks import keep_going

_SAFETY = 10.0  # seconds between two reads of everything watched, in case an announcement was lost
_GATHERED = 0.02  # seconds in which further changes gather, to be read together
_RETRY = 0.5
_RETRY_BEHIND_POOLER = 60.0
_QUEUED, _RUNNING = 1, 2  # ids of the first events


@dataclass(frozen=True)
class EncodedEvent:
    """A server-sent event, encoded."""

    id: int
    encoded: bytes

    @classmethod
    def of(cls, id: int, data: StatusEvent | OutputTextEvent | LastEvent) -> EncodedEvent:
        # JSON holds no raw line breaks, so one data line is enough.
        return cls(id, f"id: {id}\nevent: {data.type}\ndata: {data.model_dump_json()}\n\n".encode())


class Topic:
    """A watched invocation: its newest record and its streamed text."""

    def __init__(self, record: Record, pieces: list[Piece]) -> None:
        self.record = record
        self.pieces = pieces
        self.watchers = 0
        self._events: list[EncodedEvent] = []  # encoded once for all readers: a result may have megabytes
        self._changed = asyncio.Event()

    def update(self, record: Record, pieces: list[Piece]) -> None:
        self.pieces += pieces
        if pieces or record != self.record:
            self.record = record
            self.wake()

    def wake(self) -> None:
        # A new event instead of `clear`: a reader between `next_change` and its wait must find the old one set.
        self._changed.set()
        self._changed = asyncio.Event()

    def events_after(self, last: int) -> list[EncodedEvent]:
        """Return the events after the one with the id `last` (0 for all)."""
        self._events += _events_after(self.record, self.pieces, self._events[-1].id if self._events else 0)
        return self._events[bisect_right(self._events, last, key=attrgetter("id")) :]

    def next_change(self) -> asyncio.Event:
        """Return the event that the next change sets. Taken before a read, it misses no change during that read."""
        return self._changed


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, `seconds` at most; return whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


class Hub:
    """The topics of one process.

    Args:
        ledger: where changes are read.
        tick: seconds between two reads of invocations that may change without an announcement.
        local: the invocations that this process runs; their changes are always announced.
    """

    def __init__(self, ledger: Ledger, *, tick: float, local: Callable[[], Collection[str]]) -> None:
        self.closing = False
        self._ledger = ledger
        self._tick = tick
        self._local = local
        self._announced = False  # other processes announce their changes
        self._told = False  # the log says that they do not
        self._next_safety = time.monotonic() + _SAFETY
        self._topics: dict[str, Topic] = {}
        self._stale: set[str] = set()
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def watchers(self) -> int:
        """The number of waiters and event streams."""
        return sum(topic.watchers for topic in self._topics.values())

    def start(self) -> None:
        self._keep("reading changes", self._refresh_stale)
        self._keep("looking for changes", self._look_again)
        if self._ledger.database.postgresql:
            self._keep("listening for changes", self._listen)

    def _keep(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        going = keep_going(name, step, pause=_RETRY, expected=LedgerUnavailable)
        self._tasks.append(asyncio.create_task(going, name=name))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Wake all waiters, because this process is about to end."""
        self.closing = True
        for topic in self._topics.values():
            topic.wake()

    @asynccontextmanager
    async def watch(self, record: Record) -> AsyncIterator[Topic]:
        """Subscribe to an invocation. `record` is the row as the caller has just read it."""
        topic = self._topics.get(record.id)
        if topic is None:
            pieces = await self._ledger.pieces(record.id) if record.mode == "stream" else []
            topic = self._topics.setdefault(record.id, Topic(record, pieces))
            # It may have changed between the caller's read and this subscription, when no announcement reached it.
            self.changed([record.id])
        topic.watchers += 1
        try:
            yield topic
        finally:
            topic.watchers -= 1
            if topic.watchers == 0:
                self._topics.pop(record.id, None)

    def changed(self, ids: Iterable[str]) -> None:
        """Mark these invocations as changed."""
        watched = self._topics.keys() & ids
        if watched:
            self._stale |= watched
            self._wanted.set()

    async def _refresh_stale(self) -> None:
        await self._wanted.wait()
        self._wanted.clear()
        ids, self._stale = self._stale, set()
        try:
            await self._refresh(ids)
        except Exception:
            self.changed(ids)  # the announcements are used up, so the next round must read these again
            raise
        await asyncio.sleep(_GATHERED)

    async def _refresh(self, ids: Collection[str]) -> None:
        records = await self._ledger.get_many(list(ids))
        for record in records.values():
            topic = self._topics.get(record.id)
            if topic is None:
                continue
            pieces = []
            if record.mode == "stream":
                pieces = await self._ledger.pieces(record.id, topic.pieces[-1].seq if topic.pieces else 0)
            topic.update(record, pieces)

    async def _look_again(self) -> None:
        await asyncio.sleep(self._tick)
        watched = {id for id, topic in self._topics.items() if not topic.record.finished}
        if time.monotonic() >= self._next_safety:
            self._next_safety = time.monotonic() + _SAFETY
            self.changed(watched)
        elif not self._announced:
            self.changed(watched.difference(self._local()))

    async def _listen(self) -> None:
        try:
            async for ids in self._ledger.database.listen():
                self._announced = True
                # An empty set means that listening has just begun: anything may have changed before.
                self.changed(ids or list(self._topics))
        except NotAnnounced:
            if not self._told:
                log.warning("the ledger announces no changes (a pooler per transaction?): polling for them instead")
            self._told = True
            await asyncio.sleep(_RETRY_BEHIND_POOLER)
        finally:
            self._announced = False


# Events


def _events_after(record: Record, pieces: Sequence[Piece], last: int) -> list[EncodedEvent]:
    """Return the events after the id `last` (0 for all)."""
    events = []
    if last < _QUEUED:
        events.append(_status(record, _QUEUED, "queued", None, record.created_at))
    # A run that ended without the gateway's id has no such event. Its id 2 stays unused, so that no other id moves.
    if last < _RUNNING and (record.status == "running" or (record.finished and record.upstream_id)):
        events.append(_status(record, _RUNNING, "running", record.upstream_id, record.updated_at))
    for piece in pieces[max(0, last - _RUNNING) :]:
        events.append(_text(record, piece))
    if record.finished:
        rest = _rest(record, pieces)
        end = last_id(record, pieces)
        if rest is not None and last < end - 1:
            events.append(_text(record, rest))
        if last < end:
            events.append(EncodedEvent.of(end, LastEvent.model_construct(**vars(record.view))))
    return events


def last_id(record: Record, pieces: Sequence[Piece]) -> int:
    """Return the highest id so far."""
    # By position, even for events that are left out: a reader that reconnects must find the same ids.
    streamed = len(pieces) + _RUNNING
    if record.finished:
        return streamed + 1 + (_rest(record, pieces) is not None)
    return streamed if pieces or record.status == "running" else _QUEUED


def _rest(record: Record, pieces: Sequence[Piece]) -> Piece | None:
    """Return the text that was not streamed; None if the final text does not continue the streamed one."""
    text, start = record.output_text or "", pieces[-1].end if pieces else 0
    if len(text) <= start or not text.startswith("".join(piece.text for piece in pieces)):
        return None
    return Piece(len(pieces) + 1, start, text[start:])


def _status(record: Record, id: int, status: str, upstream_id: str | None, at: float) -> EncodedEvent:
    event = StatusEvent.model_construct(
        invocation_id=record.id, status=status, upstream_response_id=upstream_id, updated_at=when(at)
    )
    return EncodedEvent.of(id, event)


def _text(record: Record, piece: Piece) -> EncodedEvent:
    event = OutputTextEvent.model_construct(invocation_id=record.id, offset=piece.start, delta=piece.text)
    return EncodedEvent.of(piece.seq + _RUNNING, event)
