"""Shortening a response that is too large to store: the bulkiest and least telling parts go first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...json_object import JsonObject

_HEAD = 200  # characters that are left of a text
_CUT = " [...]"


def shortened(response: JsonObject, most: int) -> JsonObject:
    """Return `response` with at most `most` characters of JSON; `shortened` is true in it if a part is missing.

    The outputs and logs of tools go first: the long texts of all items that are not messages, addresses excepted, and
    then these items. The texts of the messages follow, which the view shows anyway. The messages' annotations, which
    name the sources, go last.
    """
    if _fits(response, most):
        return response
    output = response.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    # Step by step: each step is tried only if the one before is still too large.
    for less in _ever_less(items):
        made = {**response, "output": less, "shortened": True}
        if _fits(made, most):
            return made
    return _bare(response)


def _bare(response: JsonObject) -> JsonObject:
    """Return the little of a response that always fits."""
    kept = {name: response[name] for name in ("model", "status") if isinstance(response.get(name), str)}
    return {**kept, "shortened": True}


def _ever_less(items: list[JsonObject]) -> Iterator[list[JsonObject]]:
    items = [item if item.get("type") == "message" else _cut(item) for item in items]
    yield items
    for kinds in (("message", "web_search_call"), ("message",)):
        items = [item for item in items if item.get("type") in kinds]
        yield items
    yield [_cut(item) for item in items]
    yield []


def _cut(value: Any) -> Any:
    """Return `value` with its long texts cut off, addresses excepted."""
    if isinstance(value, str):
        return value if len(value) <= _HEAD else value[:_HEAD] + _CUT
    if isinstance(value, list):
        return [_cut(one) for one in value]
    if isinstance(value, dict):
        return {name: one if name == "url" else _cut(one) for name, one in value.items()}
    return value


def _fits(value: object, most: int) -> bool:
    """Does `value` have at most `most` characters of JSON?"""
    # The sum of the texts first: it spares serializing a value that is clearly larger.
    return _text_size(value) <= most and len(json.dumps(value)) <= most


def _text_size(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_text_size, value))
    return sum(map(_text_size, value.values())) if isinstance(value, dict) else 0
