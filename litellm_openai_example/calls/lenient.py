"""JSON as gateways send it: cut off, too deep, with other text around it, or slightly broken."""

from __future__ import annotations

import codecs
import json
import re

from ..json_object import DEEPEST, JsonObject

_BETWEEN = re.compile(r"[\s\0\ufeff]*")  # separators between two values

# The brackets of a JSON text. Strings are matched as well, because they may contain brackets.
_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_LARGE = 2**20  # bytes
_DEEPEST_PARSED = DEEPEST + 60  # deeper than the limit for passing on, which then reports the missing part


def read_json(content: bytes | str, *, beginning: bool = False) -> JsonObject:
    """Return the JSON object in a body.

    Args:
        beginning: the body is cut off; read the part that is there.

    Raises:
        ValueError: the body is empty, not JSON, or not an object.
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
    """Return a body as text, with U+FFFD in place of invalid Unicode."""
    return content if isinstance(content, str) else content.decode(json.detect_encoding(content), "replace")


def parse_json(content: bytes | str) -> object:
    """Parse JSON as `json.loads` does, but without its limits.

    A number with thousands of digits is kept as text. If the value is nested deeper than Python can parse, everything
    below some hundred levels becomes null, so that the output of a tool does not cost the answer around it.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(_decoded(content) if len(content) > _LARGE else content)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Invalid control character"):
            raise
        return json.loads(content, strict=False)  # some servers do not escape line breaks
    except ValueError:
        # Python's limit on the digits of an integer, or invalid Unicode.
        return json.loads(content, parse_int=_integer)
    except RecursionError:
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content), "surrogatepass")
        return parse_json(_without_depths(text, _DEEPEST_PARSED))


def _decoded(content: bytes | str) -> bytes | str:
    """Decode a large body piece by piece: in one go, text beyond ASCII takes three times its size meanwhile."""
    if isinstance(content, str) or json.detect_encoding(content) != "utf-8":
        return content
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(content)
    try:
        pieces = [decoder.decode(view[start : start + _LARGE]) for start in range(0, len(view), _LARGE)]
        return "".join([*pieces, decoder.decode(b"", final=True)])
    except UnicodeDecodeError:
        # Halves of characters, which `json.loads` accepts.
        return content


def _without_depths(text: str, levels: int) -> str:
    """Return the JSON with null for each object and list below `levels`."""
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
    """Return the objects, lists and strings that follow one another in `text`, and the lines between them."""
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
    # A pattern that matches the empty text always matches.
    return match.end() if match else 0


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


def _parse_beginning(content: bytes | str) -> object:
    from pydantic_core import from_json  # rarely needed, and slow to import

    try:
        return from_json(content, allow_partial="trailing-strings")
    except ValueError:  # its limit is 200 levels
        return from_json(_without_depths(with_whole_characters(content), 190), allow_partial="trailing-strings")


def all_sendable(data: JsonObject) -> JsonObject:
    """Return an object with every text in it made sendable. Raises ValueError if it is nested too deeply."""
    try:
        text = json.dumps(data, ensure_ascii=False)
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None
    try:
        text.encode()
    except UnicodeEncodeError:
        fixed: JsonObject = json.loads(text.encode("utf-8", "replace"))
        return fixed
    return data
