"""The offline model's requests and answers in the shapes of the OpenAI API."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence

from ...json_object import JsonObject
from .model import Entry, Reply, Turn, pieces, tokens
from .rules import BadRequest, check

# What a model answers when JSON is wanted and no schema says which.
_ANY_JSON = {"type": "object", "properties": {"answer": {"type": "string"}}}


def chat_turn(body: JsonObject) -> Turn:
    """What a chat request asks."""
    entries: list[Entry] = []
    for message in _objects(body.get("messages"), "messages", empty=False):
        text, role = _text(message.get("content")), message.get("role")
        if role == "tool":
            entries.append(Entry("output", text, call_id=str(message.get("tool_call_id"))))
            continue
        for call in _objects(message.get("tool_calls"), "tool_calls"):
            function = _object(call.get("function"))
            entries.append(
                Entry("call", str(function.get("arguments")), str(call.get("id")), str(function.get("name")))
            )
        entries.append(Entry(role if role in ("user", "assistant") else "system", text))
    _check_calls(entries)
    return _turn(body, entries, _object(body.get("response_format")))


def response_turn(body: JsonObject, earlier: Sequence[Entry]) -> Turn:
    """What a responses request asks, after what came before it."""
    entries = list(earlier)
    if isinstance(body.get("instructions"), str):
        entries.append(Entry("system", body["instructions"]))
    for item in input_items(body):
        kind = item.get("type", "message")
        if kind == "function_call":
            entries.append(Entry("call", str(item.get("arguments")), str(item.get("call_id")), str(item.get("name"))))
        elif kind == "function_call_output":
            entries.append(Entry("output", _text(item.get("output")), call_id=str(item.get("call_id"))))
        elif kind == "message":
            role = item.get("role")
            entries.append(Entry(role if role in ("user", "assistant") else "system", _text(item.get("content"))))
    _check_calls(entries)
    return _turn(body, entries, _object(_object(body.get("text")).get("format")))


def input_items(body: JsonObject) -> list[JsonObject]:
    """The items of a responses request's input."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return _objects(given, "input", empty=False)


def chat_completion(turn: Turn, reply: Reply) -> JsonObject:
    """A whole chat completion."""
    message: JsonObject = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if reply.call:
        function = {"name": reply.call, "arguments": reply.arguments}
        message["tool_calls"] = [{"id": _id("call"), "type": "function", "function": function}]
    if citations := _citations(reply):
        message["annotations"] = [{"type": "url_citation", "url_citation": one} for one in citations]
    usage = _usage(turn, reply)
    return {
        "id": _id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": turn.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if reply.call else "stop"}],
        "usage": {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["total_tokens"],
        },
    }


def chat_chunks(completion: JsonObject, *, with_usage: bool) -> Iterator[JsonObject]:
    """The same completion as the chunks of a stream."""
    message = completion["choices"][0]["message"]
    base = {**{name: completion[name] for name in ("id", "created", "model")}, "object": "chat.completion.chunk"}

    def chunk(delta: JsonObject, reason: str | None = None) -> JsonObject:
        return {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces(message["content"] or ""):
        yield chunk({"content": piece})
    for call in message.get("tool_calls", ()):
        start = {**call["function"], "arguments": ""}
        yield chunk({"tool_calls": [{**call, "index": 0, "function": start}]})
        for piece in pieces(call["function"]["arguments"]):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    yield chunk({}, completion["choices"][0]["finish_reason"])
    if with_usage:
        yield {**base, "choices": [], "usage": completion["usage"]}


def response(body: JsonObject, turn: Turn, reply: Reply) -> JsonObject:
    """A completed response."""
    output: list[JsonObject] = []
    if reply.sources:
        action: JsonObject = {"type": "search", "query": "offline demo"}
        if "web_search_call.action.sources" in (body.get("include") or ()):
            action["sources"] = [{"type": "url", "url": url} for url, _ in reply.sources]
        output.append({"id": _id("ws"), "type": "web_search_call", "status": "completed", "action": action})
    if reply.call:
        call = {"name": reply.call, "arguments": reply.arguments, "call_id": _id("call"), "status": "completed"}
        output.append({"id": _id("fc"), "type": "function_call", **call})
    else:
        annotations = [{"type": "url_citation", **one} for one in _citations(reply)]
        part = {"type": "output_text", "text": reply.text, "annotations": annotations, "logprobs": []}
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
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": turn.model,
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
            **_usage(turn, reply),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def unfinished(whole: JsonObject, status: str) -> JsonObject:
    """The response as it is told of while it is queued, in progress or cancelled."""
    return {**whole, "status": status, "output": [], "usage": None}


def response_events(whole: JsonObject) -> Iterator[JsonObject]:
    """The same response as the events of a stream."""
    yield {"type": "response.created", "response": unfinished(whole, "in_progress")}
    yield {"type": "response.in_progress", "response": unfinished(whole, "in_progress")}
    for index, item in enumerate(whole["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        yield {"type": "response.output_item.added", "output_index": index, "item": _begun(item)}
        if item["type"] == "message":
            yield from _text_events(item["content"][0], {**place, "content_index": 0})
        elif item["type"] == "function_call":
            for piece in pieces(item["arguments"]):
                yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **place, **done}
        else:
            for step in ("in_progress", "searching", "completed"):
                yield {"type": f"response.web_search_call.{step}", **place}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


def conversation_after(turn: Turn, whole: JsonObject) -> list[Entry]:
    """The conversation with a response's own output added, for the next turn; instructions hold for one turn only."""
    entries = [entry for entry in turn.conversation if entry != Entry("system", str(whole["instructions"]))]
    for item in whole["output"]:
        if item["type"] == "message":
            entries.append(Entry("assistant", item["content"][0]["text"]))
        elif item["type"] == "function_call":
            entries.append(Entry("call", item["arguments"], item["call_id"], item["name"]))
    return entries


def _turn(body: JsonObject, conversation: list[Entry], shape: JsonObject) -> Turn:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("you must provide a model parameter")
    tools = _objects(body.get("tools"), "tools")
    kinds = {str(tool.get("type")) for tool in tools}
    described = [_object(tool.get("function")) or tool for tool in tools if tool.get("type") == "function"]
    functions = {str(one.get("name")): _object(one.get("parameters")) for one in described}
    effort = _object(body.get("reasoning")).get("effort") or body.get("reasoning_effort")
    check(model, kinds, functions=bool(functions), effort=effort)
    searches = any(kind.startswith("web_search") for kind in kinds) or bool(body.get("web_search_options"))
    choice = body.get("tool_choice")
    if choice == "none":
        functions, searches = {}, False
    return Turn(model, conversation, functions, _forced(choice, functions), searches, _shape(shape), str(effort or ""))


def _forced(choice: object, functions: dict[str, JsonObject]) -> str:
    if choice == "required" and functions:
        return next(iter(functions))
    name = (_object(_object(choice).get("function")) or _object(choice)).get("name")
    if not isinstance(name, str):
        return ""
    if name not in functions:
        raise BadRequest(f"Tool choice '{name}' not found in 'tools' parameter.")
    return name


def _shape(wanted: JsonObject) -> JsonObject | None:
    if wanted.get("type") == "json_schema":
        return _object((_object(wanted.get("json_schema")) or wanted).get("schema"))
    return _ANY_JSON if wanted.get("type") == "json_object" else None


def _check_calls(entries: list[Entry]) -> None:
    called = {entry.call_id for entry in entries if entry.kind == "call"}
    for entry in entries:
        if entry.kind == "output" and entry.call_id not in called:
            raise BadRequest(f"No tool call found for function call output with call_id {entry.call_id}.")


def _text_events(part: JsonObject, place: JsonObject) -> Iterator[JsonObject]:
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": "", "annotations": []}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    for index, annotation in enumerate(part["annotations"]):
        found = {"annotation_index": index, "annotation": annotation}
        yield {"type": "response.output_text.annotation.added", **place, **found}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


def _begun(item: JsonObject) -> JsonObject:
    nothing_yet: dict[str, JsonObject] = {"message": {"content": []}, "function_call": {"arguments": ""}}
    return {**item, "status": "in_progress", **nothing_yet.get(item["type"], {})}


def _citations(reply: Reply) -> list[JsonObject]:
    """The places in the text that name a source, by its address or by its number in brackets."""
    found = []
    for number, (url, title) in enumerate(reply.sources, 1):
        mark = url if url in reply.text else f"[{number}]"
        start = reply.text.find(mark)
        if start >= 0:
            place = {"start_index": start, "end_index": start + len(mark)}
            found.append({"url": url, "title": title, **place})
    return found


def _usage(turn: Turn, reply: Reply) -> dict[str, int]:
    used = sum(tokens(entry.text) for entry in turn.conversation)
    made = tokens(reply.text + reply.arguments)
    return {"input_tokens": used, "output_tokens": made, "total_tokens": used + made}


def _objects(value: object, name: str, *, empty: bool = True) -> list[JsonObject]:
    """A list of JSON objects; null is an empty one."""
    if value is None:
        value = []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRequest(f"{name} must be a list of objects")
    if not value and not empty:
        raise BadRequest(f"{name} must not be empty")
    return value


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
