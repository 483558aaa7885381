"""JSON objects: their type, and the limits of JSON that can be sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

JsonObject = dict[str, Any]
"""A JSON object: a request, an answer, an event, or the content of a file.

An object from outside may lack any field, or have null or another type in it, despite the API's reference. Code that
reads one checks each value before use; see `calls/answer.py`.
"""

DEEPEST: Final = 240
"""Levels of nesting that are passed on. pydantic serializes 255, including those of the enclosing models."""


def strict_json(text: str, pairs: Callable[[list[tuple[str, object]]], object] | None = None) -> object:
    """Parse a JSON text that a person wrote.

    Args:
        text: the JSON.
        pairs: makes each object of its names and values; a dict by default.

    Raises:
        ValueError: it is not standard JSON, which excludes NaN, or it is nested too deeply.
    """
    import json  # here, because `--help` needs no JSON

    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def can_be_sent(value: object) -> bool:
    """Return True if a JSON value can be sent: its numbers are finite, and no text has half a surrogate pair."""
    import json

    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def within_depth(data: JsonObject, levels: int = DEEPEST) -> JsonObject:
    """Return `data` with null for each object and list below `levels`; `data` itself if it is not as deep."""
    # Level by level, not recursively: the depth is the sender's choice.
    level: list[object] = [data]
    for _ in range(levels):
        level = [part for value in level for part in _parts(value) if isinstance(part, dict | list)]
        if not level:
            return data
    return {name: _cut(value, levels - 1) for name, value in data.items()}


def _parts(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _cut(value: object, levels: int) -> object:
    if isinstance(value, dict):
        return {name: _cut(part, levels - 1) for name, part in value.items()} if levels else None
    if isinstance(value, list):
        return [_cut(part, levels - 1) for part in value] if levels else None
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
