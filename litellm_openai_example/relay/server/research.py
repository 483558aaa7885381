"""The research request: what the gateway is asked for on behalf of an invocation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contract import DeepResearchArguments, DeliverableFormat

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


def research_request(
    arguments: DeepResearchArguments, model: str, tools: list[dict[str, Any]] | None
) -> dict[str, Any]:
    """The arguments of `responses.create`, without those that say how it is to run.

    Args:
        arguments: as a client sent them.
        model: that does the research.
        tools: to attach; None for those that the model needs.
    """
    request: dict[str, Any] = {"model": model, "input": research_prompt(arguments)}
    if arguments.system_prompt and arguments.system_prompt.strip():
        request["instructions"] = arguments.system_prompt
    if arguments.text_format is not None:
        request["text"] = {"format": arguments.text_format.model_dump()}
    if tools is None and "deep-research" in model:
        tools = [{"type": "web_search_preview"}]  # these models refuse to work without a source of data
    if tools:
        request["tools"] = tools
    return request


def research_prompt(arguments: DeepResearchArguments) -> str:
    """Question, context, constraints, form and citations as one text."""
    parts = [f"# Research question\n\n{arguments.research_question.strip()}"]
    parts += _section("Context", arguments.context)
    parts += _section("Constraints", arguments.constraints)
    if arguments.text_format is None or arguments.text_format.type == "text":
        parts.append(f"# Deliverable\n\n{_DELIVERABLES[arguments.deliverable_format]}")
    else:
        parts.append("# Deliverable\n\nJSON in the form that was asked for, and nothing around it.")
    parts.append(f"# Citations\n\n{_CITED if arguments.require_citations else _UNCITED}")
    return "\n\n".join(parts)


def _section(title: str, items: Sequence[str]) -> list[str]:
    lines = [f"- {item.strip()}" for item in items if item.strip()]
    return ["\n".join([f"# {title}\n", *lines])] if lines else []
