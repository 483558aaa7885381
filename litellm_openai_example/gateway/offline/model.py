"""The offline demo model: its answers and its refusals. Text in, text out; no I/O and no wire format."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

# Names of today, and older ones that gateways still list. The model answers to any other name too.
MODELS = (
    "gpt-6-luna",
    "gpt-6.1-sol",
    "gpt-4o",
    "gpt-4o-mini",
    "o3-deep-research",
    "o4-mini-deep-research",
    "text-embedding-3-small",
)
DEMO = "This is the offline demo model: no language model was involved."
SOURCE = "https://example.com/offline-demo"
# The sources of "research". A report cites them by number alone, as many models do.
SOURCES = ((SOURCE, "Offline demo"), ("https://example.com/offline-demo/second", "Offline demo, second source"))

_EXACTLY = re.compile(r"\s*reply with exactly:[ \t]*(.*)", re.IGNORECASE | re.DOTALL)
_RESEARCH = re.compile(
    r"\b(research|investigat\w*|analy[sz]\w*|survey|compar\w*|history of|state of the art|literature)\b"
    r"|조사|연구|분석|비교|역사|리서치|동향|현황",
    re.IGNORECASE,
)
_DEEPEST = 8
_HARD = ("high", "xhigh")
_DATA_SOURCES = ("web_search_preview", "web_search", "mcp", "file_search")

Schema = Mapping[str, object]


class BadRequest(ValueError):
    """A request that cannot be served; it becomes a 400.

    Attributes:
        code: OpenAI's error code, if there is one.
        param: the field at fault, if it is one field.
    """

    def __init__(self, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


@dataclass(frozen=True)
class Item:
    """An item of a conversation: a message, a function call, or the output of one."""

    kind: Literal["system", "user", "assistant", "call", "output"]
    text: str
    call_id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Request:
    """A request to the model, by either API.

    Attributes:
        model: the model's name in the request.
        conversation: all of it, oldest first.
        functions: the JSON schema of the parameters of each function that the model may call, by name.
        forced: the name of the function that it must call, or empty.
        searches: True if web search is offered.
        shape: the JSON schema that the answer must follow; None for plain text.
        effort: the reasoning effort, or empty.
    """

    model: str
    conversation: Sequence[Item]
    functions: Mapping[str, Schema] = field(default_factory=dict)
    forced: str = ""
    searches: bool = False
    shape: Schema | None = None
    effort: str = ""

    @property
    def is_research(self) -> bool:
        """True for a deep-research model, and for any other that searches at high effort."""
        return is_research_model(self.model) or (self.searches and self.effort in _HARD)


@dataclass(frozen=True)
class Completion:
    """The model's output: a text, or a call of the function `call` with JSON arguments.

    Attributes:
        text: the text; empty for a function call.
        call: the name of the function, or empty.
        arguments: its arguments as JSON.
        sources: address and title of each source that it "found"; empty without a search.
    """

    text: str = ""
    call: str = ""
    arguments: str = ""
    sources: Sequence[tuple[str, str]] = ()


def is_research_model(model: str) -> bool:
    """Return True if a model of this name works like a deep-research model."""
    return "deep-research" in model


def check(model: str, tools: Collection[str], *, functions: bool, effort: object) -> None:
    """Refuse a request that OpenAI's model of this name would refuse.

    Args:
        model: the name of the model.
        tools: the types of the tools.
        functions: True if functions are among them.
        effort: `reasoning.effort`, or None.

    Raises:
        BadRequest: worded as the provider words it.
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


def complete(request: Request) -> Completion:
    """Return the model's output for a request."""
    asked = [item.text for item in request.conversation if item.kind == "user"]
    question = asked[-1] if asked else ""
    # Of this turn only: the outputs of earlier turns have been answered already.
    outputs = [item.text for item in _since_last_question(request.conversation) if item.kind == "output"]
    # A research model answers every prompt with a report, even "Reply with exactly".
    if request.is_research and not request.functions:
        return Completion(_shaped(request, _report(question)), sources=SOURCES)
    if outputs:
        text = f"{DEMO}\n\nYou asked: {question}\n\nThe tools answered:\n\n" + "\n\n".join(outputs)
    elif request.forced:
        return _call(request, request.forced, question)
    elif (exactly := _EXACTLY.fullmatch(question)) and exactly[1].strip():
        return Completion(exactly[1].strip(), sources=_found(request))
    elif named := _named(request.functions, question):
        return _call(request, named, question)
    elif "deep_research" in request.functions and _RESEARCH.search(question):
        return _call(request, "deep_research", question)
    else:
        text = _echo(request, asked)
    return Completion(_shaped(request, text), sources=_found(request))


def pieces(text: str, size: int = 12) -> list[str]:
    """Split a text as a stream delivers it."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def tokens(text: str) -> int:
    """Return a plausible number of tokens, never zero."""
    return max(1, len(text) // 4)


def _echo(request: Request, asked: Sequence[str]) -> str:
    lines = [f"{DEMO} You said: {asked[-1] if asked else ''}"]
    if len(asked) > 1:
        lines.append(f"Before that you said: {asked[-2]}")
    lines += [f"Instructions: {item.text}" for item in request.conversation if item.kind == "system" and item.text]
    if request.searches:
        lines.append(f"A search would have been made; its only result is {SOURCE}")
    return "\n".join(lines)


def _found(request: Request) -> Sequence[tuple[str, str]]:
    return SOURCES[:1] if request.searches else ()


def _shaped(request: Request, text: str) -> str:
    return text if request.shape is None else _json(_fill(request.shape, text))


def _named(functions: Mapping[str, Schema], question: str) -> str:
    """Return the function that the question names, or an empty string. A Korean particle may follow the name."""
    for name in functions:
        if name and re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", question):
            return name
    return ""


def _call(request: Request, name: str, question: str) -> Completion:
    """Return a call with the JSON arguments in the question, or with made-up ones that fit the schema."""
    if name == "deep_research":
        given: object = {"research_question": question, "deliverable_format": "markdown_brief"}
    else:
        given = _object_in(question)
        if given is None:
            given = _fill(request.functions[name], question)
    return Completion(call=name, arguments=_json(given if given is not None else {}))


def _object_in(text: str) -> object:
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        with suppress(ValueError, RecursionError):
            found: object = json.loads(text[start : end + 1])
            return found
    return None


def _report(question: str) -> str:
    return (
        f"# Offline demo research\n\n{DEMO}\n\n## Question\n\n{question}\n\n## Findings\n\n"
        f"- Nothing was looked up: this report stands where a model would put what it has found [1].\n"
        f"- Its sources are named by number alone, as many models do; their addresses are in its annotations [2].\n"
    )


def _since_last_question(conversation: Sequence[Item]) -> Sequence[Item]:
    last = max((index for index, item in enumerate(conversation) if item.kind == "user"), default=-1)
    return conversation[last + 1 :]


def _fill(schema: object, text: str, root: Schema | None = None, depth: int = 0) -> object:
    """Return a value that follows a JSON schema, with `text` for each string."""
    # A schema may refer to itself without end.
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    root = schema if root is None else root
    if isinstance(schema.get("$ref"), str):
        return _fill(_referred(root, schema["$ref"]), text, root, depth + 1)
    # The first alternative satisfies the first two. For `allOf` it is a guess, good enough for a demo.
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(name), list) and schema[name]:
            return _fill(schema[name][0], text, root, depth + 1)
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type", "object" if "properties" in schema else None)
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        return {name: _fill(value, text, root, depth + 1) for name, value in properties.items()}
    plain: dict[object, object] = {"string": text, "integer": 0, "number": 0, "boolean": False, "array": []}
    return plain.get(kind)


def _referred(root: Schema, reference: str) -> object:
    place: object = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            place = place.get(step) if isinstance(place, Mapping) else None
    return place


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
