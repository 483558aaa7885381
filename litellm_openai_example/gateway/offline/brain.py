"""What the offline demo model says. Text in, text out; no I/O and no wire format."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

DEMO = "This is the offline demo model: no language model was involved."
SOURCE = "https://example.com/offline-demo"

_EXACTLY = re.compile(r"\s*reply with exactly:[ \t]*(.*)", re.IGNORECASE | re.DOTALL)
_RESEARCH = re.compile(
    r"\b(research|investigat\w*|analy[sz]\w*|survey|compar\w*|history of|state of the art|literature)\b"
    r"|조사|연구|분석|비교|역사",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Entry:
    """One entry of a conversation: a text, a function call, or the output of one."""

    kind: Literal["system", "user", "assistant", "call", "output"]
    text: str
    call_id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Reply:
    """What the model does: it says `text`, or calls the function `call` with JSON arguments."""

    text: str = ""
    call: str = ""
    arguments: str = ""
    searched: bool = False


def is_research_model(model: str) -> bool:
    """Whether a model of this name works like a deep-research model."""
    return "deep-research" in model


def decide(conversation: list[Entry], functions: list[str], searches: bool, model: str) -> Reply:
    """The next move in a conversation.

    Args:
        conversation: all of it, oldest first.
        functions: names of the functions that the model may call.
        searches: whether web search is offered.
        model: the name it is asked under.
    """
    asked = [entry.text for entry in conversation if entry.kind == "user"]
    question = asked[-1] if asked else ""
    if is_research_model(model):
        return Reply(_report(question), searched=True)
    outputs = [entry.text for entry in _since_last_question(conversation) if entry.kind == "output"]
    if outputs:
        return Reply(f"{DEMO}\n\nYou asked: {question}\n\nThe tools answered:\n\n" + "\n\n".join(outputs))
    exactly = _EXACTLY.fullmatch(question)
    if exactly and exactly[1].strip():
        return Reply(exactly[1].strip(), searched=searches)
    if "deep_research" in functions and _RESEARCH.search(question):
        arguments = {"research_question": question, "deliverable_format": "markdown_brief"}
        return Reply(call="deep_research", arguments=json.dumps(arguments, ensure_ascii=False))
    text = f"{DEMO} You said: {question}"
    if len(asked) > 1:
        text += f"\nBefore that you said: {asked[-2]}"
    if searches:
        text += f"\nA search would have been made; its only result is {SOURCE}"
    return Reply(text, searched=searches)


def pieces(text: str, size: int = 12) -> list[str]:
    """`text` in the pieces in which a stream sends it."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def tokens(text: str) -> int:
    """A plausible number of tokens, so that usage is never zero."""
    return max(1, len(text) // 4)


def _since_last_question(conversation: list[Entry]) -> list[Entry]:
    last = max((index for index, entry in enumerate(conversation) if entry.kind == "user"), default=-1)
    return conversation[last + 1 :]


def _report(question: str) -> str:
    return (
        f"# Offline demo research\n\n{DEMO}\n\n## Question\n\n{question}\n\n## Findings\n\n"
        f"- Nothing was looked up: this report stands where a deep-research model would put its findings [1].\n\n"
        f"## Sources\n\n1. {SOURCE}\n"
    )
