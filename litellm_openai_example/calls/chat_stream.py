"""The chunks of a chat stream, put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..diagnosis import explain_body
from ..json_object import JsonObject
from .answer import Answer, first_choice, read_chat, refusal_of, text_of
from .lenient import Text, as_dict, as_id, as_int, as_list, as_str, join, missing
from .reasons import REASONS, cut_short, ends_of, read_reason
from .sse import error_of, says_error

_TOP = ("model", "usage", "citations", "search_results")


class ChatStream:
    """Puts the chunks of a chat stream together. It is whole once a chunk gave a reason to stop, or `[DONE]` came."""

    read: ClassVar[Callable[[object], Answer]] = staticmethod(read_chat)

    def __init__(self) -> None:
        self.id: str | None = None
        self.ended = False
        self._text = Text()
        self._by_delta = False
        self._refusals: list[str] = []
        self._top: JsonObject = {}
        self._choice: JsonObject = {}
        self._notes: list[object] = []
        self._searches: list[object] = []
        self._calls: dict[int, JsonObject] = {}

    def feed(self, event: object) -> str:
        """Take one chunk and return the text that it adds."""
        data = as_dict(event)
        if says_error(data):
            raise explain_body({"error": error_of(data)})
        self.id = self.id or as_id(data.get("id")) or None
        self._top.update({name: data[name] for name in _TOP if data.get(name)})
        choice = first_choice(data)
        places = ends_of(choice, {**_as_message(choice.get("message")), **_as_message(choice.get("delta"))})
        for name in REASONS:
            said = [reason for place in places if (reason := read_reason(place.get(name)))]
            if said:  # a gateway may call a break `stop` in one place, and by its name in another
                self._choice[name] = next(filter(cut_short, said), said[0])
        if error := next((place["error"] for place in places if place.get("error")), None):
            self._choice["error"] = error
        return self._delta(choice)

    def _delta(self, choice: JsonObject) -> str:
        delta, whole = _as_message(choice.get("delta")), _as_message(choice.get("message"))
        whole = {} if delta.get("content") else whole
        told = {**whole, **delta}
        self._refusals += [as_str(told.get("refusal")), refusal_of(told.get("content"))]
        self._notes += as_list(told.get("annotations"))
        self._searches += as_list(as_dict(told.get("provider_specific_fields")).get("web_search_calls"))
        for position, call in enumerate(as_list(told.get("tool_calls"))):
            self._call(as_dict(call), position)
        piece = text_of(delta.get("content")) or ("" if whole else text_of(choice.get("text")))
        if whole:  # a gateway that feigns to stream, or repeats the whole message at the end
            sent, text = str(self._text), text_of(whole.get("content"))
            # One that calls each piece a message has sent nothing else.
            piece = text if not self._by_delta and not text.startswith(sent) else missing(sent, text)
        self._by_delta = self._by_delta or bool(piece and not whole)
        return self._text.add(piece)

    def _call(self, call: JsonObject, position: int) -> None:
        index = as_int(call.get("index"))
        known = self._calls.setdefault(position if index is None else index, {"id": "", "name": "", "arguments": []})
        function = as_dict(call.get("function"))
        known["id"] = known["id"] or as_id(call.get("id"))
        known["name"] = known["name"] or as_str(function.get("name"))
        given = function.get("arguments")
        known["arguments"].append(json.dumps(given) if isinstance(given, dict) else as_str(given))

    def end(self) -> str:
        """Take the `[DONE]` at the end of the events."""
        self.ended = True
        return self.rest()

    def rest(self) -> str:
        """What was held back of the text, when nothing more comes."""
        return self._text.end()

    def body(self) -> JsonObject:
        """What has arrived so far, as a chat completion."""
        calls = [
            {"id": call["id"], "function": {"name": call["name"], "arguments": join(call["arguments"])}}
            for _, call in sorted(self._calls.items())
        ]
        message = {
            "role": "assistant",
            "content": str(self._text),
            "refusal": join(self._refusals) or None,
            "annotations": self._notes,
            "tool_calls": calls,
            "provider_specific_fields": {"web_search_calls": self._searches},
        }
        choice = {"index": 0, "finish_reason": None, **self._choice, "message": message}
        return {"id": self.id, "object": "chat.completion", **self._top, "choices": [choice]}

    def answer(self) -> Answer:
        """What has arrived so far; its status is empty while the stream has not reached its end."""
        answer = read_chat(self.body())
        something = answer.text or answer.refusal or answer.calls
        reached = (self.ended and something) or answer.cut_short or read_reason(self._choice.get("finish_reason"))
        return answer if reached else replace(answer, status="")


def _as_message(value: object) -> JsonObject:
    return {"content": value} if isinstance(value, str) else as_dict(value)
