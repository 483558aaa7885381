"""The deep_research tool as a model sees it: its schema, and the arguments that a model wrote for it."""

from __future__ import annotations

import json
from typing import Any, get_args

from .relay.contract import DeliverableFormat

NAME = "deep_research"
FORMATS = get_args(DeliverableFormat)

TOOL: dict[str, Any] = {
    "type": "function",
    "name": NAME,
    "description": (
        "Run a thorough research on one question over many sources. It takes minutes and costs money: call it when "
        "the question needs current, broad or cited evidence, once per question, and not for what you know well."
    ),
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {
            "research_question": {
                "type": "string",
                "description": "The question, complete in itself: the researcher does not see the conversation.",
            },
            "deliverable_format": {"type": "string", "enum": list(FORMATS), "description": "Form of the result."},
            "context": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Facts from the conversation that the researcher needs.",
            },
            "constraints": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Limits to keep to, such as a period, a region or sources to leave out.",
            },
            "require_citations": {"type": "boolean", "description": "Whether each finding names its source."},
        },
        "required": ["research_question"],
        "additionalProperties": False,
    },
}

# What a model may set; the rest of the relay's arguments are the caller's to decide.
_PROPERTIES: dict[str, Any] = TOOL["parameters"]["properties"]


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments of one call, checked.

    Args:
        text: JSON as the model wrote it.

    Raises:
        ValueError: they cannot be used; the message is meant for the model, which may try again.
    """
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the arguments are not valid JSON") from None
    if not isinstance(arguments, dict):
        raise ValueError("the arguments must be a JSON object")
    unknown = [name for name in arguments if name not in _PROPERTIES]
    if unknown:
        raise ValueError(f"unknown argument {unknown[0][:80]!r}; known are: {', '.join(_PROPERTIES)}")
    # A model writes null for what it leaves out.
    arguments = {name: value for name, value in arguments.items() if value is not None}
    question = arguments.get("research_question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("research_question must be a text that is not blank")
    for name, value in arguments.items():
        _check(name, value)
    try:
        json.dumps(arguments, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("the arguments hold half of a surrogate pair") from None
    return arguments


def _check(name: str, value: object) -> None:
    kind = _PROPERTIES[name]["type"]
    if kind == "array" and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise ValueError(f"{name} must be a list of texts")
    if kind == "boolean" and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    if kind == "string" and not isinstance(value, str):
        raise ValueError(f"{name} must be a text")
    if name == "deliverable_format" and value not in FORMATS:
        raise ValueError(f"deliverable_format must be one of: {', '.join(FORMATS)}")
