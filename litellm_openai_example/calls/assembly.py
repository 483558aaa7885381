"""Answers that come in pieces, put together. What is done for a piece costs no more when much has arrived before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..diagnosis import explain_body
from ..errors import GatewayError, one_line
from ..json_object import JsonObject
from .answer import Answer
from .lenient import parse_json, read_json, with_whole_characters
from .reasons import Cut, CutKind
from .sse import Event, EventParser, data_of, is_done, looks_like_events

_CUT = "the stream ended before the answer was complete"


class Assembly(ABC):
    """Puts the events of a stream together.

    A line that is not JSON is skipped and counted: proxies add comments, greetings and pages of HTML. Only one that
    begins like JSON was a piece of the answer.

    Attributes:
        id: of the answer, once an event has given it.
        ended: the terminal event has arrived.
        skipped: lines that could not be read.
        broken: a piece of the answer that could not be read, empty if there is none.
    """

    read: ClassVar[Callable[[object], Answer]]
    id: str | None

    def __init__(self) -> None:
        self.id = None
        self.skipped = 0
        self.broken = ""
        self._first_skipped = ""
        self._is_over = False  # the answer was whole when a piece could not be read

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Has the terminal event arrived?"""

    @abstractmethod
    def feed(self, data: object) -> str:
        """Take the JSON of one event and return the text that it adds."""

    @abstractmethod
    def end(self) -> str:
        """Take the `[DONE]` at the end of the events."""

    @abstractmethod
    def rest(self) -> str:
        """Return what was held back of the text, when nothing more comes."""

    @abstractmethod
    def body(self) -> JsonObject:
        """Return what has arrived so far, as the API would have sent it in one piece."""

    @abstractmethod
    def answer(self) -> Answer:
        """Return what has arrived so far; its status is empty while the stream has not reached its end."""

    def take(self, event: Event) -> str:
        """Take one event and return the text that it adds. Raises GatewayError if it reports an error."""
        if event.is_last:
            return self.end()
        if event.name != "error" and event.data.startswith("{"):  # as nearly all are
            try:
                value = parse_json(event.data)
            except (ValueError, RecursionError):
                pass
            else:
                return self._value(value, event.name)
        values, others = data_of(event)
        text = "".join([self._value(value, event.name) for value in values])
        for line in others:
            text += self.end() if is_done(line) else self._skip(line)
        return text

    @property
    def why_cut(self) -> str:
        """Why the answer of a stream without its terminal event is only a part."""
        if not self.skipped:
            return _CUT
        lines = "a line" if self.skipped == 1 else f"{self.skipped} lines"
        return f"{_CUT}, and {lines} of it cannot be read: {self._first_skipped} is not JSON"

    def _value(self, value: object, name: str) -> str:
        if self.ended:
            return ""
        if isinstance(value, dict):
            if value.get("error"):
                raise explain_body({"error": value["error"]})
            if not isinstance(value.get("type"), str):
                value["type"] = name
        return self.feed(value)

    def _skip(self, line: str) -> str:
        self.skipped += 1
        self._first_skipped = self._first_skipped or one_line(line)
        if line.startswith(("{", "[{")) and not self.broken and not self._is_over:
            self._is_over = bool(self.answer().status)
            self.broken = "" if self._is_over else one_line(line)
        return ""

    def _without_broken(self, answer: Answer) -> Answer:
        """Return the answer as incomplete if a piece of it could not be read."""
        if not self.broken or answer.status != "completed":
            return answer
        cut = Cut(CutKind.BROKEN, f"a piece of it cannot be read: {self.broken} is not JSON")
        return replace(answer, status="incomplete", cut_short=cut)


def read_body(
    content: bytes | str, kind: type[Assembly], *, beginning: bool = False
) -> tuple[Answer, JsonObject, Assembly | None]:
    """Read an answer that came in one piece.

    Gateways send events though none were asked for, lines of JSON, or JSON with the end of a stream behind it.

    Args:
        content: the body.
        kind: reads the events of this API.
        beginning: the body ends somewhere in the middle; what is there is read.

    Returns:
        The answer, its JSON, and what has put it together if it came as events.

    Raises:
        ValueError: it is neither JSON nor events.
    """
    if looks_like_events(content):
        return _read_events(content, kind)
    try:
        return *_read_json(content, kind, beginning), None
    except ValueError:
        answer, body, reader = _read_events(content, kind)
        if not (answer.text or answer.refusal or answer.calls or answer.error_message):
            raise
        return answer, body, reader


def _read_json(content: bytes | str, kind: type[Assembly], beginning: bool) -> tuple[Answer, JsonObject]:
    try:
        body = read_json(content, beginning=beginning)
        return kind.read(body), body
    except ValueError:
        body = read_json(with_whole_characters(content), beginning=beginning)
        answer = kind.read(body)
        if not answer.text:  # one broken byte is no reason to lose the text around it, but ids and errors need all
            raise
        return answer, body


def _read_events(content: bytes | str, kind: type[Assembly]) -> tuple[Answer, JsonObject, Assembly]:
    reader, parser = kind(), EventParser()
    try:
        for event in parser.feed(content.encode() if isinstance(content, str) else content) + parser.end():
            reader.take(event)
            if reader.ended:
                break
    except GatewayError as error:
        message = error.message or error.cause
        answer = replace(reader.answer(), status="failed", error_code=error.code, error_message=message)
        return answer, reader.body(), reader
    reader.rest()
    answer = reader.answer()
    if not answer.status:
        answer = replace(answer, status="incomplete", cut_short=Cut(CutKind.BROKEN, reader.why_cut))
    return answer, reader.body(), reader
