"""What today's models refuse, as the provider says it: the offline models refuse the same, each in its place."""

from __future__ import annotations

from collections.abc import Collection

_DATA_SOURCES = ("web_search_preview", "web_search", "mcp", "file_search")


class BadRequest(ValueError):
    """A request that cannot be executed; becomes a 400.

    Attributes:
        code: OpenAI's name of the error, if it has one.
        param: the field that is wrong, if it is one.
    """

    def __init__(self, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def is_research_model(model: str) -> bool:
    """Whether a model of this name works like a deep-research model."""
    return "deep-research" in model


def check(model: str, tools: Collection[str], *, functions: bool, effort: object) -> None:
    """Refuse what a model of this name refuses.

    Args:
        tools: their types.
        functions: whether functions are among them.
        effort: `reasoning.effort`, None where it is not given.

    Raises:
        BadRequest: in the provider's own words.
    """
    if is_research_model(model):
        if functions:
            raise BadRequest("Deep research models do not support function tools.", param="tools")
        if not set(tools).intersection(_DATA_SOURCES):
            raise BadRequest(
                "Deep research models require at least one of 'web_search_preview', 'mcp', or 'file_search' tools.",
                param="tools",
            )
    if model.startswith("gpt-6.1") and any(kind.startswith("web_search_preview") for kind in tools):
        raise BadRequest("Web search preview tool is not supported with this model, use `web_search`", param="tools")
    if effort is not None and model.startswith(("gpt-4o", "gpt-4.1")):
        raise BadRequest(
            "Unsupported parameter: 'reasoning.effort' is not supported with this model.",
            "unsupported_parameter",
            "reasoning.effort",
        )
