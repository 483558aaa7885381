"""What the offline demo model says. Text in, text out; no I/O and no wire format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from .rules import is_research_model

DEMO = "This is the offline demo model: no language model was involved."
SOURCE = "https://example.com/offline-demo"
# Where "research" was done: a report names them by number alone, as many models do.
SOURCES = ((SOURCE, "Offline demo"), ("https://example.com/offline-demo/second", "Offline demo, second source"))

_EXACTLY = re.compile(r"\s*reply with exactly:[ \t]*(.*)", re.IGNORECASE | re.DOTALL)
_RESEARCH = re.compile(
    r"\b(research|investigat\w*|analy[sz]\w*|survey|compar\w*|history of|state of the art|literature)\b"
    r"|조사|연구|분석|비교|역사|리서치|동향|현황",
    re.IGNORECASE,
)
_DEEPEST = 8
_HARD = ("high", "xhigh")

Schema = Mapping[str, object]


@dataclass(frozen=True)
class Entry:
    """One entry of a conversation: a text, a function call, or the output of one."""

    kind: Literal["system", "user", "assistant", "call", "output"]
    text: str
    call_id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Turn:
    """What the model is asked.

    Attributes:
        conversation: all of it, oldest first.
        functions: parameters, as JSON schema, of the functions that the model may call, by name.
        forced: the function that it has to call, if any.
        searches: whether web search is offered.
        shape: the JSON schema that the answer has to follow; None for plain text.
        effort: how hard it is to think.
    """

    model: str
    conversation: Sequence[Entry]
    functions: Mapping[str, Schema] = field(default_factory=dict)
    forced: str = ""
    searches: bool = False
    shape: Schema | None = None
    effort: str = ""

    @property
    def is_research(self) -> bool:
        """Whether it asks for a report: of a deep-research model, or of one that searches and thinks hard."""
        return is_research_model(self.model) or (self.searches and self.effort in _HARD)


@dataclass(frozen=True)
class Reply:
    """What the model does: it says `text`, or calls the function `call` with JSON arguments.

    Attributes:
        sources: address and title of what it "found"; none where it did not search.
    """

    text: str = ""
    call: str = ""
    arguments: str = ""
    sources: Sequence[tuple[str, str]] = ()


def decide(turn: Turn) -> Reply:
    """The next move in a conversation."""
    asked = [entry.text for entry in turn.conversation if entry.kind == "user"]
    question = asked[-1] if asked else ""
    outputs = [entry.text for entry in _since_last_question(turn.conversation) if entry.kind == "output"]
    if turn.is_research and not turn.functions:
        return Reply(_shaped(turn, _report(question)), sources=SOURCES)
    if outputs:
        text = f"{DEMO}\n\nYou asked: {question}\n\nThe tools answered:\n\n" + "\n\n".join(outputs)
    elif turn.forced:
        return _call(turn, turn.forced, question)
    elif (exactly := _EXACTLY.fullmatch(question)) and exactly[1].strip():
        return Reply(exactly[1].strip(), sources=_found(turn))
    elif named := _named(turn.functions, question):
        return _call(turn, named, question)
    elif "deep_research" in turn.functions and _RESEARCH.search(question):
        return _call(turn, "deep_research", question)
    else:
        text = _echo(turn, asked)
    return Reply(_shaped(turn, text), sources=_found(turn))


def pieces(text: str, size: int = 12) -> list[str]:
    """`text` in the pieces in which a stream sends it."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def tokens(text: str) -> int:
    """A plausible number of tokens, never zero."""
    return max(1, len(text) // 4)


def _echo(turn: Turn, asked: Sequence[str]) -> str:
    lines = [f"{DEMO} You said: {asked[-1] if asked else ''}"]
    if len(asked) > 1:
        lines.append(f"Before that you said: {asked[-2]}")
    lines += [f"Instructions: {entry.text}" for entry in turn.conversation if entry.kind == "system" and entry.text]
    if turn.searches:
        lines.append(f"A search would have been made; its only result is {SOURCE}")
    return "\n".join(lines)


def _found(turn: Turn) -> Sequence[tuple[str, str]]:
    return SOURCES[:1] if turn.searches else ()


def _shaped(turn: Turn, text: str) -> str:
    return text if turn.shape is None else _json(_fill(turn.shape, text))


def _named(functions: Mapping[str, Schema], question: str) -> str:
    """The function that the question names; a Korean particle may follow the name."""
    for name in functions:
        if name and re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", question):
            return name
    return ""


def _call(turn: Turn, name: str, question: str) -> Reply:
    """A call with the arguments that stand in the question as JSON, else with ones that fit."""
    if name == "deep_research":
        given: object = {"research_question": question, "deliverable_format": "markdown_brief"}
    else:
        given = _object_in(question)
        if given is None:
            given = _fill(turn.functions[name], question)
    return Reply(call=name, arguments=_json(given if given is not None else {}))


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


def _since_last_question(conversation: Sequence[Entry]) -> Sequence[Entry]:
    last = max((index for index, entry in enumerate(conversation) if entry.kind == "user"), default=-1)
    return conversation[last + 1 :]


def _fill(schema: object, text: str, root: Schema | None = None, depth: int = 0) -> object:
    """A value that follows a JSON schema, with `text` wherever it takes a string."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    root = schema if root is None else root
    if isinstance(schema.get("$ref"), str):
        return _fill(_referred(root, schema["$ref"]), text, root, depth + 1)
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
