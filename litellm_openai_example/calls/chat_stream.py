"""The chunks of a chat stream, put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..diagnosis import explain_body
from ..json_object import JsonObject
from .accumulator import Accumulator, Text, error_of, missing, says_error
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
    """Puts the chunks of a chat stream together. It is whole once a chunk gave a reason to stop, or `[DONE]` came.

    Its text is that of the first choice, as it comes. Some bridges put all of it into another choice, which is shown
    when the first one has ended without any.
    """

    read: ClassVar[Callable[[object], Answer]] = staticmethod(read_chat)

    def __init__(self) -> None:
        super().__init__()
        self._done = False
        self._top: JsonObject = {}
        self._choices: dict[int, _Choice] = {}
        self._shown: _Choice | None = None
        self._latest = 0  # the choice that the last piece of text was for
        self._mixed = False  # pieces of several choices came together, or not one choice after the other

    @property
    def ended(self) -> bool:
        """Has `[DONE]` arrived?"""
        return self._done

    def feed(self, data: object) -> str:
        """Take one chunk and return the text that it adds."""
        chunk = as_dict(data)
        if says_error(chunk):
            raise explain_body({"error": error_of(chunk)})
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
        if choice is self._shown:
            return piece
        first = self._choices.get(0)
        if self._shown is None and first is not None and (first.text or first.reason):
            return self._show()
        return ""

    def _show(self) -> str:
        """Settle on the choice whose text counts, and return what of it has arrived."""
        self._shown = next((choice for _, choice in sorted(self._choices.items()) if choice.text), None)
        return self._shown.text.so_far() if self._shown else ""

    def end(self) -> str:
        """Take the `[DONE]` at the end of the events."""
        self._done = True
        return self.rest()

    def _gather(self) -> str:
        """Put an answer together whose `index` counts chunks or blocks, and return what that adds to the first of them.

        Each choice of several comes to an end, and their pieces come mixed: here only one does, and they come in order.
        """
        choices = [choice for _, choice in sorted(self._choices.items())]
        first, *others = [choice for choice in choices if choice.text] or choices
        ended = [choice for choice in choices if choice.reason]
        if self._mixed or not others or len(ended) != 1:
            return ""
        first.end_as(ended[0])
        return "".join([first.go_on(choice) for choice in others])

    def rest(self) -> str:
        """Return what was held back of the text, when nothing more comes."""
        gathered = self._gather() if len(self._choices) > 1 else ""
        shown = gathered if self._shown else self._show()
        return shown + (self._shown.text.end() if self._shown else "")

    def body(self) -> JsonObject:
        """Return what has arrived so far, as a chat completion."""
        choices = [choice.body(index) for index, choice in sorted(self._choices.items())]
        return {"id": self.id, "object": "chat.completion", **self._top, "choices": choices or [_Choice().body(0)]}

    def answer(self) -> Answer:
        """Return what has arrived so far; its status is empty while the stream has not reached its end."""
        answer = read_chat(self.body())
        something = answer.text or answer.refusal or answer.calls
        shown = self._shown or self._choices.get(0)
        reached = (self._done and something) or answer.cut_short or (shown and shown.reason)
        return self._without_broken(answer) if reached else replace(answer, status="")


class _Choice:
    """One choice of a chat stream, put together."""

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
        """Why it ended, empty while it has not."""
        return read_reason(self._ends.get("finish_reason"))

    def feed(self, choice: JsonObject) -> str:
        """Take what a chunk says of the choice and return the text that it adds."""
        places = ends_of(choice, {**_as_message(choice.get("message")), **_as_message(choice.get("delta"))})
        for name in REASONS:
            said = [reason for place in places if (reason := read_reason(place.get(name)))]
            if said:  # a gateway may call a break `stop` in one place, and by its name in another
                self._ends[name] = next(filter(cut_short, said), said[0])
        if error := next((place["error"] for place in places if any(read_error(place.get("error")))), None):
            self._ends["error"] = error
        return self._delta(choice)

    def end_as(self, other: _Choice) -> None:
        """Take the reason why another choice ended for the one of this."""
        self._ends.update(other._ends)

    def go_on(self, other: _Choice) -> str:
        """Take the text of another choice, which continues this one, and return what that adds."""
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
        if not calls and told.get("function_call"):  # the API's first form of it
            calls = [{"function": told["function_call"]}]
        for position, call in enumerate(calls):
            self._call(as_dict(call), position)
        piece = text_of(delta.get("content")) or ("" if whole else text_of(choice.get("text")))
        if whole:  # a gateway that feigns to stream, or repeats the whole message at the end
            sent, text = str(self.text), text_of(whole.get("content"))
            # One that calls each piece a message has sent nothing else.
            piece = text if not self._by_delta and not text.startswith(sent) else missing(sent, text)
        self._by_delta = self._by_delta or bool(piece and not whole)
        return self.text.add(piece)

    def _call(self, call: JsonObject, position: int) -> None:
        index = as_int(call.get("index"))
        known = self._calls.setdefault(position if index is None else index, {"id": "", "name": "", "arguments": []})
        function = as_dict(call.get("function")) or as_dict(call.get("custom"))
        known["id"] = known["id"] or as_id(call.get("id"))
        known["name"] = known["name"] or as_str(function.get("name"))
        given = function.get("arguments")
        known["arguments"].append(json.dumps(given) if isinstance(given, dict) else as_str(given))

    def body(self, index: int) -> JsonObject:
        """Return what has arrived so far, as a choice of a chat completion."""
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
    return {"content": value} if isinstance(value, str) else as_dict(value)
