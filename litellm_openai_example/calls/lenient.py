"""JSON that may hold anything: what is not of the kind that is asked for counts as absent."""

from __future__ import annotations

import codecs
import json
import re

from ..json_object import DEEPEST, JsonObject

_BETWEEN = re.compile(r"[\s\0\ufeff]*")  # what may stand between two values

# The brackets of a JSON text; strings are matched as well, because they may hold some.
_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_LARGE = 2**20  # bytes
_DEEPEST_PARSED = DEEPEST + 60  # deeper than what is passed on, so that it is seen there that something is missing


def read_json(content: bytes | str, *, beginning: bool = False) -> JsonObject:
    """The JSON object in a body.

    Args:
        beginning: the body ends somewhere in the middle; what is there is read.

    Raises:
        ValueError: the body is empty, is not JSON, or is JSON of another kind than an object.
    """
    if not content.strip():
        raise ValueError("the answer is empty")
    try:
        body = _parse_beginning(content) if beginning else parse_json(content)
    except ValueError:
        raise ValueError("the answer is not JSON") from None
    if not isinstance(body, dict):
        raise ValueError("the answer is not a JSON object")
    return body


def with_whole_characters(content: bytes | str) -> str:
    """A body with U+FFFD in place of what is no Unicode."""
    return content if isinstance(content, str) else content.decode(json.detect_encoding(content), "replace")


def parse_json(content: bytes | str) -> object:
    """Parse JSON as `json.loads` does, but without its limits.

    A number of thousands of digits is kept as its text. If the value is nested deeper than Python can parse, what lies
    below some hundred levels is null: a tool's output must not cost the answer around it.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(_decoded(content) if len(content) > _LARGE else content)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Invalid control character"):
            raise
        return json.loads(content, strict=False)  # a server that does not escape the line breaks of a text
    except ValueError:  # the limit on the digits of an integer, or bytes that are no Unicode
        return json.loads(content, parse_int=_integer)
    except RecursionError:
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content), "surrogatepass")
        return parse_json(_without_depths(text, _DEEPEST_PARSED))


def _decoded(content: bytes | str) -> bytes | str:
    """Decode a large body piece by piece: in one piece, text beyond ASCII takes three times its size meanwhile."""
    if isinstance(content, str) or json.detect_encoding(content) != "utf-8":
        return content
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(content)
    try:
        pieces = [decoder.decode(view[start : start + _LARGE]) for start in range(0, len(view), _LARGE)]
        return "".join([*pieces, decoder.decode(b"", final=True)])
    except UnicodeDecodeError:  # halves of characters, which `json.loads` lets pass
        return content


def _without_depths(text: str, levels: int) -> str:
    """Return the JSON with null in place of each object and list that lies below so many levels."""
    kept: list[str] = []
    depth = start = 0
    for token in _BRACKET.finditer(text):
        mark = text[token.start()]
        if mark in "[{":
            depth += 1
            if depth == levels + 1:
                kept.append(text[start : token.start()])
        elif mark in "]}":
            if depth == levels + 1:
                kept.append("null")
                start = token.end()
            depth -= 1
    return "".join([*kept, text[start:]]) if depth <= levels else "".join(kept)


def split_json(text: str) -> tuple[list[object], list[str]]:
    """Return the objects, lists and texts that follow one another in `text`, and the lines between that are no JSON."""
    values: list[object] = []
    others: list[str] = []
    decoder = json.JSONDecoder(parse_int=_integer)
    at = 0
    while (at := _end_of(_BETWEEN.match(text, at))) < len(text):
        if text[at] in '{["':
            try:
                value, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                pass
            else:
                values.append(value)
                continue
        line_end = text.find("\n", at)
        line_end = len(text) if line_end < 0 else line_end
        others.append(text[at:line_end])
        at = line_end
    return values, others


def _end_of(match: re.Match[str] | None) -> int:
    return match.end() if match else 0  # a pattern that matches the empty text always matches


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


def _parse_beginning(content: bytes | str) -> object:
    from pydantic_core import from_json  # seldom needed, and slow to import

    try:
        return from_json(content, allow_partial="trailing-strings")
    except ValueError:  # its own limit is 200 levels
        return from_json(_without_depths(with_whole_characters(content), 190), allow_partial="trailing-strings")


def all_sendable(data: JsonObject) -> JsonObject:
    """The same of every text in an object. Raises ValueError where it is nested too deeply."""
    try:
        text = json.dumps(data, ensure_ascii=False)
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None
    try:
        text.encode()
    except UnicodeEncodeError:
        mended: JsonObject = json.loads(text.encode("utf-8", "replace"))
        return mended
    return data
