"""What an answer says: text, calls, sources, usage and ids out of JSON that may hold anything.

Gateways and providers leave fields out, set them to null or change their type, so nothing here relies on a
shape: what cannot be read counts as absent, and it is for the caller to say that an answer is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from ..error_table import words_of
from ..errors import one_line
from ..json_object import JsonObject
from ..transport.headers import read_cost
from .items import besides_message, besides_text
from .lenient import as_dict, as_id, as_int, as_list, as_str, join, sendable
from .reasons import REASONS, RUNNING, Cut, CutKind, cut_by, cut_short, ends_of, is_gone, read_reason, read_status
from .sources import Source, anthropic_pages, read_sources, search_results

# Parts of a message that are its text; others (thinking, tool_use, image, ...) are not the answer.
_TEXT_PARTS = frozenset({"text", "output_text", "input_text", "text_delta", "message"})
_OTHER_ROLES = frozenset({"user", "system", "developer", "tool"})  # some servers repeat the input in the output
_DEEPEST = 6  # levels of parts within parts


@dataclass(frozen=True)
class FunctionCall:
    """A function that the model asks for; `arguments` is its JSON text, not yet checked."""

    call_id: str
    name: str
    arguments: str
    item_id: str = ""


@dataclass(frozen=True)
class Usage:
    """Tokens as counted by the provider, and US dollars where a gateway adds them; None where it does not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Answer:
    """What one reply says, whichever API it came from.

    `status` is that of the Responses API: completed, incomplete, failed, cancelled, queued, in_progress; an
    unknown one is kept as it came. `cut_short` tells why the text is only a part of the answer. `sources` holds each
    page once, cited ones first; `searched` tells whether there is any sign that the model searched. `besides` names
    what came besides text, such as an image.
    """

    text: str = ""
    status: str = ""
    id: str | None = None
    model: str | None = None
    refusal: str = ""
    cut_short: Cut | None = None
    error_code: str | None = None
    error_message: str | None = None
    calls: tuple[FunctionCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    sources: tuple[Source, ...] = ()
    searched: bool = False
    output: tuple[JsonObject, ...] = ()
    besides: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the reply says of itself that it is no answer."""
        return self.status in ("failed", "cancelled") or self.error_message is not None


def as_beginning(answer: Answer, words: str) -> Answer:
    """The answer in a body of which only the beginning was read: as long as it does not say that it runs, a part."""
    if answer.status in RUNNING:
        return answer
    return replace(answer, status="incomplete", cut_short=Cut(CutKind.TOO_LARGE, words), calls=())


def read_response(body: object) -> Answer:
    """Read a response object of the Responses API; a chat completion in its place is read as one."""
    data = as_dict(body)
    if as_list(data.get("choices")) and "output" not in data:
        return read_chat(data)
    items = tuple(item for item in as_list(data.get("output")) if isinstance(item, dict))
    messages = [item for item in items if is_message(item)]
    searches = [item for item in items if item.get("type") == "web_search_call"]
    notes = (as_dict(part).get("annotations") for item in messages for part in as_list(item.get("content")))
    sources = read_sources(*notes, *anthropic_pages(data), *map(search_results, searches))
    code, message = read_error(data.get("error") or data.get("last_error"))
    status, reason = _ended(data, messages)
    text = _messages_text(messages) or text_of(data.get("output_text"))
    if gone := _gone(data, status):
        status, reason, message = ("incomplete", gone, message) if text else ("failed", "", message or gone)
    return Answer(
        text=text,
        status=status,
        id=as_id(data.get("id")) or None,
        model=as_str(data.get("model")) or None,
        refusal=_each_once(words for item in items for words in (refusal_of(item.get("content")), _refusal(item))),
        cut_short=cut_by(reason or "incomplete") if status == "incomplete" else None,
        error_code=code,
        error_message=message,
        calls=tuple(_function_call(item) for item in items if item.get("type") == "function_call"),
        usage=_usage(data.get("usage")),
        sources=sources,
        searched=bool(searches or sources),
        output=items,
        besides=besides_text(items),
    )


def read_chat(body: object) -> Answer:
    """Read a chat completion, or a response in its place.

    One choice is asked for, but some bridges spread one answer over several: the first that holds a text counts.
    """
    data = as_dict(body)
    if as_list(data.get("output")) and "choices" not in data:
        return read_response(data)
    choices = choices_of(data)
    messages = [_message_of(choice) for choice in choices] or [{}]
    first = next((n for says in (_says, _refuses, _calls) for n, one in enumerate(messages) if says(one)), 0)
    message = messages[first]
    places = ends_of(choices[first] if choices else {}, message)
    code, error = read_error(data.get("error") or next((one["error"] for one in places if one.get("error")), None))
    searches = as_list(as_dict(message.get("provider_specific_fields")).get("web_search_calls"))
    given = (message.get("annotations"), data.get("search_results"), data.get("citations"), *anthropic_pages(message))
    sources = read_sources(*given, *map(search_results, searches))
    # LiteLLM calls an end that it does not know `stop`, and keeps the provider's own word for it beside.
    reason = cut_short(*(read_reason(place.get(name)) for place in places for name in REASONS))
    return Answer(
        text=text_of(message.get("content")),
        status="incomplete" if reason else "completed",
        id=as_id(data.get("id")) or None,
        model=as_str(data.get("model")) or None,
        refusal=_each_once([refusal_of(message.get("content")), _refusal(message)]),
        cut_short=reason,
        error_code=code,
        error_message=error,
        calls=_calls(message) or next(filter(None, map(_calls, messages)), ()),
        usage=_usage(data.get("usage")),
        sources=sources,
        searched=bool(searches or sources),
        besides=tuple(dict.fromkeys(words for one in messages for words in besides_message(one))),
    )


def choices_of(data: JsonObject) -> list[JsonObject]:
    """Return the choices in the order of their indexes; one without an index has that of its place."""
    given = [(position, one) for position, one in enumerate(as_list(data.get("choices"))) if isinstance(one, dict)]
    return [one for _, one in sorted(given, key=lambda placed: index_of(placed[1], placed[0]))]


def index_of(choice: JsonObject, position: int) -> int:
    """Return the index of a choice, or its position in the list if it gives none."""
    index = as_int(choice.get("index"))
    return position if index is None else index


def read_error(error: object) -> tuple[str | None, str | None]:
    """Code and message of an `error` field, which may be an object, a text, or anything else; None if absent."""
    if not error or (isinstance(error, dict) and not any(error.values())):  # some send an empty one with each answer
        return None, None
    if isinstance(error, dict):
        code = as_str(error.get("code")) or as_str(error.get("type"))
        return code or None, words_of(error) or code or "an error without a message"
    if isinstance(error, list):
        return read_error(error[0])
    return None, error if isinstance(error, str) else "an error without a message"


def is_message(item: JsonObject) -> bool:
    """Is an output item a message of the model? A gateway may leave its type out, or put a part in its place."""
    if as_str(item.get("role")) in _OTHER_ROLES:
        return False
    kind = item.get("type")
    return kind == "message" or kind == "output_text" or (kind is None and ("content" in item or "text" in item))


def message_text(item: JsonObject) -> str:
    """The text of a message item."""
    return text_of(item.get("content", item))


def text_of(content: object, depth: int = 0) -> str:
    """A text however it is given: plain, as a number, as `{"text": ...}` or `{"value": ...}`, or in a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, int | float) and not isinstance(content, bool):  # "42" that a template made 42 of
        return json.dumps(content)
    if depth > _DEEPEST:
        return ""
    if isinstance(content, list):
        return join([text_of(part, depth + 1) for part in content])
    part = as_dict(content)
    if part.get("type") is not None and as_str(part["type"]).lower() not in _TEXT_PARTS:
        return ""
    # Only what is there is read: nothing, read as deep as parts may lie, would cost thousands of calls at every look.
    found = (
        text_of(part[name], depth + 1) for name in ("text", "value", "content", "parts") if part.get(name) is not None
    )
    return next((text for text in found if text), "")


def refusal_of(content: object) -> str:
    """Return what a message's parts say in place of an answer."""
    parts = content if isinstance(content, list) else [content]
    return join([_refusal(part) or _text_of_refusal(part) for part in map(as_dict, parts)])


def refusal_words(refusal: object, depth: int = 0) -> str:
    """Return the words of a `refusal` field: a text, a part, or a list of them."""
    if isinstance(refusal, list):
        return join([refusal_words(part, depth + 1) for part in refusal]) if depth <= _DEEPEST else ""
    if isinstance(refusal, dict) and depth <= _DEEPEST:
        return refusal_words(refusal.get("refusal"), depth + 1) or text_of({**refusal, "type": None})
    return as_str(refusal)


def blank_line(before: str, after: str) -> str:
    """What must stand between two texts so that a blank line sets them apart."""
    have = len(before[-2:]) - len(before[-2:].rstrip("\n")) + len(after[:2]) - len(after[:2].lstrip("\n"))
    return "\n" * max(0, 2 - have)


def _ended(data: JsonObject, messages: list[JsonObject]) -> tuple[str, str]:
    """A response's status, and why it is incomplete if it is."""
    given = data.get("status")
    status = read_status(given)
    details = data.get("incomplete_details")
    reason = read_reason(as_dict(details).get("reason")) or as_str(details)
    reason = reason or next((word for word in map(read_reason, map(data.get, REASONS)) if cut_short(word)), "")
    statuses = (read_status(item.get("status")) for item in messages)
    if status in ("completed", "") and (cut_short(reason) or "incomplete" in statuses):
        return "incomplete", reason
    if status == "incomplete" and not reason and as_str(given).lower() != "incomplete":
        reason = as_str(given)
    return status, reason


def _gone(data: JsonObject, status: str) -> str:
    """Return why a response can never be had, in words; empty if it can."""
    if data.get("deleted") is True or as_str(data.get("object")).endswith(".deleted"):
        return "the response was deleted"
    given = as_str(data.get("status"))
    return f"the response is {one_line(given).lower()}" if status == "failed" and is_gone(given) else ""


def _messages_text(messages: list[JsonObject]) -> str:
    """Return the texts of the messages, each once: an answer may repeat the commentary, and a message be sent twice."""
    texts: list[str] = []
    seen: set[str] = set()
    named: dict[str, int] = {}
    apart = True
    for item in messages:
        text, name, is_part = message_text(item), as_id(item.get("id")), item.get("type") == "output_text"
        if is_part and not apart and text:  # parts of one message in place of messages
            texts[-1] = join([texts[-1], text])
            continue
        earlier = named.get(name) if name else None
        if earlier is not None and text.startswith(texts[earlier]):  # sent again, and longer
            texts[earlier] = text
        elif text and text.strip() not in seen:
            named[name] = len(texts)
            texts.append(text)
            apart = not is_part
        seen.add(text.strip())
    return join(texts[:1] + [blank_line(before, after) + after for before, after in pairwise(texts)])


def _message_of(choice: JsonObject) -> JsonObject:
    message = choice.get("message") or choice.get("delta")
    return message if isinstance(message, dict) else {"content": message or choice.get("text")}


def _says(message: JsonObject) -> bool:
    return bool(text_of(message.get("content")))


def _refuses(message: JsonObject) -> bool:
    return bool(_refusal(message) or refusal_of(message.get("content")))


def _refusal(place: JsonObject) -> str:
    return refusal_words(place.get("refusal"))


def _text_of_refusal(part: JsonObject) -> str:
    return text_of({**part, "type": None}) if part.get("type") == "refusal" else ""


def _each_once(texts: Iterable[str]) -> str:
    return join(list(dict.fromkeys(texts)))


def _calls(message: JsonObject) -> tuple[FunctionCall, ...]:
    calls = [_chat_call(call) for call in as_list(message.get("tool_calls")) if isinstance(call, dict)]
    function = as_dict(message.get("function_call"))  # the API's first form of it
    if not calls and function.get("name"):
        calls = [_chat_call({"function": function})]
    return tuple(calls)


def _function_call(item: JsonObject) -> FunctionCall:
    name = sendable(item.get("name"))
    return FunctionCall(as_id(item.get("call_id")), name, _arguments(item), as_id(item.get("id")))


def _chat_call(call: JsonObject) -> FunctionCall:
    function = as_dict(call.get("function")) or as_dict(call.get("custom"))
    return FunctionCall(as_id(call.get("id")), sendable(function.get("name")), _arguments(function))


def _arguments(call: JsonObject) -> str:
    """JSON text, also where a gateway has read it already."""
    given = call.get("arguments")
    return sendable(json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given)


def _usage(usage: object) -> Usage:
    data = as_dict(usage)
    return Usage(
        as_int(data.get("input_tokens", data.get("prompt_tokens"))),
        as_int(data.get("output_tokens", data.get("completion_tokens"))),
        as_int(data.get("total_tokens")),
        read_cost(data.get("cost")),
    )
