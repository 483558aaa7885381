"""The offline model's requests and answers in the shapes of the OpenAI API."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from .brain import SOURCE, Entry, Reply, is_research_model, pieces, tokens

Json = dict[str, Any]


class BadRequest(ValueError):
    """A request that cannot be understood; becomes a 400."""


def chat_conversation(body: Json) -> list[Entry]:
    """The conversation in a chat request."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list that is not empty")
    entries: list[Entry] = []
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequest("a message must be an object")
        text, role = _text(message.get("content")), message.get("role")
        if role == "tool":
            entries.append(Entry("output", text, call_id=str(message.get("tool_call_id"))))
            continue
        for call in message.get("tool_calls") or []:
            function = call.get("function") or {}
            entries.append(
                Entry("call", str(function.get("arguments")), str(call.get("id")), str(function.get("name")))
            )
        if role in ("user", "assistant"):
            entries.append(Entry(role, text))
        else:
            entries.append(Entry("system", text))
    return entries


def response_conversation(body: Json, earlier: list[Entry]) -> list[Entry]:
    """The conversation of a responses request, after what came before it."""
    given = body.get("input")
    if isinstance(given, str):
        return [*earlier, Entry("user", given)]
    if not isinstance(given, list) or not given:
        raise BadRequest("input must be a text or a list that is not empty")
    entries = list(earlier)
    for item in given:
        if not isinstance(item, dict):
            raise BadRequest("an input item must be an object")
        if item.get("type") == "function_call":
            entries.append(Entry("call", str(item.get("arguments")), str(item.get("call_id")), str(item.get("name"))))
        elif item.get("type") == "function_call_output":
            entries.append(Entry("output", _text(item.get("output")), call_id=str(item.get("call_id"))))
        elif item.get("role") in ("user", "assistant"):
            entries.append(Entry(item["role"], _text(item.get("content"))))
    called = {entry.call_id for entry in entries if entry.kind == "call"}
    for entry in entries:
        if entry.kind == "output" and entry.call_id not in called:
            raise BadRequest(f"No tool call found for function call output with call_id {entry.call_id}.")
    return entries


def tools_of(body: Json) -> tuple[list[str], bool]:
    """The names of the functions that a request offers, and whether it offers web search."""
    tools = [tool for tool in body.get("tools") or [] if isinstance(tool, dict)]
    functions = [str((tool.get("function") or tool).get("name")) for tool in tools if tool.get("type") == "function"]
    kinds = {str(tool.get("type")) for tool in tools}
    if is_research_model(str(body.get("model"))):
        if functions:
            raise BadRequest("Deep research models do not support function tools.")
        if not kinds & {"web_search_preview", "web_search", "mcp", "file_search"}:
            raise BadRequest("Deep research models require at least one of 'web_search_preview', 'mcp', 'file_search'.")
    if body.get("tool_choice") == "none":
        return [], False
    return functions, any(kind.startswith("web_search") for kind in kinds) or bool(body.get("web_search_options"))


def chat_completion(model: str, conversation: list[Entry], reply: Reply) -> Json:
    """A whole chat completion."""
    message: Json = {"role": "assistant", "content": reply.text or None}
    if reply.call:
        function = {"name": reply.call, "arguments": reply.arguments}
        message["tool_calls"] = [{"id": _id("call"), "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if reply.call else "stop"}
    usage = _usage(conversation, reply)
    return {
        "id": _id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["total_tokens"],
        },
    }


def chat_chunks(completion: Json) -> Iterator[Json]:
    """The same completion as the chunks of a stream."""
    message = completion["choices"][0]["message"]
    base = {**{name: completion[name] for name in ("id", "created", "model")}, "object": "chat.completion.chunk"}

    def chunk(delta: Json, reason: str | None = None) -> Json:
        return {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces(message["content"] or ""):
        yield chunk({"content": piece})
    if message.get("tool_calls"):
        yield chunk({"tool_calls": [{"index": 0, **message["tool_calls"][0]}]})
    yield chunk({}, completion["choices"][0]["finish_reason"])
    yield {**base, "choices": [], "usage": completion["usage"]}


def response(body: Json, conversation: list[Entry], reply: Reply) -> Json:
    """A completed response."""
    output: list[Json] = []
    if reply.searched:
        action = {"type": "search", "query": "offline demo"}
        output.append({"id": _id("ws"), "type": "web_search_call", "status": "completed", "action": action})
    if reply.call:
        call = {"name": reply.call, "arguments": reply.arguments, "call_id": _id("call"), "status": "completed"}
        output.append({"id": _id("fc"), "type": "function_call", **call})
    else:
        part = {"type": "output_text", "text": reply.text, "annotations": _annotations(reply), "logprobs": []}
        message = {"role": "assistant", "status": "completed", "content": [part]}
        output.append({"id": _id("msg"), "type": "message", **message})
    return {
        "id": _id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "background": bool(body.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "model": body.get("model"),
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": body.get("store") is not False,
        "temperature": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            **_usage(conversation, reply),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def unfinished(whole: Json, status: str) -> Json:
    """The response as it is told of while it is queued, in progress or cancelled."""
    return {**whole, "status": status, "output": [], "usage": None}


def response_events(whole: Json) -> Iterator[Json]:
    """The same response as the events of a stream."""
    yield {"type": "response.created", "response": unfinished(whole, "in_progress")}
    yield {"type": "response.in_progress", "response": unfinished(whole, "in_progress")}
    for index, item in enumerate(whole["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        yield {"type": "response.output_item.added", "output_index": index, "item": _empty(item)}
        if item["type"] == "message":
            yield from _text_events(item["content"][0], {**place, "content_index": 0})
        elif item["type"] == "function_call":
            yield {"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **place, "arguments": item["arguments"]}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": "response.completed", "response": whole}


def conversation_after(conversation: list[Entry], whole: Json) -> list[Entry]:
    """The conversation with a response's own output added, for the next turn."""
    added = []
    for item in whole["output"]:
        if item["type"] == "message":
            added.append(Entry("assistant", item["content"][0]["text"]))
        elif item["type"] == "function_call":
            added.append(Entry("call", item["arguments"], item["call_id"], item["name"]))
    return [*conversation, *added]


def _text_events(part: Json, place: Json) -> Iterator[Json]:
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": "", "annotations": []}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


def _empty(item: Json) -> Json:
    if item["type"] == "message":
        return {**item, "status": "in_progress", "content": []}
    return {**item, "arguments": ""} if item["type"] == "function_call" else item


def _annotations(reply: Reply) -> list[Json]:
    start = reply.text.find(SOURCE)
    if not reply.searched or start < 0:
        return []
    place = {"start_index": start, "end_index": start + len(SOURCE)}
    return [{"type": "url_citation", "url": SOURCE, "title": "Offline demo", **place}]


def _usage(conversation: list[Entry], reply: Reply) -> dict[str, int]:
    used = sum(tokens(entry.text) for entry in conversation)
    made = tokens(reply.text + reply.arguments)
    return {"input_tokens": used, "output_tokens": made, "total_tokens": used + made}


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
