"""The arguments of a research run, and the deep_research tool that is made of them.

An argument is one field: its check, its description and its section of the prompt. Everything else is derived from the
fields: the tool's schema for models and agents, the checks of the arguments that they write, the body of the relay's
`POST` with its OpenAPI, and the research prompt.

A new argument must be optional, with the default None. Then a request without it keeps its meaning, and stays equal for
everything that compares requests by their arguments (the relay's idempotency keys, the agents' calls).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from ..json_object import JsonObject
from ..window import Window

TOOL_NAME: Final = "deep_research"
MAX_TEXT: Final = 100_000
MAX_ITEMS: Final = 100
MAX_TEXT_FORMAT_BYTES: Final = 64 * 1024
_LONGEST_COMPARED: Final = 64  # characters of an unknown name; the time of a comparison grows with their square
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

DeliverableFormat = Literal["markdown_brief", "markdown_report", "json_outline"]
Mode = Literal["foreground", "background", "stream"]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Language = Annotated[str, StringConstraints(max_length=100)]


@dataclass(frozen=True)
class Section:
    """The section of an argument in the research prompt. The sections have the order of the fields.

    Args:
        heading: of the section.
        words: the text for each value; if empty, the text is the value itself, a list as a list.
    """

    heading: str
    words: Mapping[object, str] = field(default_factory=dict)

    def text(self, value: Any) -> str:
        """Return the text for a value. An empty text leaves the section out."""
        if self.words:
            return self.words[value]
        if isinstance(value, list):
            return "\n".join(f"- {item.strip()}" for item in value if item.strip())
        return "" if value is None else str(value).strip()


def unknown_name(name: str, known: Sequence[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Return the message for an unknown name, with the closest known name and all of them.

    Args:
        name: as a client wrote it; the message does not repeat it.
        known: the names that are valid there.
        elsewhere: names that are valid elsewhere, each with its whole path.
    """
    paths = {**(elsewhere or {}), **{one: one for one in known}}
    near = difflib.get_close_matches(name[:_LONGEST_COMPARED], paths, n=1)
    hint = f"; did you mean {paths[near[0]]}?" if near else "."
    return f"is not known here{hint} Known: {', '.join(known)}"


class Strict(BaseModel):
    """A model that refuses unknown fields and converts no types."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _check_text_format(given: JsonObject) -> JsonObject:
    if given.get("type") not in ("text", "json_object", "json_schema"):
        raise ValueError("type must be one of: text, json_object, json_schema")
    if given["type"] == "json_schema" and not (
        isinstance(given.get("name"), str) and isinstance(given.get("schema"), dict)
    ):
        raise ValueError("json_schema needs a name and a schema")
    if len(json.dumps(given)) > MAX_TEXT_FORMAT_BYTES:
        raise ValueError(f"must have at most {MAX_TEXT_FORMAT_BYTES} bytes of JSON")
    return given


# `text.format` of the Responses API: the form that the model's text must have. A dict rather than a model, because the
# order of its keys matters: models write the properties of a JSON schema in the schema's order.
TextFormat = Annotated[
    JsonObject,
    AfterValidator(_check_text_format),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {"type": {"type": "string", "enum": ["text", "json_object", "json_schema"]}},
            "required": ["type"],
            "if": {"properties": {"type": {"const": "json_schema"}}},
            "then": {
                "required": ["name", "schema"],
                "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
            },
        }
    ),
]

_DELIVERABLES: dict[object, str] = {
    "markdown_brief": "A brief in Markdown: the answer first in a few sentences, then the findings that carry it as a "
    "short list, then what remains uncertain. At most about 600 words.",
    "markdown_report": "A full report in Markdown: a summary, sections with headings for each part of the question, "
    "the evidence with figures and dates, points on which sources disagree, and what remains uncertain.",
    "json_outline": 'One JSON object and nothing around it: {"title": string, "summary": string, "sections": '
    '[{"heading": string, "points": [string], "sources": [string]}], "open_questions": [string]}.',
}
_CITATIONS: dict[object, str] = {
    True: "Name the source of each finding, with its URL, where the finding is stated. Do not invent sources.",
    False: "Sources need not be named.",
}


class ToolArguments(Strict):
    """The arguments that a model may set when it calls the tool; its schema consists of these fields."""

    research_question: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=r"\S"),
        Section("Research question"),
    ] = Field(
        description="The question, complete in itself: the researcher does not see the conversation.",
        examples=["How did jajangmyeon come to Korea?"],
    )
    context: Annotated[list[Text], Section("Context")] = Field(
        default_factory=list,
        max_length=MAX_ITEMS,
        description="Facts from the conversation that the researcher needs.",
        examples=[["The reader knows Chinese cuisine."]],
    )
    constraints: Annotated[list[Text], Section("Constraints")] = Field(
        default_factory=list,
        max_length=MAX_ITEMS,
        description="Limits to keep to, such as a period, a region or sources to leave out.",
        examples=[["Sources in Korean or English only"]],
    )
    deliverable_format: Annotated[DeliverableFormat, Section("Deliverable", _DELIVERABLES)] = Field(
        "markdown_brief", description="Form of the result.", examples=["markdown_report"]
    )
    language: Annotated[Language | None, Section("Language of the report")] = Field(
        None,
        description="Language of the report, such as Korean; by default that of the question.",
        examples=["Korean"],
    )
    require_citations: Annotated[bool, Section("Citations", _CITATIONS)] = Field(
        True, description="Whether each finding must name its source.", examples=[True]
    )


class DeepResearchArguments(ToolArguments):
    """All arguments: those of the tool, and those that only the caller sets."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "properties": {"background": {"const": True}, "stream": {"const": True}},
                "required": ["background", "stream"],
            }
        }
    )

    system_prompt: Text | None = Field(None, description="Becomes the model's `instructions`.")
    text_format: TextFormat | None = Field(
        None,
        description=f"Becomes `text.format`; at most {MAX_TEXT_FORMAT_BYTES} bytes of JSON.",
        examples=[{"type": "json_object"}],
    )
    window: Window | None = Field(
        None,
        description="The provider's discount for a run that may take this long; by default that of the relay, which "
        "has none unless its operator sets one. The text of such a run comes at its end, also with `stream`.",
        examples=["8h"],
    )
    background: bool = Field(False, description="Answer 202 at once. Not together with `stream`.")
    stream: bool = Field(False, description="Answer 202 at once, and relay the text as it arrives (see events).")

    @model_validator(mode="after")
    def _one_mode(self) -> DeepResearchArguments:
        if self.background and self.stream:
            raise ValueError("background and stream exclude each other")
        return self

    @property
    def mode(self) -> Mode:
        """The way in which the caller receives the result."""
        return "stream" if self.stream else "background" if self.background else "foreground"


# The arguments that are part of the prompt, in its order.
SECTIONS: Final = [
    (name, section)
    for name, argument in DeepResearchArguments.model_fields.items()
    for section in argument.metadata
    if isinstance(section, Section)
]


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


def argument_schema(name: str) -> JsonObject:
    """Return the schema of an argument with the keywords that every provider reads."""
    schema: JsonObject = _plain(DeepResearchArguments.model_json_schema())["properties"][name]
    return schema


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
