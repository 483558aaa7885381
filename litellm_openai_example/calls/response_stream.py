"""The accumulator of a response stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..json_object import JsonObject
from .accumulator import Accumulator, Text, error_of, may_say_error, missing, says_error
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
    """The accumulator of a response stream, which is whole after a terminal event.

    A text comes in deltas, again in up to three `*.done` events, and again in the terminal event. Some gateways omit
    all but one of these, so each adds only the text that is still missing. A blank line separates messages, and a
    message that repeats another is shown once.
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

    def feed(self, data: object) -> str:
        """Add the JSON of an event, and return the text that it brings."""
        return self._event(as_dict(data))

    def _event(self, data: JsonObject) -> str:
        name = as_str(data.get("type"))
        kind = name.removeprefix("response.")
        if name == "error" or says_error(data):
            code, message = read_error(error_of(data))
            self._final, self.ended = Answer(status="failed", error_code=code, error_message=message), True
            return ""
        if may_say_error(data):
            self.reported = error_of(data)
            return ""
        if isinstance(data.get("response"), dict):
            return self._response(kind, data["response"])
        if data.get("object") == "response" or "output" in data:  # a gateway that fakes streaming
            return self._response("", data)
        if kind in TERMINAL:  # an event without the response
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
        """Return the index of an event's output item; None if the event does not give it.

        Some gateways change the index of an item from event to event, some its id.
        """
        index, name = as_int(data.get("output_index")), as_str(data.get("item_id"))
        if index in self._announced or not name:
            return index
        if index is not None:
            self._indexes.setdefault(name, index)
        return self._indexes.get(name)

    def _add(self, index: int | None, part: object, piece: str) -> str:
        """Add a piece to a part of an item, and return the text to show."""
        if not piece:
            return ""
        shown = ""
        if index not in self._parts:
            shown = self._end_echo()
            if self._tail:  # not the first message
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
        """Show a message that turned out not to repeat an earlier one."""
        if not text:
            return ""
        self._echo = None
        return self._show(blank_line(self._tail, text) + text)

    def _end_echo(self) -> str:
        """Show the message that was held back, unless it repeats an earlier one."""
        text = self._echo.end() if self._echo else ""
        self._echo = None
        return self._echoed(text)

    def _settle(self, index: int | None, part: object, text: str) -> str:
        """Add the whole text of a part, or of an item if `part` is None, and return the missing rest."""
        if index is not None and index not in self._parts and None in self._parts:
            self._parts[index] = self._parts.pop(None)  # deltas that did not name their item
            if self._echo and self._echo.index is None:
                self._echo.index = index
        parts = self._parts.get(index, {})
        number = as_int(part)
        sent = _joined(parts) if number is None else join(parts.get(number, []))
        return self._add(index, part, missing(sent, text))

    def _refuse(self, refusal: str) -> None:
        # Only the last pieces are compared, so that an event costs no more after many. Twice the length, because half
        # of a surrogate pair counts as a character.
        taken = length = 0
        while length < 2 * len(refusal) and taken < len(self._refusals):
            taken += 1
            length += len(self._refusals[-taken])
        if refusal and not join(self._refusals[len(self._refusals) - taken :]).endswith(refusal):
            self._refusals.append(refusal)

    def _response(self, kind: str, response: JsonObject) -> str:
        # Some gateways leave the output of the terminal event empty.
        if not as_list(response.get("output")) and self._items:
            response = {**response, "output": [item for _, item in sorted(self._items.items())]}
        answer = read_response(response)
        self.id = self.id or answer.id
        self._body = response
        if not kind and not answer.status:
            kind = "completed"
        if kind not in TERMINAL:
            # A gateway that fakes streaming sends the finished response in an event of any other name.
            if kind in ("created", "queued", "in_progress") or answer.status not in TERMINAL:
                return ""
            kind = answer.status
        if kind == "completed" and answer.status not in TERMINAL | RUNNING | {""}:
            answer = replace(answer, status="incomplete", cut_short=cut_by(answer.status))
        elif answer.status not in TERMINAL or kind != "completed":
            # The event's name is more reliable: the status may be null.
            answer = replace(answer, status=kind)
        if answer.status == "incomplete" and answer.cut_short is None:
            answer = replace(answer, cut_short=cut_by("incomplete"))
        self._final, self.ended = answer, True
        # A bridge may send the text, or its end, only in the terminal event.
        piece = self._end_echo() + self._text.add(missing(str(self._text), answer.text))
        return piece + self.rest()

    def rest(self) -> str:
        """Return the text that was held back, after the last event."""
        return self._end_echo() + self._text.end()

    def body(self) -> JsonObject:
        """Return the response in the latest event that has one."""
        return self._body

    def answer(self) -> Answer:
        """Return the answer so far; its status is empty until the stream has reached its end."""
        final, sent = self._final or Answer(), str(self._text)
        if not final.sources and self._notes:
            found = read_response({"output": [{"type": "message", "content": [{"annotations": self._notes}]}]})
            final = replace(final, sources=found.sources, searched=final.searched or found.searched)
        if not final.text:
            final = self._without_broken(final)
        return replace(
            final,
            # The text that was shown, unless the terminal event has more.
            text=sent if sent.startswith(final.text) else final.text,
            # Only the id of the first event can be retrieved later: gateways change it on every reply.
            id=self.id or final.id,
            refusal=final.refusal or join(self._refusals),
        )


class _Echo:
    """A message that equals an earlier one so far, held back because a gateway may have sent that one twice."""

    def __init__(self, index: int | None, texts: list[str]) -> None:
        self.index = index
        # As some gateways send a copy without, or with another, white space around it.
        self._texts = self._alike = [text.strip() for text in texts]
        self._pieces: list[str] = []
        self._length = 0

    def take(self, piece: str) -> str:
        """Add a piece, and return everything held back once the message differs."""
        piece = piece if self._length else piece.lstrip()
        self._alike = [text for text in self._alike if _goes_on(text, self._length, piece)]
        self._pieces.append(piece)
        self._length += len(piece)
        return "" if self._alike else join(self._pieces)

    def end(self) -> str:
        """Return everything held back at the end of the message, unless it repeats an earlier one."""
        text = join(self._pieces)
        return "" if text.strip() in self._texts else text


def _goes_on(text: str, at: int, piece: str) -> bool:
    """Does `text` have `piece` at `at`, apart from white space beyond its end?"""
    return text.startswith(piece, at) or not piece.removeprefix(text[at:]).strip()


def _joined(parts: dict[int, list[str]]) -> str:
    return join([piece for _, pieces in sorted(parts.items()) for piece in pieces])
