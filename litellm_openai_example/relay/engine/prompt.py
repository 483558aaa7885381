"""The research request: what the gateway is asked for on behalf of an invocation."""

from __future__ import annotations

from collections.abc import Sequence

from ...json_object import JsonObject
from ...research.contract import DeepResearchArguments, DeliverableFormat
from ..settings import DEFAULT_MODEL

_OTHER_NAME = {"web_search": "web_search_preview", "web_search_preview": "web_search"}

_DELIVERABLES: dict[DeliverableFormat, str] = {
    "markdown_brief": "A brief in Markdown: the answer first in a few sentences, then the findings that carry it as a "
    "short list, then what remains uncertain. At most about 600 words.",
    "markdown_report": "A full report in Markdown: a summary, sections with headings for each part of the question, "
    "the evidence with figures and dates, points on which sources disagree, and what remains uncertain.",
    "json_outline": 'One JSON object and nothing around it: {"title": string, "summary": string, "sections": '
    '[{"heading": string, "points": [string], "sources": [string]}], "open_questions": [string]}.',
}
_CITED = "Name the source of each finding, with its URL, where the finding is stated. Do not invent sources."
_UNCITED = "Sources need not be named."
_NOTHING_TO_CITE = "There is nothing to search with: do not invent sources or addresses."


def default_fields(model: str) -> JsonObject:
    """What a model is given to do research with, unless `RELAY_REQUEST` says otherwise.

    Deep-research models know the older name of the search tool alone, and refuse to work without a source of data;
    newer ones refuse that name, and need the effort that is built into the others.
    """
    if "deep-research" in model:
        return {"tools": [{"type": "web_search_preview"}]}
    fields: JsonObject = {"tools": [{"type": "web_search"}]}
    if model.rpartition("/")[2] == DEFAULT_MODEL:
        fields["reasoning"] = {"effort": "high"}
    return fields


def research_request(arguments: DeepResearchArguments, model: str, overrides: JsonObject) -> JsonObject:
    """The body of `POST /responses`, without the fields that say how it is to run.

    Args:
        arguments: as a client sent them; they win over `overrides`.
        model: that does the research.
        overrides: replace the default fields; one that is None is left out.
    """
    fields = {name: value for name, value in (default_fields(model) | dict(overrides)).items() if value is not None}
    request = {"model": model, "input": research_prompt(arguments, searches=_searches(fields)), **fields}
    if not request.get("tools"):
        request.pop("tools", None)
    if arguments.system_prompt and arguments.system_prompt.strip():
        request["instructions"] = arguments.system_prompt
    if arguments.text_format is not None:
        text = request.get("text")
        request["text"] = {**(text if isinstance(text, dict) else {}), "format": arguments.text_format}
    return request


def research_prompt(arguments: DeepResearchArguments, *, searches: bool) -> str:
    """Question, context, constraints, form and citations as one text.

    Sources are asked for only where there is something to search with: a model without it would invent them.
    """
    parts = [f"# Research question\n\n{arguments.research_question.strip()}"]
    parts += _section("Context", arguments.context)
    parts += _section("Constraints", arguments.constraints)
    if arguments.text_format is None or arguments.text_format["type"] == "text":
        parts.append(f"# Deliverable\n\n{_DELIVERABLES[arguments.deliverable_format]}")
    else:
        parts.append("# Deliverable\n\nJSON in the form that was asked for, and nothing around it.")
    cited = _CITED if searches else _NOTHING_TO_CITE
    parts.append(f"# Citations\n\n{cited if arguments.require_citations else _UNCITED}")
    return "\n\n".join(parts)


def with_other_search_tool(request: JsonObject) -> JsonObject | None:
    """The request with its search tool under the other of its two names; None if it has no such tool."""
    tools = request.get("tools", [])
    renamed = [{**tool, "type": _OTHER_NAME.get(tool["type"], tool["type"])} for tool in tools]
    return {**request, "tools": renamed} if renamed != tools else None


def without_reasoning(request: JsonObject) -> JsonObject | None:
    """The request without `reasoning`; None if it has none."""
    return _without(request, "reasoning")


def without_stream(request: JsonObject) -> JsonObject | None:
    """The request as one that is answered in one piece; None if it was that before."""
    return _without(request, "stream")


def _without(request: JsonObject, name: str) -> JsonObject | None:
    return {key: value for key, value in request.items() if key != name} if name in request else None


def _searches(fields: JsonObject) -> bool:
    kinds = [tool["type"] for tool in fields.get("tools", ())]
    return "web_search_options" in fields or any("search" in kind or kind == "mcp" for kind in kinds)


def _section(title: str, items: Sequence[str]) -> list[str]:
    lines = [f"- {item.strip()}" for item in items if item.strip()]
    return ["\n".join([f"# {title}\n", *lines])] if lines else []
