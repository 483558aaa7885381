"""Accumulators: what the events of a stream add up to. An event costs no more when much has arrived before it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..diagnosis import explain_body
from ..errors import one_line
from ..json_object import JsonObject
from .answer import Answer, join, read_error
from .finish_reasons import Cut, CutKind
from .lenient import parse_json, split_json
from .sse import Event, is_done

_CUT = "the stream ended before the answer was complete"
_HIGH_HALF = re.compile("[\ud800-\udbff]\\Z")  # the first half of a character beyond U+FFFF, cut from its second
# Fields of an event that holds a piece of an answer, and so is not an error.
_ANSWERS = frozenset({"choices", "content", "delta", "item", "output", "part", "response", "text", "usage"})


class Accumulator(ABC):
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
            if any(read_error(value.get("error"))):
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


def data_of(event: Event) -> tuple[list[object], list[str]]:
    """Return the JSON values in an event, and its lines that are none. A gateway may pack several values into one.

    Raises:
        GatewayError: the event is called an error.
    """
    text = event.data
    values, others = _read(text)
    if event.name == "error":
        report = next((value for value in values if value), None) or text.strip()
        known = report.get("error") or report if isinstance(report, dict) else report
        raise explain_body({"error": known or "an error without a message"})
    return values, others


def _read(text: str) -> tuple[list[object], list[str]]:
    if not text.strip() or is_done(text):
        return [], []
    try:
        value = parse_json(text)
    except (ValueError, RecursionError):
        return split_json(text)
    if isinstance(value, str):  # JSON encoded twice, or a word that says nothing
        nested, _ = split_json(value) if value.lstrip().startswith(("{", "[")) else ([], [])
        return nested, []
    return value if isinstance(value, list) else [value], []


def says_error(data: JsonObject) -> bool:
    """Whether an event reports an error though it has no field of that name, as vLLM and FastAPI do."""
    if "error" in (data.get("type"), data.get("object")):
        return True
    named = any(data.get(name) for name in ("detail", "errors")) or isinstance(data.get("message"), str)
    return named and data.get("type") in (None, "message") and not data.keys() & _ANSWERS


def error_of(data: JsonObject) -> object:
    """What an event that reports an error says of it."""
    return next((data[name] for name in ("error", "detail", "errors") if data.get(name)), data)


def missing(sent: str, text: str) -> str:
    """What of `text` was not sent yet, if what was is its beginning; a piece may end with half a character."""
    if text.startswith(sent):
        return text[len(sent) :]
    if _HIGH_HALF.search(sent) and text.startswith(sent[:-1]):
        halves = text[len(sent) - 1 :].encode("utf-16-be", "surrogatepass")
        if halves[:2] == sent[-1].encode("utf-16-be", "surrogatepass"):
            low = int.from_bytes(halves[2:4], "big")
            return chr(low) + text[len(sent) :]
    return ""


class Text:
    """A text that arrives in pieces, in time that grows with its length alone."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str) -> str:
        """Take a piece; what can be shown of the text now that could not be shown before."""
        if self._half or not piece.isascii():
            piece, self._half = join([self._half, piece]), ""
            if _HIGH_HALF.search(piece):
                piece, self._half = piece[:-1], piece[-1]
        if piece:
            self._pieces.append(piece)
        return piece

    def so_far(self) -> str:
        """Return what can be shown of the pieces that were taken."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def end(self) -> str:
        """What was held back for a second half that never came."""
        half, self._half = self._half, ""
        if half:
            self._pieces.append(half)
        return half

    def __str__(self) -> str:
        return self.so_far() + self._half

    def __bool__(self) -> bool:
        return bool(self._half) or any(self._pieces)
