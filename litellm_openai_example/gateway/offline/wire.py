"""The wire formats of the OpenAI API: requests to the offline model, and its completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence

from ...json_object import JsonObject
from .model import BadRequest, Completion, Item, Request, check, pieces, tokens

# The shape of an answer when JSON is wanted without a schema.
_ANY_JSON = {"type": "object", "properties": {"answer": {"type": "string"}}}


def chat_request(body: JsonObject) -> Request:
    """Parse the body of a chat request. Raises BadRequest."""
    items: list[Item] = []
    # A message with several calls becomes several items, as in the other API.
    for message in _objects(body.get("messages"), "messages", empty=False):
        text, role = _text(message.get("content")), message.get("role")
        if role == "tool":
            items.append(Item("output", text, call_id=str(message.get("tool_call_id"))))
            continue
        for call in _objects(message.get("tool_calls"), "tool_calls"):
            function = _object(call.get("function"))
            items.append(Item("call", str(function.get("arguments")), str(call.get("id")), str(function.get("name"))))
        items.append(Item(role if role in ("user", "assistant") else "system", text))
    _check_calls(items)
    return _request(body, items, _object(body.get("response_format")))


def response_request(body: JsonObject, earlier: Sequence[Item]) -> Request:
    """Parse the body of a responses request that continues a conversation. Raises BadRequest."""
    items = list(earlier)
    if isinstance(body.get("instructions"), str):
        items.append(Item("system", body["instructions"]))
    for item in input_items(body):
        kind = item.get("type", "message")
        if kind == "function_call":
            items.append(Item("call", str(item.get("arguments")), str(item.get("call_id")), str(item.get("name"))))
        elif kind == "function_call_output":
            items.append(Item("output", _text(item.get("output")), call_id=str(item.get("call_id"))))
        elif kind == "message":
            role = item.get("role")
            items.append(Item(role if role in ("user", "assistant") else "system", _text(item.get("content"))))
    _check_calls(items)
    return _request(body, items, _object(_object(body.get("text")).get("format")))


def input_items(body: JsonObject) -> list[JsonObject]:
    """Return the input items of a responses request. Raises BadRequest."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return _objects(given, "input", empty=False)


def chat_completion(request: Request, completion: Completion) -> JsonObject:
    """Return a whole chat completion."""
    message: JsonObject = {"role": "assistant", "content": completion.text or None, "refusal": None}
    if completion.call:
        function = {"name": completion.call, "arguments": completion.arguments}
        message["tool_calls"] = [{"id": _id("call"), "type": "function", "function": function}]
    if citations := _citations(completion):
        message["annotations"] = [{"type": "url_citation", "url_citation": one} for one in citations]
    usage = _usage(request, completion)
    return {
        "id": _id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if completion.call else "stop"}],
        "usage": {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["total_tokens"],
        },
    }


def chat_chunks(completion: JsonObject, *, with_usage: bool) -> Iterator[JsonObject]:
    """Yield a chat completion as the chunks of a stream."""
    message = completion["choices"][0]["message"]
    base = {**{name: completion[name] for name in ("id", "created", "model")}, "object": "chat.completion.chunk"}

    def chunk(delta: JsonObject, reason: str | None = None) -> JsonObject:
        return {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces(message["content"] or ""):
        yield chunk({"content": piece})
    # As OpenAI streams them: the name with empty arguments first, then pieces of the arguments under the same index.
    for call in message.get("tool_calls", ()):
        start = {**call["function"], "arguments": ""}
        yield chunk({"tool_calls": [{**call, "index": 0, "function": start}]})
        for piece in pieces(call["function"]["arguments"]):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    yield chunk({}, completion["choices"][0]["finish_reason"])
    if with_usage:
        # OpenAI sends the usage in a last chunk without choices.
        yield {**base, "choices": [], "usage": completion["usage"]}


def response(body: JsonObject, request: Request, completion: Completion) -> JsonObject:
    """Return a completed response."""
    output: list[JsonObject] = []
    if completion.sources:
        action: JsonObject = {"type": "search", "query": "offline demo"}
        # OpenAI lists the pages of a search only on request.
        if "web_search_call.action.sources" in (body.get("include") or ()):
            action["sources"] = [{"type": "url", "url": url} for url, _ in completion.sources]
        output.append({"id": _id("ws"), "type": "web_search_call", "status": "completed", "action": action})
    if completion.call:
        call = {
            "name": completion.call,
            "arguments": completion.arguments,
            "call_id": _id("call"),
            "status": "completed",
        }
        output.append({"id": _id("fc"), "type": "function_call", **call})
    else:
        annotations = [{"type": "url_citation", **one} for one in _citations(completion)]
        part = {"type": "output_text", "text": completion.text, "annotations": annotations, "logprobs": []}
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
        "model": request.model,
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
            **_usage(request, completion),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def unfinished(whole: JsonObject, status: str) -> JsonObject:
    """Return the response as reported while it is queued or in progress, or once it is cancelled."""
    return {**whole, "status": status, "output": [], "usage": None}


def response_events(whole: JsonObject) -> Iterator[JsonObject]:
    """Yield a response as the events of a stream."""
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


def conversation_after(request: Request, whole: JsonObject) -> list[Item]:
    """Return the conversation for the next turn: with the output, without the instructions, which hold for one turn."""
    items = [item for item in request.conversation if item != Item("system", str(whole["instructions"]))]
    for item in whole["output"]:
        if item["type"] == "message":
            items.append(Item("assistant", item["content"][0]["text"]))
        elif item["type"] == "function_call":
            items.append(Item("call", item["arguments"], item["call_id"], item["name"]))
    return items


def _request(body: JsonObject, conversation: list[Item], shape: JsonObject) -> Request:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("you must provide a model parameter")
    tools = _objects(body.get("tools"), "tools")
    kinds = {str(tool.get("type")) for tool in tools}
    described = [_object(tool.get("function")) or tool for tool in tools if tool.get("type") == "function"]
    functions = {str(one.get("name")): _object(one.get("parameters")) for one in described}
    effort = _object(body.get("reasoning")).get("effort") or body.get("reasoning_effort")
    # Check the tools as they were sent, before tool_choice hides them.
    check(model, kinds, functions=bool(functions), effort=effort)
    searches = any(kind.startswith("web_search") for kind in kinds) or bool(body.get("web_search_options"))
    choice = body.get("tool_choice")
    if choice == "none":
        functions, searches = {}, False
    return Request(
        model, conversation, functions, _forced(choice, functions), searches, _shape(shape), str(effort or "")
    )


def _forced(choice: object, functions: dict[str, JsonObject]) -> str:
    if choice == "required" and functions:
        return next(iter(functions))
    # The chat API nests the name, the Responses API does not.
    name = (_object(_object(choice).get("function")) or _object(choice)).get("name")
    if not isinstance(name, str):
        return ""
    if name not in functions:
        raise BadRequest(f"Tool choice '{name}' not found in 'tools' parameter.")
    return name


def _shape(wanted: JsonObject) -> JsonObject | None:
    # Nested below `json_schema` in the chat API, and beside `type` in the Responses API.
    if wanted.get("type") == "json_schema":
        return _object((_object(wanted.get("json_schema")) or wanted).get("schema"))
    return _ANY_JSON if wanted.get("type") == "json_object" else None


def _check_calls(items: list[Item]) -> None:
    # Both APIs refuse an output without its call, such as one from another conversation.
    called = {item.call_id for item in items if item.kind == "call"}
    for item in items:
        if item.kind == "output" and item.call_id not in called:
            raise BadRequest(f"No tool call found for function call output with call_id {item.call_id}.")


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


def _citations(completion: Completion) -> list[JsonObject]:
    """Return the places in the text that cite a source, by its address or by its number in brackets."""
    found = []
    for number, (url, title) in enumerate(completion.sources, 1):
        mark = url if url in completion.text else f"[{number}]"
        start = completion.text.find(mark)
        if start >= 0:
            place = {"start_index": start, "end_index": start + len(mark)}
            found.append({"url": url, "title": title, **place})
    return found


def _usage(request: Request, completion: Completion) -> dict[str, int]:
    used = sum(tokens(item.text) for item in request.conversation)
    made = tokens(completion.text + completion.arguments)
    return {"input_tokens": used, "output_tokens": made, "total_tokens": used + made}


def _objects(value: object, name: str, *, empty: bool = True) -> list[JsonObject]:
    """Return a list of JSON objects; null is an empty list."""
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
