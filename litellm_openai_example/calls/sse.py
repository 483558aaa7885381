"""Server-sent events of a gateway, as the standard has them and as gateways really send them.

The SDK's own reader takes an event without data for a broken one, and the HTTP library's leaves out what is not of the
standard: errors in a field named `error` (llama.cpp), JSON without `data:`, a last event without the blank line.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import NamedTuple

from httpx2 import Response

from ..diagnosis import explain_body
from ..errors import one_line
from ..json_object import JsonObject
from .lenient import parse_json

DONE = "[DONE]"
_ANSWERS = frozenset({"choices", "content", "delta", "item", "output", "part", "response", "text", "usage"})
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")


class Event(NamedTuple):
    """One event: its name (`message` where it has none), and its data."""

    name: str
    data: str

    @property
    def is_last(self) -> bool:
        """Whether it is the `[DONE]` at the end of a chat stream."""
        return self.data.lstrip('"').startswith(DONE)


class EventParser:
    """Bytes in, events out, whatever the pieces in which the bytes arrive."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._after_cr = False
        self._line: list[str] = []
        self._name = ""
        self._data: list[str] = []
        self._stray: list[str] = []

    def feed(self, content: bytes) -> list[Event]:
        """The events that `content` completes."""
        text = self._decoder.decode(content)
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
        """What the end of the body completes: a last event without its blank line, if all of it is there."""
        line = "".join(self._line) + self._decoder.decode(b"", True)
        events = self._take(line) if line else []
        if self._name != "error" and not _is_complete("\n".join(self._data)):
            self._data = []
        return events + self._dispatch()

    def _take(self, line: str) -> list[Event]:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "error":
            self._name = "error"
            self._data.append(value)
        elif name not in ("", "id", "retry"):
            self._stray.append(line)
        return []

    def _dispatch(self) -> list[Event]:
        events = _bare(self._stray) if self._stray else []
        if self._data:
            events.append(Event(self._name or "message", "\n".join(self._data)))
        self._name, self._data, self._stray = "", [], []
        return events


class Events:
    """The events of a body; to be read with `for` or `async for`, as the client is."""

    def __init__(self, response: Response) -> None:
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
    """Whether an answer to a request with `stream` is a stream: a gateway that ignores it answers with plain JSON."""
    content_type = headers.get("content-type", "").lower()
    return "json" not in content_type and "html" not in content_type


def looks_like_events(content: bytes | str) -> bool:
    """Whether a body that should be JSON is an event stream."""
    start = content[:64].encode() if isinstance(content, str) else content[:64]
    return start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(_FIELDS) or _is_lines_of_json(content)


def data_of(event: Event) -> object:
    """The JSON of an event, None if it has none or is the `[DONE]` at the end.

    Raises:
        GatewayError: it reports an error.
        ValueError: it cannot be read.
    """
    if event.is_last or not event.data.strip():
        return None
    try:
        data = parse_json(event.data)
    except ValueError:
        if event.name != "error":
            raise ValueError(f"{one_line(event.data)} is not JSON") from None
        data = event.data
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    if event.name == "error" and not isinstance(data, dict):
        raise explain_body({"error": data or "an error without a message"})
    if isinstance(data, dict):
        if data.get("error") or event.name == "error":
            raise explain_body({"error": data.get("error") or data})
        if not isinstance(data.get("type"), str):
            data["type"] = event.name
    return data


def says_error(data: JsonObject) -> bool:
    """Whether an event reports an error though it has no field of that name, as vLLM and FastAPI do."""
    if "error" in (data.get("type"), data.get("object")):
        return True
    named = any(data.get(name) for name in ("detail", "errors")) or isinstance(data.get("message"), str)
    return named and data.get("type") in (None, "message") and not data.keys() & _ANSWERS


def error_of(data: JsonObject) -> object:
    """What an event that reports an error says of it."""
    return next((data[name] for name in ("error", "detail", "errors") if data.get(name)), data)


def _is_lines_of_json(content: bytes | str) -> bool:
    if isinstance(content, bytes):
        if b"\n" not in content:  # as most bodies: not worth a copy
            return False
        content = content.decode("utf-8-sig", "replace")
    first, _, more = content.strip().partition("\n")
    return more.lstrip().startswith("{") and first.startswith("{") and _is_complete(first)


def _bare(lines: list[str]) -> list[Event]:
    """Events out of lines that hold JSON without `data:`, together or one on each line."""
    together = "\n".join(lines)
    if _is_complete(together):
        return [Event("message", together)]
    return [Event("message", line) for line in lines if _is_complete(line)]


def _is_complete(text: str) -> bool:
    if text.startswith(DONE):
        return True
    try:
        return isinstance(parse_json(text), dict)
    except (ValueError, RecursionError):
        return False
