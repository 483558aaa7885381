"""The events of a response stream, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..json_object import JsonObject
from .accumulator import Accumulator, Text, error_of, missing, says_error
from .answer import (
    Answer,
    as_dict,
    as_int,
    as_list,
    as_str,
    blank_line,
    is_message,
    join,
    message_text,
    read_error,
    read_response,
    refusal_of,
    refusal_words,
    text_of,
)
from .finish_reasons import RUNNING, TERMINAL, cut_by


class ResponseStream(Accumulator):
    """Puts the events of a response stream together. It is whole once a terminal event arrived.

    A text comes as deltas, again in up to three `*.done` events, and again in the last one. Some gateways leave out
    all but one of them, so each adds what the ones before did not bring. Messages are set apart by a blank line, and
    one that repeats another is shown once.
    """

    read: ClassVar[Callable[[object], Answer]] = staticmethod(read_response)

    def __init__(self) -> None:
        super().__init__()
        self._text = Text()
        self._tail = ""
        self._parts: dict[int | None, dict[int, list[str]]] = {}
        self._indexes: dict[str, int] = {}
        self._announced: set[int] = set()
        self._echo: _Echo | None = None
        self._refusals: list[str] = []
        self._notes: list[object] = []
        self._items: dict[int, JsonObject] = {}
        self._final: Answer | None = None
        self._body: JsonObject = {}

    @property
    def ended(self) -> bool:
        """Has the terminal event arrived?"""
        return self._final is not None

    def feed(self, data: object) -> str:
        """Take the JSON of one event and return the text that it adds."""
        return self._event(as_dict(data))

    def _event(self, data: JsonObject) -> str:
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
            self._refusals.append(refusal_words(data.get("delta")))
        elif kind == "refusal.done":
            self._refuse(refusal_words(data.get("refusal")))
        elif kind == "output_text.annotation.added":
            self._notes.append(data.get("annotation"))
        return ""

    def _item(self, kind: str, data: JsonObject) -> str:
        item = as_dict(data.get("item"))
        index, name = as_int(data.get("output_index")), as_str(item.get("id"))
        if index is None:
            index = self._indexes.get(name)
        else:
            self._announced.add(index)
            self._indexes[name] = index
        if kind == "output_item.added":
            return ""
        self._items[len(self._items) if index is None else index] = item
        if not is_message(item):
            return ""
        self._refuse(refusal_of(item.get("content")))
        piece = self._settle(index, None, message_text(item))
        return piece + self._end_echo() if self._echo and self._echo.index == index else piece

    def _index(self, data: JsonObject) -> int | None:
        """Return the output item that an event is about, None if it does not say.

        Some gateways change the index of an item from event to event, some the id.
        """
        index, name = as_int(data.get("output_index")), as_str(data.get("item_id"))
        if index in self._announced or not name:
            return index
        if index is not None:
            self._indexes.setdefault(name, index)
        return self._indexes.get(name)

    def _add(self, index: int | None, part: object, piece: str) -> str:
        """Take a piece of one part of one item."""
        if not piece:
            return ""
        shown = ""
        if index not in self._parts:
            shown = self._end_echo()
            if self._tail:  # a message after another one
                self._echo = _Echo(index, [_joined(parts) for parts in self._parts.values()])
            self._parts[index] = {}
        self._parts[index].setdefault(as_int(part) or 0, []).append(piece)
        if self._echo and self._echo.index == index:
            return shown + self._echoed(self._echo.take(piece))
        return shown + self._show(piece)

    def _show(self, piece: str) -> str:
        self._tail = (self._tail + piece)[-2:]
        return self._text.add(piece)

    def _echoed(self, text: str) -> str:
        """Show a message that turned out to be another one than those before."""
        if not text:
            return ""
        self._echo = None
        return self._show(blank_line(self._tail, text) + text)

    def _end_echo(self) -> str:
        """Show what was held back of a message, unless it repeats another one."""
        text = self._echo.end() if self._echo else ""
        self._echo = None
        return self._echoed(text)

    def _settle(self, index: int | None, part: object, text: str) -> str:
        """Take the whole text of a part, or (without `part`) of an item: what of it has not come before."""
        if index is not None and index not in self._parts and None in self._parts:
            self._parts[index] = self._parts.pop(None)  # the deltas did not say of which item they are
            if self._echo and self._echo.index is None:
                self._echo.index = index
        parts = self._parts.get(index, {})
        number = as_int(part)
        sent = _joined(parts) if number is None else join(parts.get(number, []))
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
        piece = self._end_echo() + self._text.add(missing(str(self._text), answer.text))
        return piece + self.rest()

    def end(self) -> str:
        """Take a `[DONE]`, which says nothing here."""
        return self.rest()

    def rest(self) -> str:
        """Return what was held back of the text, when nothing more comes."""
        return self._end_echo() + self._text.end()

    def body(self) -> JsonObject:
        """Return the response as the last event that held one had it."""
        return self._body

    def answer(self) -> Answer:
        """Return what has arrived so far; its status is empty while the stream has not reached its end."""
        final, sent = self._final or Answer(), str(self._text)
        if not final.sources and self._notes:
            found = read_response({"output": [{"type": "message", "content": [{"annotations": self._notes}]}]})
            final = replace(final, sources=found.sources, searched=final.searched or found.searched)
        if not final.text:
            final = self._without_broken(final)
        return replace(
            final,
            # What was shown, unless the last event knows better.
            text=sent if sent.startswith(final.text) else final.text,
            # The id of the first event is the one that can be retrieved later: gateways change it on every reply.
            id=self.id or final.id,
            refusal=final.refusal or join(self._refusals),
        )


class _Echo:
    """A message that says so far what another one has said: held back, because it may be that one sent twice."""

    def __init__(self, index: int | None, texts: list[str]) -> None:
        self.index = index
        self._texts = self._alike = texts
        self._pieces: list[str] = []
        self._length = 0

    def take(self, piece: str) -> str:
        """Take a piece, and return all that was held back once the message is another one."""
        self._alike = [text for text in self._alike if _goes_on(text, self._length, piece)]
        self._pieces.append(piece)
        self._length += len(piece)
        return "" if self._alike else join(self._pieces)

    def end(self) -> str:
        """Return what was held back when the message has ended, if it is not one of those before."""
        text = join(self._pieces)
        return "" if any(text.strip() == other.strip() for other in self._texts) else text


def _goes_on(text: str, at: int, piece: str) -> bool:
    """Does a piece stand there in a text, or is only white space what it has behind its end?"""
    return text.startswith(piece, at) or not piece.removeprefix(text[at:]).strip()


def _joined(parts: dict[int, list[str]]) -> str:
    return join([piece for _, pieces in sorted(parts.items()) for piece in pieces])
