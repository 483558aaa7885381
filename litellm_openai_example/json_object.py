"""The one name of what every room passes on: an object of JSON. And what of JSON can be sent on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NoReturn

JsonObject = dict[str, Any]
"""An object of JSON: what a request says, and what an answer, an event or a file of ours says.

Where it came from outside, nothing about its values is known: any field can be missing, null or of another type,
whatever the API's reference promises. Code that reads one checks each value before use: see `calls/answer.py`.
"""

DEEPEST: Final = 240
"""Levels of objects and lists that are passed on. pydantic serializes 255, its own models around them included."""


def strict_json(text: str) -> object:
    """The value in a JSON text that a person wrote.

    Raises:
        ValueError: it is not JSON as the standard has it, which knows no NaN; or it is nested too deeply.
    """
    import json  # here: `--help` does without it

    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def can_be_sent(value: object) -> bool:
    """Whether a value of JSON can be sent: no number in it is without end, and no text holds half a surrogate pair."""
    import json

    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def within_depth(data: JsonObject, levels: int = DEEPEST) -> JsonObject:
    """Return `data` with null in place of each object and list below that many levels; `data` itself if it has none."""
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
