"""The events of a response stream, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..json_object import JsonObject
from .answer import (
    Answer,
    blank_line,
    is_message,
    message_text,
    phase_of,
    read_error,
    read_response,
    refusal_of,
    text_of,
)
from .lenient import Text, as_dict, as_int, as_list, as_str, join, missing
from .reasons import RUNNING, TERMINAL, cut_by
from .sse import error_of, says_error


class ResponseStream:
    """Puts the events of a response stream together. It is whole once a terminal event arrived.

    A text comes as deltas, again in up to three `*.done` events, and again in the last one. Some gateways leave out
    all but one of them, so each adds what the ones before did not bring.
    """

    read: ClassVar[Callable[[object], Answer]] = staticmethod(read_response)

    def __init__(self) -> None:
        self.id: str | None = None
        self._text = Text()
        self._tail = ""
        self._parts: dict[int | None, dict[int, list[str]]] = {}
        self._phases: dict[int | None, str] = {}
        self._indexes: dict[str, int] = {}
        self._latest: int | None = None
        self._refusals: list[str] = []
        self._notes: list[object] = []
        self._items: dict[int, JsonObject] = {}
        self._final: Answer | None = None
        self._body: JsonObject = {}

    @property
    def ended(self) -> bool:
        """Whether the terminal event has arrived."""
        return self._final is not None

    def feed(self, event: object) -> str:
        """Take one event and return the text that it adds."""
        data = as_dict(event)
        name = as_str(data.get("type"))
        kind = name.removeprefix("response.")
        if name == "error" or says_error(data):
            code, message = read_error(error_of(data))
            self._final = Answer(status="failed", error_code=code, error_message=message)
            return ""
        if isinstance(data.get("response"), dict):
            return self._response(kind, data["response"])
        if data.get("object") == "response" or "output" in data:  # a gateway that feigns to stream
            return self._response("", data)
        if kind in TERMINAL:  # the name of the event says it all
            return self._response(kind, self._body)
        return self._piece(kind, data)

    def _piece(self, kind: str, data: JsonObject) -> str:
        if kind in ("output_text.delta", "text.delta"):
            return self._add(self._index(data), data.get("content_index"), text_of(data.get("delta")))
        if kind in ("output_text.done", "text.done"):
            return self._settle(self._index(data), data.get("content_index"), text_of(data.get("text")))
        if kind == "content_part.done":
            self._refuse(refusal_of([data.get("part")]))
            return self._settle(self._index(data), data.get("content_index"), text_of(data.get("part")))
        if kind in ("output_item.added", "output_item.done"):
            return self._item(kind, data)
        if kind == "refusal.delta":
            self._refusals.append(as_str(data.get("delta")))
        elif kind == "refusal.done":
            self._refuse(as_str(data.get("refusal")))
        elif kind == "output_text.annotation.added":
            self._notes.append(data.get("annotation"))
        return ""

    def _item(self, kind: str, data: JsonObject) -> str:
        item = as_dict(data.get("item"))
        index = self._index({"item_id": item.get("id"), **data})
        if is_message(item):
            self._phases[index] = phase_of(item) or self._phases.get(index, "")
        if kind == "output_item.added":
            return ""
        self._items[len(self._items) if index is None else index] = item
        if not is_message(item):
            return ""
        self._refuse(refusal_of(item.get("content")))
        return self._settle(index, None, message_text(item))

    def _index(self, data: JsonObject) -> int | None:
        """The output item that an event is about; None where it does not say."""
        index, name = as_int(data.get("output_index")), as_str(data.get("item_id"))
        if index is not None and name:
            self._indexes[name] = index
        return self._indexes.get(name) if index is None else index

    def _add(self, index: int | None, part: object, piece: str) -> str:
        """Take a piece of one part of one item."""
        if not piece:
            return ""
        self._parts.setdefault(index, {}).setdefault(as_int(part) or 0, []).append(piece)
        if index != self._latest and self._phases.get(self._latest) == "commentary" and self._tail:
            piece = blank_line(self._tail, piece) + piece
        self._latest = index
        self._tail = (self._tail + piece)[-2:]
        return self._text.add(piece)

    def _settle(self, index: int | None, part: object, text: str) -> str:
        """Take the whole text of a part, or (without `part`) of an item: what of it has not come before."""
        if index is not None and index not in self._parts and None in self._parts:
            self._parts[index] = self._parts.pop(None)  # the deltas did not say of which item they are
            self._latest = index if self._latest is None else self._latest
        parts = self._parts.get(index, {})
        number = as_int(part)
        pieces = [p for _, some in sorted(parts.items()) for p in some] if number is None else parts.get(number, [])
        sent = join(pieces)
        return self._add(index, part, missing(sent, text))

    def _refuse(self, refusal: str) -> None:
        # The last pieces tell, so that one event costs no more when much has come; half a character counts as one.
        taken = length = 0
        while length < 2 * len(refusal) and taken < len(self._refusals):
            taken += 1
            length += len(self._refusals[-taken])
        if refusal and not join(self._refusals[len(self._refusals) - taken :]).endswith(refusal):
            self._refusals.append(refusal)

    def _response(self, kind: str, response: JsonObject) -> str:
        if not as_list(response.get("output")) and self._items:
            response = {**response, "output": [item for _, item in sorted(self._items.items())]}
        answer = read_response(response)
        self.id = self.id or answer.id
        self._body = response
        if not kind and not answer.status:
            kind = "completed"
        if kind not in TERMINAL:
            if kind in ("created", "queued", "in_progress") or answer.status not in TERMINAL:
                return ""
            kind = answer.status
        if kind == "completed" and answer.status not in TERMINAL | RUNNING | {""}:
            answer = replace(answer, status="incomplete", cut_short=cut_by(answer.status))
        elif answer.status not in TERMINAL or kind != "completed":
            answer = replace(answer, status=kind)  # the event's name is the surer of the two: a status may be null
        if answer.status == "incomplete" and answer.cut_short is None:
            answer = replace(answer, cut_short=cut_by("incomplete"))
        self._final = answer
        # A bridge may send the text, or the end of it, in the last event alone.
        piece = self._text.add(missing(str(self._text), answer.text))
        return piece + self.rest()

    def end(self) -> str:
        """Take a `[DONE]`, which says nothing here."""
        return self.rest()

    def rest(self) -> str:
        """What was held back of the text, when nothing more comes."""
        return self._text.end()

    def body(self) -> JsonObject:
        """The response as the last event that held one had it."""
        return self._body

    def answer(self) -> Answer:
        """What has arrived so far; its status is empty while the stream has not reached its end."""
        final, sent = self._final or Answer(), str(self._text)
        if not final.sources and self._notes:
            found = read_response({"output": [{"type": "message", "content": [{"annotations": self._notes}]}]})
            final = replace(final, sources=found.sources, searched=final.searched or found.searched)
        return replace(
            final,
            # What was shown, unless the last event knows better.
            text=sent if sent.startswith(final.text) else final.text,
            # The id of the first event is the one that can be retrieved later: gateways change it on every reply.
            id=self.id or final.id,
            refusal=final.refusal or join(self._refusals),
        )
