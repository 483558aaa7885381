"""The research request: the body that the relay sends to the gateway for an invocation."""

from __future__ import annotations

from ...calls.requests import OLD_SEARCH, SEARCH
from ...json_object import JsonObject
from ...research.arguments import SECTIONS, DeepResearchArguments
from ...window import with_window

_OTHER_NAME = {SEARCH: OLD_SEARCH, OLD_SEARCH: SEARCH}

_GIVEN_FORM = "JSON in the form that was asked for, and nothing around it."
_NOTHING_TO_CITE = "There is nothing to search with: do not invent sources or addresses."


def default_fields(model: str) -> JsonObject:
    """Return the fields that let a model do research, unless `RELAY_REQUEST` replaces them.

    Deep-research models know only the older name of the search tool, refuse to work without a source of data, and have
    their effort built in. All others get the newer name and high effort, since names tell little (dated ones, the
    gateway's aliases). A model that does not reason refuses the effort with a 400, and the request is repeated without.
    """
    if "deep-research" in model.lower():
        return {"tools": [{"type": OLD_SEARCH}], "store": True}
    return {"tools": [{"type": SEARCH}], "reasoning": {"effort": "high"}, "store": True}


def research_request(arguments: DeepResearchArguments, model: str, overrides: JsonObject) -> JsonObject:
    """Return the body of `POST /responses`, without `background` and `stream`.

    Args:
        arguments: as a client sent them; they win over `overrides`.
        model: the model that does the research.
        overrides: replace the default fields; None removes one.
    """
    given = default_fields(model) | dict(overrides)
    # A null `store` stays: the SDK adapter adds an absent one to a background create, and drops the null.
    fields = {name: value for name, value in given.items() if value is not None or name == "store"}
    request = {"model": model, "input": research_prompt(arguments, searches=_searches(fields)), **fields}
    if not request.get("tools"):
        request.pop("tools", None)
    if arguments.system_prompt and arguments.system_prompt.strip():
        request["instructions"] = arguments.system_prompt
    if arguments.text_format is not None:
        text = request.get("text")
        request["text"] = {**(text if isinstance(text, dict) else {}), "format": arguments.text_format}
    return with_window(request, arguments.window) if arguments.window else request


def research_prompt(arguments: DeepResearchArguments, *, searches: bool) -> str:
    """Return the arguments as one text, each in its section.

    Sources are requested only together with a search tool: without one, a model would invent them.
    """
    # A format that the API enforces wins over the described one, which may contradict it.
    instead = {}
    if arguments.text_format is not None and arguments.text_format["type"] != "text":
        instead["deliverable_format"] = _GIVEN_FORM
    if arguments.require_citations and not searches:
        instead["require_citations"] = _NOTHING_TO_CITE
    said = [(section, instead.get(name) or section.text(getattr(arguments, name))) for name, section in SECTIONS]
    return "\n\n".join(f"# {section.heading}\n\n{text}" for section, text in said if text)


def with_other_search_tool(request: JsonObject) -> JsonObject | None:
    """Return the request with its search tool under the other of its two names; None if it has no such tool."""
    tools = request.get("tools", [])
    renamed = [{**tool, "type": _OTHER_NAME.get(tool["type"], tool["type"])} for tool in tools]
    return {**request, "tools": renamed} if renamed != tools else None


def without(name: str, request: JsonObject) -> JsonObject | None:
    """Return the request without the field `name`; None if it has no such field."""
    return {key: value for key, value in request.items() if key != name} if name in request else None


def _searches(fields: JsonObject) -> bool:
    kinds = [tool["type"] for tool in fields.get("tools", ())]
    return "web_search_options" in fields or any("search" in kind or kind == "mcp" for kind in kinds)
