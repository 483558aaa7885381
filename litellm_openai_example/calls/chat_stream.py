"""The accumulator of a chat stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..diagnosis import explain_body
from ..json_object import JsonObject
from .accumulator import Accumulator, Text, error_of, may_say_error, missing, says_error
from .answer import (
    Answer,
    as_dict,
    as_id,
    as_int,
    as_list,
    as_str,
    ends_of,
    index_of,
    join,
    read_chat,
    read_error,
    refusal_of,
    refusal_words,
    text_of,
)
from .finish_reasons import REASONS, cut_short, read_reason

_TOP = ("model", "usage", "citations", "search_results")
_BESIDES = ("images", "audio", "reasoning_content", "reasoning", "thinking_blocks")


class ChatStream(Accumulator):
    """The accumulator of a chat stream, which is whole after a finish reason or `[DONE]`.

    The text is that of the first choice. Some bridges put all of it into another choice, which is shown once the first
    has ended without a text.
    """

    read: ClassVar[Callable[[object], Answer]] = staticmethod(read_chat)

    def __init__(self) -> None:
        super().__init__()
        self._top: JsonObject = {}
        self._choices: dict[int, _Choice] = {}
        self._shown: _Choice | None = None
        self._latest = 0  # the choice of the latest piece of text
        # The pieces of several choices are interleaved.
        self._mixed = False

    def feed(self, data: object) -> str:
        """Add a chunk, and return the text that it brings."""
        chunk = as_dict(data)
        if says_error(chunk):
            raise explain_body({"error": error_of(chunk)})
        if may_say_error(chunk):
            self.reported = error_of(chunk)
            return ""
        self.id = self.id or as_id(chunk.get("id")) or None
        self._top.update({name: chunk[name] for name in _TOP if chunk.get(name)})
        text = ""
        choices = as_list(chunk.get("choices"))
        self._mixed = self._mixed or len(choices) > 1
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                text += self._feed_choice(choice, index_of(choice, position))
        return text

    def _feed_choice(self, given: JsonObject, index: int) -> str:
        choice = self._choices.get(index) or self._choices.setdefault(index, _Choice())
        piece = choice.feed(given)
        if piece:
            self._mixed = self._mixed or index < self._latest
            self._latest = index
        # Before a choice is chosen, all pieces are held back: they may belong to a choice that is not shown.
        if choice is self._shown:
            return piece
        first = self._choices.get(0)
        if self._shown is None and first is not None and (first.text or first.reason):
            return self._show()
        return ""

    def _show(self) -> str:
        """Pick the choice whose text counts, and return its text so far."""
        self._shown = next((choice for _, choice in sorted(self._choices.items()) if choice.text), None)
        return self._shown.text.so_far() if self._shown else ""

    def end(self) -> str:
        """Take the `[DONE]` at the end of the events, and return the text that was held back."""
        self.ended = True
        return self.rest()

    def _gather(self) -> str:
        """Join choices that are one answer, because `index` counts chunks or blocks; return what the first one gains.

        Real choices each have a finish reason, and their pieces are interleaved. Here only one has it, and they come in
        order.
        """
        choices = [choice for _, choice in sorted(self._choices.items())]
        first, *others = [choice for choice in choices if choice.text] or choices
        ended = [choice for choice in choices if choice.reason]
        if self._mixed or not others or len(ended) != 1:
            return ""
        first.end_as(ended[0])
        return "".join([first.go_on(choice) for choice in others])

    def rest(self) -> str:
        """Return the text that was held back, after the last event."""
        gathered = self._gather() if len(self._choices) > 1 else ""
        shown = gathered if self._shown else self._show()
        return shown + (self._shown.text.end() if self._shown else "")

    def body(self) -> JsonObject:
        """Return the answer so far, as a chat completion."""
        choices = [choice.body(index) for index, choice in sorted(self._choices.items())]
        return {"id": self.id, "object": "chat.completion", **self._top, "choices": choices or [_Choice().body(0)]}

    def answer(self) -> Answer:
        """Return the answer so far; its status is empty until the stream has reached its end."""
        answer = read_chat(self.body())
        something = answer.text or answer.refusal or answer.calls
        shown = self._shown or self._choices.get(0)
        done = self.ended and self.reported is None
        reached = (done and something) or answer.cut_short or (shown and shown.reason)
        return self._without_broken(answer) if reached else replace(answer, status="")


class _Choice:
    """The accumulator of one choice."""

    def __init__(self) -> None:
        self.text = Text()
        self._by_delta = False
        self._refusals: list[str] = []
        self._ends: JsonObject = {}
        self._notes: list[object] = []
        self._searches: list[object] = []
        self._calls: dict[int, JsonObject] = {}
        self._besides: JsonObject = {}
        self._parts: list[object] = []

    @property
    def reason(self) -> str:
        """The finish reason; empty until it has arrived."""
        return read_reason(self._ends.get("finish_reason"))

    def feed(self, choice: JsonObject) -> str:
        """Add the choice of a chunk, and return the text that it brings."""
        places = ends_of(choice, {**_as_message(choice.get("message")), **_as_message(choice.get("delta"))})
        for name in REASONS:
            said = [reason for place in places if (reason := read_reason(place.get(name)))]
            # A gateway may report a failure as `stop` in one place or chunk, and by its name in another.
            if said:
                said.insert(0, as_str(self._ends.get(name)))
                self._ends[name] = next(filter(cut_short, said), said[-1])
        if error := next((place["error"] for place in places if any(read_error(place.get("error")))), None):
            self._ends["error"] = error
        return self._delta(choice)

    def end_as(self, other: _Choice) -> None:
        """Adopt the finish reason of another choice."""
        self._ends.update(other._ends)

    def go_on(self, other: _Choice) -> str:
        """Append the text of another choice, which continues this one, and return what can be shown of it."""
        self._notes += other._notes
        text, other.text = str(other.text), Text()
        return self.text.add(text)

    def _delta(self, choice: JsonObject) -> str:
        delta, whole = _as_message(choice.get("delta")), _as_message(choice.get("message"))
        whole = {} if delta.get("content") else whole
        told = {**whole, **delta}
        content = told.get("content")
        if told.get("refusal") or isinstance(content, list | dict):
            self._refusals += {refusal_words(told.get("refusal")): None, refusal_of(content): None}  # each once
        self._notes += as_list(told.get("annotations"))
        self._searches += as_list(as_dict(told.get("provider_specific_fields")).get("web_search_calls"))
        self._besides.update({name: True for name in _BESIDES if told.get(name)})
        if isinstance(content, list):
            self._parts += [{"type": as_dict(part).get("type")} for part in content]
        calls = as_list(told.get("tool_calls"))
        if not calls and told.get("function_call"):  # the older form of the API
            calls = [{"function": told["function_call"]}]
        for position, call in enumerate(calls):
            self._call(as_dict(call), position)
        piece = text_of(delta.get("content")) or ("" if whole else text_of(choice.get("text")))
        # A gateway that fakes streaming, or repeats the message at the end.
        if whole:
            sent, text = str(self.text), text_of(whole.get("content"))
            # A gateway that calls each piece a message sends no deltas.
            piece = text if not self._by_delta and not text.startswith(sent) else missing(sent, text)
        self._by_delta = self._by_delta or bool(piece and not whole)
        return self.text.add(piece)

    def _call(self, call: JsonObject, position: int) -> None:
        # Gateways without an index send each call whole, in order.
        index = as_int(call.get("index"))
        known = self._calls.setdefault(position if index is None else index, {"id": "", "name": "", "arguments": []})
        function = as_dict(call.get("function")) or as_dict(call.get("custom"))
        known["id"] = known["id"] or as_id(call.get("id"))
        known["name"] = known["name"] or as_str(function.get("name"))
        given = function.get("arguments")
        known["arguments"].append(json.dumps(given) if isinstance(given, dict) else as_str(given))

    def body(self, index: int) -> JsonObject:
        """Return the choice so far, as in a chat completion."""
        calls = [
            {"id": call["id"], "function": {"name": call["name"], "arguments": join(call["arguments"])}}
            for _, call in sorted(self._calls.items())
        ]
        text = str(self.text)
        message = {
            "role": "assistant",
            "content": text or self._parts or text,
            "refusal": join(self._refusals) or None,
            "annotations": self._notes,
            "tool_calls": calls,
            "provider_specific_fields": {"web_search_calls": self._searches},
            **self._besides,
        }
        return {"index": index, "finish_reason": None, **self._ends, "message": message}


def _as_message(value: object) -> JsonObject:
    return {"content": value} if isinstance(value, str | list) else as_dict(value)
