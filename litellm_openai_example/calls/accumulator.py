"""Accumulators: what the events of a stream add up to. An event costs no more when much has arrived before it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..diagnosis import explain_body
from ..errors import GatewayError, one_line
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
    """The answer that the events of a stream add up to.

    A line that is not JSON is skipped and counted: proxies add comments, greetings and pages of HTML. Only a line that
    begins like JSON was a piece of the answer.

    Attributes:
        id: the answer's id, once an event has it.
        skipped: the number of unreadable lines.
        broken: the first unreadable piece of the answer; empty if there is none.
        reported: what may be an error, or a word about progress; it counts unless the answer is whole.
        ended: the terminal event has arrived.
    """

    read: ClassVar[Callable[[object], Answer]]
    id: str | None

    def __init__(self) -> None:
        self.id = None
        self.skipped = 0
        self.broken = ""
        self.reported: object = None
        self.ended = False
        self._first_skipped = ""
        # The answer was whole before the first unreadable piece.
        self._is_over = False

    @abstractmethod
    def feed(self, data: object) -> str:
        """Add the JSON of an event, and return the text that it brings."""

    def end(self) -> str:
        """Take a `[DONE]`, which here means nothing, and return the text that was held back."""
        return self.rest()

    @abstractmethod
    def rest(self) -> str:
        """Return the text that was held back, after the last event."""

    @abstractmethod
    def body(self) -> JsonObject:
        """Return the answer so far, as the API would have sent it without a stream."""

    @abstractmethod
    def answer(self) -> Answer:
        """Return the answer so far; its status is empty until the stream has reached its end."""

    def take(self, event: Event) -> str:
        """Add an event, and return the text that it brings. Raises GatewayError if it reports an error."""
        if event.is_last:
            return self.end()
        if event.name != "error" and event.data.startswith("{"):  # like nearly all events: the fast path
            try:
                value = parse_json(event.data)
            except (ValueError, RecursionError):
                pass
            else:
                return self._value(value, event.name)
        values, others = _data_of(event)
        text = "".join([self._value(value, event.name) for value in values])
        for line in others:
            text += self.end() if is_done(line) else self._skip(line)
        return text

    def report(self) -> GatewayError:
        """Return the error of a stream without a terminal event."""
        if self.reported is None:
            return GatewayError(self.why_cut)
        return explain_body({"error": self.reported})

    @property
    def why_cut(self) -> str:
        """The reason why the answer of a stream without a terminal event is incomplete."""
        if not self.skipped:
            return _CUT
        lines = "a line" if self.skipped == 1 else f"{self.skipped} lines"
        return f"{_CUT}, and {lines} of it cannot be read: {self._first_skipped} is not JSON"

    def _value(self, value: object, name: str) -> str:
        # Some gateways go on after the terminal event, with usage or a repetition.
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
        """Return the answer, as incomplete if a piece of it was unreadable."""
        if not self.broken or answer.status != "completed":
            return answer
        cut = Cut(CutKind.BROKEN, f"a piece of it cannot be read: {self.broken} is not JSON")
        return replace(answer, status="incomplete", cut_short=cut)


def _data_of(event: Event) -> tuple[list[object], list[str]]:
    """Return the JSON values in an event, since a gateway may pack several into one, and its other lines.

    Raises:
        GatewayError: the event is named `error`.
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
    # JSON that was encoded twice, or a meaningless word.
    if isinstance(value, str):
        nested, _ = split_json(value) if value.lstrip().startswith(("{", "[")) else ([], [])
        return nested, []
    return value if isinstance(value, list) else [value], []


def says_error(data: JsonObject) -> bool:
    """Does an event report an error without a field of that name, as those of vLLM do?"""
    return "error" in (data.get("type"), data.get("object"))


def may_say_error(data: JsonObject) -> bool:
    """May an event be an error, as those of FastAPI and Kong? Queues report their progress in the same fields."""
    named = any(data.get(name) for name in ("detail", "errors")) or isinstance(data.get("message"), str)
    return named and data.get("type") in (None, "message") and not data.keys() & _ANSWERS


def error_of(data: JsonObject) -> object:
    """Return the error in an event that reports one."""
    return next((data[name] for name in ("error", "detail", "errors") if data.get(name)), data)


def missing(sent: str, text: str) -> str:
    """Return the rest of `text` after `sent`, which may end in half a character; empty if it does not begin so."""
    if text.startswith(sent):
        return text[len(sent) :]
    if _HIGH_HALF.search(sent) and text.startswith(sent[:-1]):
        halves = text[len(sent) - 1 :].encode("utf-16-be", "surrogatepass")
        if halves[:2] == sent[-1].encode("utf-16-be", "surrogatepass"):
            low = int.from_bytes(halves[2:4], "big")
            return chr(low) + text[len(sent) :]
    return ""


class Text:
    """A text that arrives in pieces; a piece costs no more when the text is long."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str) -> str:
        """Add a piece, and return the text that can be shown now: half a character is held back."""
        if self._half or not piece.isascii():
            piece, self._half = join([self._half, piece]), ""
            if _HIGH_HALF.search(piece):
                piece, self._half = piece[:-1], piece[-1]
        if piece:
            self._pieces.append(piece)
        return piece

    def so_far(self) -> str:
        """Return all text that can be shown."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def end(self) -> str:
        """Return the half character that was held back, after the last piece."""
        half, self._half = self._half, ""
        if half:
            self._pieces.append(half)
        return half

    def __str__(self) -> str:
        return self.so_far() + self._half

    def __bool__(self) -> bool:
        return bool(self._half) or any(self._pieces)
