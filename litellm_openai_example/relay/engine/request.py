"""The research request: the body that the relay sends for an invocation, and its changes where a model refuses a field.

A request that was refused with a 400 was not executed, so it may be repeated with a change. The refusal may come from a
fallback model or from one wrong deployment of many, so it is remembered for a bounded time, and only for the model that
answered then. A field that the operator sets in `RELAY_REQUEST` is never removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Set
from typing import NamedTuple

from ...calls.requests import OLD_SEARCH, SEARCH
from ...errors import ErrorKind
from ...json_object import JsonObject
from ...research.arguments import SECTIONS, DeepResearchArguments
from ...window import with_window
from ..log import log
from ..metrics import count_adapted

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


def _searches(fields: JsonObject) -> bool:
    kinds = [tool["type"] for tool in fields.get("tools", ())]
    return "web_search_options" in fields or any("search" in kind or kind == "mcp" for kind in kinds)


# Refused fields


def _with_other_search_tool(request: JsonObject) -> JsonObject | None:
    """Return the request with its search tool under the other of its two names; None if it has no such tool."""
    tools = request.get("tools", [])
    renamed = [{**tool, "type": _OTHER_NAME.get(tool["type"], tool["type"])} for tool in tools]
    return {**request, "tools": renamed} if renamed != tools else None


def _without(name: str, request: JsonObject) -> JsonObject | None:
    """Return the request without the field `name`; None if it has no such field."""
    return {key: value for key, value in request.items() if key != name} if name in request else None


class _Change(NamedTuple):
    """A change of a request, the field that it removes, and its words for the log. `make` returns None if it cannot."""

    make: Callable[[JsonObject], JsonObject | None]
    takes_out: str = ""
    words: str = ""


_CHANGES = {
    # Only a name changes, so nothing is removed that the operator has set.
    ErrorKind.UNSUPPORTED_TOOL: _Change(_with_other_search_tool, words="with the search tool's other name"),
    ErrorKind.UNSUPPORTED_REASONING: _Change(lambda r: _without("reasoning", r), "reasoning", "without `reasoning`"),
    # The SDK adapter adds an absent `store`, and drops one of null.
    ErrorKind.UNSUPPORTED_STORE: _Change(
        lambda r: {**r, "store": None} if r.get("store") else None, "store", "without `store`"
    ),
    # Without words, so not remembered: the next run may stream.
    ErrorKind.UNSUPPORTED_STREAM: _Change(lambda r: _without("stream", r)),
}
_REMEMBERED = frozenset(kind for kind, change in _CHANGES.items() if change.words)


class Adaptations:
    """The recent refusals of the models behind one gateway.

    Args:
        explicit: fields that the operator has set: the refusal of one stands.
        seconds: for which a refusal is remembered.
    """

    def __init__(self, *, explicit: Collection[str], seconds: float) -> None:
        self._explicit = frozenset(explicit)
        self._seconds = seconds
        self._until: dict[tuple[str, ErrorKind], float] = {}

    def begin(self, request: JsonObject) -> Adapted:
        """Return the request with the changes that its model has recently required."""
        now = time.monotonic()
        self._until = {known: until for known, until in self._until.items() if until > now}
        adapted = Adapted(request, self._explicit)
        for name, kind in self._until:
            if name == request["model"]:
                adapted.adapt(kind)
        return adapted

    def learn(self, adapted: Adapted, answered_by: str | None, deployment: str | None) -> None:
        """Remember the refusals that preceded an accepted request.

        Args:
            answered_by: the model that answered, as the answer names it; None if it names none.
            deployment: LiteLLM's id of the deployment that answered. The refusal of another one says nothing about it.
        """
        asked = adapted.model
        name = asked if answered_by is None or _is_same(asked, answered_by) else answered_by
        until = time.monotonic() + self._seconds
        for kind, refused_by in adapted.refusals.items():
            known = (name, kind)
            if kind not in _REMEMBERED or (refused_by and deployment and refused_by != deployment):
                continue
            if kind not in adapted.kinds:  # the change was refused too: the model takes the field
                self._until.pop(known, None)
            elif self._until.setdefault(known, until) == until:
                log.warning(
                    "the model %s refuses a field of the request (%s): for %.0f s requests are sent %s",
                    name, kind, self._seconds, _CHANGES[kind].words,
                )  # fmt: skip
        for kind in adapted.kinds:
            count_adapted(kind)


class Adapted:
    """A request with the changes made to it so far, and its refusals.

    Attributes:
        request: the body to send next.
        kinds: the changes in it, by the kind of the refusal.
        refusals: the gateway's refusals by kind, each with the deployment that refused, if known.
    """

    def __init__(self, request: JsonObject, explicit: Set[str]) -> None:
        self.request = request
        self.kinds: frozenset[ErrorKind] = frozenset()
        self.refusals: dict[ErrorKind, str | None] = {}
        self._explicit = explicit

    @property
    def model(self) -> str:
        """The model that the request names."""
        return str(self.request["model"])

    def refused(self, kind: ErrorKind, deployment: str | None) -> bool:
        """Change the request after a refusal; return False if the refusal stands."""
        # Each kind once: a gateway that refuses both names of a tool would be asked forever.
        if kind in self.refusals or not self.adapt(kind):
            return False
        self.refusals[kind] = deployment
        return True

    def adapt(self, kind: ErrorKind) -> bool:
        """Change the request. Return False if that is impossible, or would remove a field that the operator has set."""
        change = _CHANGES.get(kind)
        changed = None if change is None or change.takes_out in self._explicit else change.make(self.request)
        if changed is None:
            return False
        self.request, self.kinds = changed, self.kinds ^ {kind}
        return True


def _is_same(asked: str, answered: str) -> bool:
    """Is the model that answered the requested one? Its name may add a date, or lack the provider's prefix."""
    asked, answered = (name.rpartition("/")[2] for name in (asked, answered))
    return answered == asked or answered.startswith(f"{asked}-20")
