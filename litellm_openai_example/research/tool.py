"""The deep_research tool as a model sees it: its schema, and the reading of the arguments that a model wrote.

Both derive from `arguments.ToolArguments`, which the relay's own check uses too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ..json_object import JsonObject
from .arguments import ToolArguments
from .contract import TOOL_NAME

# The keywords of a JSON schema that every provider reads; some refuse a tool with others.
_KEYWORDS = frozenset({"type", "description", "enum", "items", "properties", "required", "additionalProperties"})
_FENCED = re.compile(r"\A\s*```\w*\n(.*?)\n?```\s*\Z", re.DOTALL)
_ENCODINGS = 3  # levels of JSON text within JSON text
_PROBLEMS = {
    "missing": "is required",
    "string_type": "must be a text",
    "string_too_short": "must be a text that is not blank",
    "string_pattern_mismatch": "must be a text that is not blank",
    "string_unicode": "holds half of a surrogate pair",
    "list_type": "must be a list of texts",
    "bool_type": "must be true or false",
}


def _plain(schema: JsonObject) -> JsonObject:
    """Return a schema with the keywords that every provider reads. A nullable field becomes an optional one."""
    for choice in schema.get("anyOf", ()):
        if choice.get("type") != "null":
            schema = choice | schema
    kept = {name: value for name, value in schema.items() if name in _KEYWORDS}
    if "properties" in kept:
        kept["properties"] = {name: _plain(value) for name, value in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = _plain(kept["items"])
    return kept


TOOL: JsonObject = {
    "type": "function",
    "name": TOOL_NAME,
    "description": (
        "Research one question thoroughly, over many sources. A run takes minutes and costs money: call it when "
        "the question needs current, broad or cited evidence, once per question, and not for what you know well."
    ),
    "strict": False,
    "parameters": {
        name: value for name, value in _plain(ToolArguments.model_json_schema()).items() if name != "description"
    },
}


def parse_arguments(text: str) -> JsonObject:
    """Return the arguments of one call, read from the JSON that a model wrote.

    JSON text within JSON text is accepted, and unknown fields are dropped: neither is a reason to lose a call whose
    meaning is clear.

    Returns:
        Only the arguments that the model set, as the relay has the defaults.

    Raises:
        ValueError: the arguments are unusable; the message is for the model, which may try again.
    """
    value: object = text
    try:
        for _ in range(_ENCODINGS):
            # Models write unescaped line breaks, and code fences around the JSON.
            value = json.loads(_FENCED.sub(r"\1", value), strict=False) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise ValueError("the arguments are not valid JSON") from None
    if not isinstance(value, dict):
        raise ValueError("the arguments must be a JSON object")
    return check_arguments(value).model_dump(exclude_unset=True)


def check_arguments(given: Mapping[str, object]) -> ToolArguments:
    """Return the arguments from a model or an agent, without unknown fields and nulls.

    Raises:
        ValueError: the arguments are unusable; the message is for the model, which may try again.
    """
    # A model writes null for a field that it leaves out.
    known = {name: given[name] for name in ToolArguments.model_fields if given.get(name) is not None}
    try:
        return ToolArguments.model_validate(known)
    except ValidationError as error:
        raise ValueError("; ".join(dict.fromkeys(map(_problem, error.errors(include_url=False))))) from None


def _problem(error: Any) -> str:
    """Return the problem in words that help a model to correct it."""
    where = ".".join(map(str, error["loc"]))
    return f"{where} {_PROBLEMS.get(error['type']) or error['msg'].replace('Input should', 'must')}"
