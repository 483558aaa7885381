"""The event stream of an invocation, derived from its row and its pieces of text in the ledger.

Ids are positions: 1 is `queued`, 2 `running`, then one for each stored piece of text, one for text that was not
streamed, and one for the end. So they are the same on every process and after every restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..research.contract import LastEvent, OutputTextEvent, StatusEvent
from .ledger.records import Piece, Record, when

_QUEUED, _RUNNING = 1, 2


@dataclass(frozen=True)
class EncodedEvent:
    """A server-sent event, encoded."""

    id: int
    encoded: bytes

    @classmethod
    def of(cls, id: int, data: StatusEvent | OutputTextEvent | LastEvent) -> EncodedEvent:
        # JSON holds no raw line breaks, so one data line is enough.
        return cls(id, f"id: {id}\nevent: {data.type}\ndata: {data.model_dump_json()}\n\n".encode())


def events_after(record: Record, pieces: Sequence[Piece], last: int) -> list[EncodedEvent]:
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
