"""Finish reasons and statuses. An answer counts as whole only if its finish reason is known to mean that.

Every provider has its own words. Gateways pass them on in upper or lower case, as names of an enum, or in place of a
status. Sources: the finish reasons of OpenAI, Anthropic, Gemini, Cohere, Mistral, Bedrock and Hugging Face, and
LiteLLM's table of them, which maps some failures to `stop`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ..errors import one_line

REASONS = ("finish_reason", "native_finish_reason")  # the fields of a choice
TERMINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})
RUNNING = frozenset({"queued", "in_progress"})
_KNOWN = TERMINAL | RUNNING

_WHOLE = frozenset(
    {"stop", "stop_sequence", "stop_token", "stop_string", "stop_str", "stopped", "end_turn", "end", "eos", "eos_token"}
    | {"eos_found", "end_of_text", "end_of_sequence", "complete", "completed", "finish", "finished", "done", "success"}
    | {"succeeded", "ok"}
)
_LENGTH = frozenset(
    {"length", "max_tokens", "max_output_tokens", "max_length", "model_length", "model_context_window_exceeded"}
    | {"continuation", "compaction", "token_limit", "max_completion_tokens", "context_length_exceeded"}
)
_FILTER = frozenset(
    {"content_filter", "content_filtered", "safety", "recitation", "prohibited_content", "blocklist", "spii"}
    | {"refusal", "language", "sensitive", "guardrail_intervened", "error_toxic", "image_safety", "content_policy"}
)
_TOOLS = frozenset({"tool_calls", "function_call", "tool_use", "tool_call"})
# Words for a broken answer, which some bridges put in place of a status.
_BROKEN = frozenset(
    {"insufficient_system_resource", "network_error", "abort", "aborted", "timeout", "malformed_function_call"}
    | {"malformed_response", "interrupted", "truncated", "partial"}
)
_ABSENT = frozenset({"", "null", "none", "nil", "undefined", "unspecified"})
# A response in one of these states can never be retrieved.
_GONE = frozenset(
    {"expired", "deleted", "not_found", "rejected", "terminated", "gone", "removed", "purged", "timed_out"}
)
_CAMEL_CASE = re.compile("(?<=[a-z])(?=[A-Z])")  # between the words of maxTokens
_STATUSES = {
    **dict.fromkeys(_GONE, "failed"),
    "canceled": "cancelled",
    "error": "failed",
    "errored": "failed",
    "failure": "failed",
    "pending": "queued",
    "running": "in_progress",
    "processing": "in_progress",
    "started": "in_progress",
}


def read_reason(value: object) -> str:
    """Return a finish reason unchanged; empty if it is absent, or a word for that, such as "null".

    Some gateways put it into a list or an object: `{"type": "stop"}`, `{"reason": "stop"}`.
    """
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = next((value[name] for name in ("reason", "type", "raw") if value.get(name)), value)
    if is_absent(value):
        return ""
    if isinstance(value, str):
        return value
    return "of an unknown kind" if value else ""


def read_status(value: object) -> str:
    """Return a response's status in the words of the Responses API, or unchanged if it is unknown.

    Some bridges put a finish reason there.
    """
    given = value if isinstance(value, str) else ""
    word = _plain(given)
    if word in _KNOWN:
        return word
    if word in _ABSENT:
        return ""
    if word in _WHOLE:
        return "completed"
    if word in _LENGTH | _FILTER | _TOOLS | _BROKEN:
        return "incomplete"
    return _STATUSES.get(word, given)


def is_absent(value: object) -> bool:
    """Is a value a word for none, such as "null", or blank? A sentence is not, though its last word may be one."""
    if not isinstance(value, str) or len(value.split()) > 1 or value.rstrip().endswith("."):
        return False
    return _plain(value) in _ABSENT


def is_gone(status: str) -> bool:
    """Does a status mean that the response can never be retrieved?"""
    return _plain(status) in _GONE


class CutKind(StrEnum):
    """The kind of reason why an answer is incomplete, for programs to branch on."""

    LIMIT = "limit"  # of tokens, of the context, of tool calls
    FILTER = "filter"
    TOOL = "tool"  # the model waits for the result of a tool
    TOO_LARGE = "too_large"  # only its beginning was read
    BROKEN = "broken"  # the stream ended before it was complete
    OTHER = "other"


@dataclass(frozen=True)
class Cut:
    """The reason why an answer is incomplete; `str()` is for people."""

    kind: CutKind
    words: str

    def __str__(self) -> str:
        return self.words


def cut_short(*reasons: str) -> Cut | None:
    """Return the reason why an answer with these finish reasons is incomplete; None if all of them mean a whole one."""
    return next((cut_by(reason) for reason in reasons if reason and _plain(reason) not in _WHOLE), None)


def cut_by(reason: str) -> Cut:
    """Return the meaning of a provider's finish reason."""
    word, shown = _plain(reason), one_line(reason)
    if word in _LENGTH:
        return Cut(CutKind.LIMIT, f"the length limit was reached ({shown})")
    if word in _FILTER:
        return Cut(CutKind.FILTER, f"the content filter stopped it ({shown})")
    if word in _TOOLS:
        return Cut(CutKind.TOOL, f"the model wants to call a tool ({shown})")
    return Cut(_kind_of_unknown(word), f"the provider stopped early ({shown})")


def _kind_of_unknown(word: str) -> CutKind:
    # New reasons are formed from the same few words, such as max_tool_calls.
    if re.search("max|length|limit", word):
        return CutKind.LIMIT
    return CutKind.FILTER if re.search("filter|safety|policy", word) else CutKind.OTHER


def _plain(word: str) -> str:
    word = _CAMEL_CASE.sub("_", word.strip()).lower().replace("-", "_").replace(" ", "_")
    return word.rpartition(".")[2].removeprefix("finish_reason_")
