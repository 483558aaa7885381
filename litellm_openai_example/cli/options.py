"""What a command line says, and which options exclude each other."""

from typing import Literal, NamedTuple

from ..config import is_visible_ascii
from ..json_object import JsonObject

PROGRAM = "litellm-example"


class Options(NamedTuple):
    """The command line; each option is described where `cli` defines it.

    `api` is the one that is used; `stream` is None where neither --stream nor --no-stream is given; `fields` are those
    of `-o`, nested.
    """

    prompt: str | None
    api: Literal["chat", "responses"]
    background: bool
    wait: bool
    retrieve: str | None
    cancel: str | None
    previous_response_id: str | None
    web_search: bool
    search_country: str | None
    auto_tool_call: bool
    target: str
    invocation: str | None
    list_work: bool
    forget: str | None
    deliverable_format: str | None
    fields: JsonObject
    effort: str | None
    files: tuple[str, ...]
    tags: tuple[str, ...]
    sources: bool
    stream: bool | None
    timeout: float
    model: str | None
    instructions: str | None
    json: bool
    verbose: bool

    @property
    def follows_up(self) -> bool:
        """Whether this is about work that was submitted before, and so needs no prompt."""
        return bool(self.retrieve or self.cancel or self.invocation or self.at_journal)

    @property
    def at_journal(self) -> bool:
        """Whether only the journal is read or changed, and nothing is sent."""
        return self.list_work or self.forget is not None

    @property
    def at_relay(self) -> bool:
        """Whether a relay is asked, by us or for the model."""
        if self.invocation or (self.cancel or "").startswith(("inv_", "local_")):
            return True
        return not self.follows_up and (self.auto_tool_call or self.target == "relay")

    @property
    def at_gateway(self) -> bool:
        """Whether the gateway is asked for certain, which takes its settings."""
        if self.at_journal:
            return False
        return not self.at_relay or (self.auto_tool_call and not self.follows_up)

    @property
    def further(self) -> JsonObject:
        """All further fields of the call: those that have an option of their own, and those of -o, which win."""
        if self.effort is None:
            return self.fields
        if self.api == "chat":
            return {"reasoning_effort": self.effort, **self.fields}
        given = self.fields.get("reasoning", {})
        reasoning = {"effort": self.effort, **given} if isinstance(given, dict) else given
        return {**self.fields, "reasoning": reasoning}

    @property
    def tool(self) -> JsonObject | None:
        """The tool of --web-search."""
        if not self.web_search:
            return None
        where = {"type": "approximate", "country": self.search_country}
        # The older name: models that know only `web_search` refuse it before anything is paid for.
        return {"type": "web_search_preview"} | ({"user_location": where} if self.search_country else {})


def conflict(options: Options, given: set[str]) -> str | None:
    """Why a combination of options makes no sense; None if it does.

    Args:
        options: their values.
        given: the names of those that stand on the command line, whatever their value.
    """
    ids = ("retrieve", "cancel", "invocation", "previous_response_id")
    if options.forget is not None and not options.forget.strip():
        return "--forget is empty"
    for name in (one for one in (*ids, "model", "effort") if one in given):
        value = getattr(options, name)
        if not value.strip() or not value.isprintable():
            return f"{_flag(name)} is empty or holds control characters"
        if name in ids and not is_visible_ascii(value):
            return f"{_flag(name)} is not an id"
    modes = [name for name in _NOT_WITH if name in given]
    if len(modes) > 1:
        return f"{_flag(modes[0])} and {_flag(modes[1])} exclude each other"
    if modes:  # --auto-tool-call is not among these: `make run-auto` has it, and what follows up beats it
        return _first(modes[0], given, _NOT_WITH[modes[0]])
    if "wait" in given and not options.background:
        return "--wait goes with --background or --retrieve"
    if "search_country" in given and not options.web_search:
        return "--search-country goes with --web-search"
    if options.target == "relay":
        return _relay_conflict(options, given)
    if "deliverable_format" in given:
        return "--deliverable-format goes with --target relay"
    if options.api == "chat":
        only = [name for name in _RESPONSES_ONLY if getattr(options, name)]
        if only:
            return f"{_flag(only[0])} needs --api responses"
    if options.auto_tool_call and (found := _first("auto_tool_call", given, ("background", "files"))):
        return found
    if options.stream:
        return _first("stream", given, ("json", "background", "auto_tool_call"))
    return None


_RESPONSES_ONLY = ("background", "previous_response_id", "web_search", "auto_tool_call")
_ASKING = (
    *("prompt", "background", "web_search", "search_country", "target", "deliverable_format"),
    *("stream", "fields", "effort", "files", "previous_response_id", "instructions"),
)
_NOT_WITH = {
    "retrieve": _ASKING,
    "cancel": (*_ASKING, "wait"),
    "invocation": (*_ASKING, "wait", "model"),
    "list_work": (*_ASKING, "wait", "model", "api"),
    "forget": (*_ASKING, "wait", "model", "api"),
}


def _relay_conflict(options: Options, given: set[str]) -> str | None:
    if "api" in given:
        return "--target relay does not go through an API: leave --api away"
    excluded = ("auto_tool_call", "web_search", "previous_response_id", "model", "wait", "fields", "effort", "files")
    found = _first("target relay", given, excluded)
    if not found and options.stream:
        found = _first("stream", given, ("background", "json"))
    return found


def _first(what: str, given: set[str], excluded: tuple[str, ...]) -> str | None:
    """The message for the first of the excluded options that stands next to `what`, if one does."""
    for name in excluded:
        if name in given:
            return f"{_flag(what)} takes no prompt" if name == "prompt" else f"{_flag(what)} excludes {_flag(name)}"
    return None


def _flag(name: str) -> str:
    return {"fields": "-o", "files": "-f", "list_work": "--list"}.get(name) or "--" + name.replace("_", "-")
