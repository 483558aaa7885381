"""What an answer holds besides text, in words: what to say when nothing else came."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import one_line
from ..json_object import JsonObject
from .lenient import as_dict, as_list, as_str

# Types of output items and of parts of a message (openai.types.responses, openai.types.chat; Anthropic's `thinking`).
_WORDS = {
    "apply_patch_call": "a patch",
    "audio": "audio",
    "code_interpreter_call": "a run of the code interpreter",
    "compaction": "a compacted context",
    "computer_call": "a computer call",
    "custom_tool_call": "a call of a custom tool",
    "file_search_call": "a file search",
    "image": "an image",
    "image_generation_call": "an image",
    "image_url": "an image",
    "input_audio": "audio",
    "input_image": "an image",
    "local_shell_call": "a shell command",
    "mcp_approval_request": "a request to approve an MCP call",
    "mcp_call": "an MCP call",
    "mcp_list_tools": "a list of MCP tools",
    "output_audio": "audio",
    "output_image": "an image",
    "reasoning": "reasoning",
    "shell_call": "a shell command",
    "thinking": "reasoning",
    "redacted_thinking": "reasoning",
    "tool_search_call": "a search for tools",
    "tool_use": "a call of a tool",
    "web_search_call": "a web search",
}
# They hold the text, a refusal, or a call that is told by its own name.
_TOLD_ELSEWHERE = frozenset({"", "function_call", "message", "output_text", "refusal", "text"})


def besides_text(items: Iterable[JsonObject]) -> tuple[str, ...]:
    """Return what the output items of a response, and the parts of its messages, are; each kind once."""
    found: dict[str, None] = {}
    for item in items:
        for one in (item, *map(as_dict, as_list(item.get("content")))):
            if words := _words(one):
                found[words] = None
    return tuple(found)


def besides_message(message: JsonObject) -> tuple[str, ...]:
    """Return what the message of a chat completion holds besides text: pictures, sound, reasoning."""
    found = dict.fromkeys(besides_text([{"content": message.get("content")}]))
    if message.get("images"):
        found["an image"] = None
    if message.get("audio"):
        found["audio"] = None
    if message.get("reasoning_content") or message.get("reasoning") or message.get("thinking_blocks"):
        found["reasoning"] = None
    return tuple(found)


def _words(item: JsonObject) -> str:
    kind = as_str(item.get("type"))
    if kind in _TOLD_ELSEWHERE:
        return ""
    words = _WORDS.get(kind) or f"an item of the type {one_line(kind)[:60]}"
    name = one_line(as_str(item.get("name")))[:60]
    return f"{words} ({name})" if name else words
