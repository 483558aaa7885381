"""Server-sent events, by the standard and as gateways really send them.

The SDK's reader fails on an event without data, and the HTTP library's skips everything outside the standard: errors in
a field named `error` (llama.cpp), JSON without `data:`, a last event without its blank line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import NamedTuple

from ..http_library import httpx
from .lenient import parse_json, split_json

# A proxy may wrap each line that it receives, comments included, into another event: `data: data: {...}`.
_WRAPPING = re.compile(r"(?:data:[ \t]*)*(?=(?:data|event|id|retry|error)?:)")
_DONE = re.compile(r"""["\s]*(?:data:\s*)*(?:\[DONE\]|DONE["\s]*\Z)""", re.IGNORECASE)
_NOISE = "\ufeff\0"  # a byte order mark before any line, and the padding of some servers


class Event(NamedTuple):
    """One event: its name (`message` by default), its data, and the latest id of the stream."""

    name: str
    data: str
    id: str = ""

    @property
    def is_last(self) -> bool:
        """Is it the `[DONE]` at the end of a chat stream?"""
        return is_done(self.data)


class EventParser:
    """An incremental parser of events; the bytes may be split anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._after_cr = False
        self._line: list[str] = []
        self._name = self._id = ""
        self._data: list[str] = []
        self._stray: list[str] = []

    def feed(self, content: bytes) -> list[Event]:
        """Return the events that `content` completes."""
        text = self._decoder.decode(content)
        # A CRLF that was split between two chunks is one line break.
        if self._after_cr and text.startswith("\n"):
            text = text[1:]
        self._after_cr = text.endswith("\r") if text else self._after_cr
        first, *others = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._line.append(first)
        if not others:
            return []
        lines = ["".join(self._line), *others[:-1]]
        self._line = [others[-1]]
        return [event for line in lines for event in self._take(line)]

    def end(self) -> list[Event]:
        """Return the events that the end of the body completes: a whole last event without its blank line."""
        line = "".join(self._line) + self._decoder.decode(b"", True)
        events = self._take(line) if line else []
        last = "\n".join(self._data)
        if self._name != "error" and not is_done(last) and not split_json(last)[0]:
            self._data = []
        return events + self._dispatch()

    def _take(self, line: str) -> list[Event]:
        if line.startswith("data: {"):  # as nearly all are
            self._data.append(line[6:])
            return []
        # Outside the standard from here on: padding, wrapped lines, capital names, JSON without a field.
        line = line.strip(_NOISE)
        if not line:
            return self._dispatch()
        if line.startswith("data:") and (wrapping := _WRAPPING.match(line)):
            line = line[wrapping.end() :]
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id":
            self._id = value
        elif name == "error":
            self._name = "error"
            self._data.append(value)
        elif name in ("", "retry"):
            pass
        elif not self._stray and line.startswith("{") and _is_complete(line):
            # JSON without `data:`, complete on its line.
            return [Event("message", line)]
        else:
            self._stray.append(line)
        return []

    def _dispatch(self) -> list[Event]:
        # A value in many lines, of which only the first has its prefix.
        if self._data and self._stray and _is_complete(whole := "\n".join([*self._data, *self._stray])):
            self._data, self._stray = [whole], []
        events = [Event("message", "\n".join(self._stray))] if self._stray else []
        if self._data:
            events.append(Event(self._name or "message", "\n".join(self._data), self._id))
        self._name, self._data, self._stray = "", [], []
        return events


class Events:
    """The events of a body, for `for` or `async for`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[Event]:
        parser = EventParser()
        for content in self._response.iter_bytes():
            yield from parser.feed(content)
        yield from parser.end()

    async def __aiter__(self) -> AsyncIterator[Event]:
        parser = EventParser()
        async for content in self._response.aiter_bytes():
            for event in parser.feed(content):
                yield event
        for event in parser.end():
            yield event


def has_events(headers: Mapping[str, str]) -> bool:
    """Is the answer to a request with `stream` a stream? A gateway that ignores the field answers with JSON."""
    content_type = headers.get("content-type", "").lower()
    return "json" not in content_type and "html" not in content_type


def is_done(text: str) -> bool:
    """Is `text` the `[DONE]` that ends a chat stream, in any quotes and spelling?"""
    return text[:1] != "{" and _DONE.match(text) is not None


def _is_complete(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except (ValueError, RecursionError):
        return False
