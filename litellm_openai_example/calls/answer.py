"""The answer in a chat completion or a response: text, function calls, sources, usage and ids.

Gateways and providers omit fields, set them to null or change their type. Nothing here relies on a shape: a value of
another type counts as absent, and the caller decides whether the answer can do without it.

Longer than other files, because both APIs stand side by side here with everything that their answers share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from ..error_table import words_of
from ..errors import one_line
from ..json_object import JsonObject
from .finish_reasons import (
    REASONS,
    RUNNING,
    Cut,
    CutKind,
    cut_by,
    cut_short,
    is_absent,
    is_gone,
    read_reason,
    read_status,
)

# Types of parts that are text of the answer; others (thinking, tool_use, image, ...) are not.
_TEXT_PARTS = frozenset({"text", "output_text", "input_text", "text_delta", "message"})
_PARTS = frozenset({"output_text", "text"})  # types of parts that may stand in place of a message
_NO_ERROR = frozenset({"0", "200", "ok", "success"})  # values of an error that reports none
_OTHER_ROLES = frozenset({"user", "system", "developer", "tool"})  # some servers repeat the input in the output
_DEEPEST = 6  # levels of parts within parts
# Providers split a text anywhere, even between the two halves of a character beyond U+FFFF.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LARGEST_INT = 2**53  # up to here a float is exact
_HIGHEST_COST = 1e12  # US dollars; no call costs that much

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
# Types that hold the text or a refusal, and function calls, which are named elsewhere.
_NAMED_ELSEWHERE = frozenset({"", "function_call", "message", "output_text", "refusal", "text"})


@dataclass(frozen=True)
class FunctionCall:
    """A function that the model calls; `arguments` is JSON text from the model, unchecked."""

    call_id: str
    name: str
    arguments: str
    item_id: str = ""


@dataclass(frozen=True)
class Usage:
    """Tokens as the provider counted them, and US dollars if the gateway adds them; None for each unknown.

    Attributes:
        cached_tokens: the part of the input tokens that the provider read from its prompt cache.
        reasoning_tokens: the part of the output tokens that the model spent on reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cost: float | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True)
class Source:
    """A page that an answer cites or was searched for it; `title` is empty if unknown."""

    url: str
    title: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer of a chat completion or a response.

    Attributes:
        status: as in the Responses API: completed, incomplete, failed, cancelled, queued or in_progress. An unknown
            status is kept unchanged.
        cut_short: the reason why the text is incomplete; None if it is whole.
        sources: each page once, cited ones first.
        searched: True if there is any sign that the model searched the web.
        output: the output items of a response, unchanged.
        besides: names of the other contents, such as "an image".
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
        """Did the call fail, according to the answer itself?"""
        return self.status in ("failed", "cancelled") or self.error_message is not None


def as_beginning(answer: Answer, words: str) -> Answer:
    """Return the answer of a body that was cut off at the limit, as incomplete unless it is still running."""
    if answer.status in RUNNING:
        return answer
    return replace(answer, status="incomplete", cut_short=Cut(CutKind.TOO_LARGE, words), calls=())


def read_response(body: object) -> Answer:
    """Read a response of the Responses API, or a chat completion in its place."""
    data = as_dict(body)
    if "output" not in data:
        if as_list(data.get("choices")):
            return read_chat(data)
        if isinstance(data.get("response"), dict):  # the terminal event of a stream alone
            return read_response(data["response"])
    items = _items(data.get("output"))
    messages = [item for item in items if is_message(item)]
    searches = [item for item in items if item.get("type") == "web_search_call"]
    notes = (as_dict(part).get("annotations") for item in messages for part in as_list(item.get("content")))
    sources = read_sources(*notes, *anthropic_pages(data), *map(search_results, searches))
    code, message = read_error(data.get("error") or data.get("last_error"))
    status, reason = _ended(data, messages)
    text = _messages_text(messages) or text_of(data.get("output_text"))
    # A deleted or expired response may still come with its text, which the caller has paid for.
    if gone := _gone(data, status):
        status, reason, message = ("incomplete", gone, message) if text else ("failed", "", message or gone)
    return Answer(
        text=text,
        status=status,
        id=as_id(data.get("id")) or None,
        model=as_str(data.get("model")) or None,
        refusal=_each_once(
            words for item in (*items, data) for words in (refusal_of(item.get("content")), _refusal(item))
        ),
        cut_short=cut_by(reason or "incomplete") if status == "incomplete" else None,
        error_code=code,
        error_message=message,
        calls=tuple(_function_call(item) for item in items if item.get("type") == "function_call"),
        usage=read_usage(data.get("usage")),
        sources=sources,
        searched=bool(searches or sources),
        output=items,
        besides=besides_text(items),
    )


def read_chat(body: object) -> Answer:
    """Read a chat completion, or a response in its place.

    Requests ask for one choice, but some bridges spread an answer over several; the first one with a text counts.
    """
    data = as_dict(body)
    if as_list(data.get("output")) and "choices" not in data:
        return read_response(data)
    choices = choices_of(data)
    messages = [_message_of(choice) for choice in choices] or [{}]
    # A text counts more than a refusal, and a refusal more than function calls.
    first = next((n for says in (_says, _refuses, _calls) for n, one in enumerate(messages) if says(one)), 0)
    message = messages[first]
    places = ends_of(choices[first] if choices else {}, message)
    code, error = read_error(data.get("error") or next((one["error"] for one in places if one.get("error")), None))
    searches = as_list(as_dict(message.get("provider_specific_fields")).get("web_search_calls"))
    given = (message.get("annotations"), data.get("search_results"), data.get("citations"), *anthropic_pages(message))
    sources = read_sources(*given, *map(search_results, searches))
    # LiteLLM maps unknown finish reasons to `stop`, and keeps the provider's reason beside it.
    reason = cut_short(*(read_reason(place.get(name)) for place in places for name in REASONS))
    return Answer(
        text=text_of(message.get("content")),
        status="incomplete" if reason else "completed",
        id=as_id(data.get("id")) or None,
        model=as_str(data.get("model")) or None,
        refusal=_each_once([refusal_of(message.get("content")), *map(_refusal, places)]),
        cut_short=reason,
        error_code=code,
        error_message=error,
        calls=_calls(message) or next(filter(None, map(_calls, messages)), ()),
        usage=read_usage(data.get("usage")),
        sources=sources,
        searched=bool(searches or sources),
        besides=tuple(dict.fromkeys(words for one in messages for words in besides_message(one))),
    )


def choices_of(data: JsonObject) -> list[JsonObject]:
    """Return the choices by their indexes; a choice without one has its position as the index."""
    given = [(position, one) for position, one in enumerate(as_list(data.get("choices"))) if isinstance(one, dict)]
    return [one for _, one in sorted(given, key=lambda placed: index_of(placed[1], placed[0]))]


def index_of(choice: JsonObject, position: int) -> int:
    """Return the index of a choice, or its position in the list if it gives none."""
    index = as_int(choice.get("index"))
    return position if index is None else index


def read_error(error: object) -> tuple[str | None, str | None]:
    """Return code and message of an `error` field of any type; None for each that is absent."""
    # Some send an empty one, or a success, with each answer.
    if all(map(_is_no_error, error.values() if isinstance(error, dict) else [error])):
        return None, None
    if isinstance(error, dict):
        number = error.get("code")
        code = (str(number) if type(number) is int else as_str(number)) or as_str(error.get("type"))
        return code or None, words_of(error) or code or "an error without a message"
    if isinstance(error, list):
        return read_error(error[0])
    return None, error if isinstance(error, str) else "an error without a message"


def is_message(item: JsonObject) -> bool:
    """Is an output item a message of the model? Gateways may omit its type, or put a part in its place."""
    if as_str(item.get("role")) in _OTHER_ROLES:
        return False
    if item.get("type") is None:
        return "content" in item or "text" in item
    if as_str(item.get("role")) == "assistant" and "content" in item:
        return True
    return as_str(item["type"]).lower() in {"message", *_PARTS}


def message_text(item: JsonObject) -> str:
    """Return the text of a message item."""
    return text_of(item.get("content", item))


def text_of(content: object, depth: int = 0) -> str:
    """Return a text in any form: plain, a number, `{"text": ...}`, `{"value": ...}`, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, int | float) and not isinstance(content, bool):  # a template may turn "42" into 42
        return json.dumps(content)
    if depth > _DEEPEST:
        return ""
    if isinstance(content, list):
        return join([text_of(part, depth + 1) for part in content])
    part = as_dict(content)
    if part.get("type") is not None and as_str(part["type"]).lower() not in _TEXT_PARTS:
        return ""
    # Only fields that exist are followed: to follow absent ones to the deepest level would cost thousands of calls.
    found = (
        text_of(part[name], depth + 1) for name in ("text", "value", "content", "parts") if part.get(name) is not None
    )
    return next((text for text in found if text), "")


def refusal_of(content: object, depth: int = 0) -> str:
    """Return the refusals in the parts of a message."""
    parts = [part for part in map(as_dict, content if isinstance(content, list) else [content]) if part]
    if depth > _DEEPEST:
        return ""
    return join(
        [_refusal(part) or _text_of_refusal(part) or refusal_of(part.get("content"), depth + 1) for part in parts]
    )


def refusal_words(refusal: object, depth: int = 0) -> str:
    """Return the text of a `refusal` field: a text, a part, or a list of them."""
    if isinstance(refusal, list):
        return join([refusal_words(part, depth + 1) for part in refusal]) if depth <= _DEEPEST else ""
    if isinstance(refusal, dict) and depth <= _DEEPEST:
        return (
            refusal_words(refusal.get("refusal"), depth + 1) or text_of({**refusal, "type": None}) or words_of(refusal)
        )
    return as_str(refusal)


def blank_line(before: str, after: str) -> str:
    """Return the line breaks to insert between two texts so that a blank line separates them."""
    have = len(before[-2:]) - len(before[-2:].rstrip("\n")) + len(after[:2]) - len(after[:2].lstrip("\n"))
    return "\n" * max(0, 2 - have)


def read_sources(*lists: object) -> tuple[Source, ...]:
    """Return the pages in lists of annotations, search results or URLs, each once, with the first title given.

    An annotation has its URL at the top (Responses API) or under its type, `url_citation` (chat).
    """
    titles: dict[str, str] = {}
    for entry in (entry for entries in lists for entry in as_list(entries)):
        note = {"url": entry} if isinstance(entry, str) else as_dict(as_dict(entry).get("url_citation")) or entry
        note = as_dict(note)
        url = as_str(note.get("url"))
        if url.startswith(("https://", "http://")) and url.isprintable() and " " not in url:
            titles[url] = titles.get(url) or as_str(note.get("title"))
    return tuple(Source(url, title) for url, title in titles.items())


def search_results(item: object) -> list[object]:
    """Return the pages of a `web_search_call` item, the one place where LiteLLM puts an Anthropic model's sources."""
    places = (as_dict(as_dict(item).get("action")), as_dict(item))
    return [entry for place in places for name in ("sources", "results") for entry in as_list(place.get(name))]


def anthropic_pages(place: JsonObject) -> Iterable[list[object]]:
    """Yield the pages that an Anthropic model cites and those it has read, which LiteLLM passes on unchanged."""
    extra = as_dict(place.get("provider_specific_fields"))
    yield from map(as_list, as_list(extra.get("citations")))
    yield from (as_list(as_dict(result).get("content")) for result in as_list(extra.get("web_search_results")))


def besides_text(items: Iterable[JsonObject]) -> tuple[str, ...]:
    """Return names for the output items of a response and the parts of its messages other than text, each once."""
    found: dict[str, None] = {}
    for item in items:
        for one in (item, *map(as_dict, as_list(item.get("content")))):
            if words := _item_words(one):
                found[words] = None
    return tuple(found)


def besides_message(message: JsonObject) -> tuple[str, ...]:
    """Return names for the contents of a chat message other than text: images, audio, reasoning."""
    found = dict.fromkeys(besides_text([{"content": message.get("content")}]))
    if message.get("images"):
        found["an image"] = None
    if message.get("audio"):
        found["audio"] = None
    if message.get("reasoning_content") or message.get("reasoning") or message.get("thinking_blocks"):
        found["reasoning"] = None
    return tuple(found)


def _ended(data: JsonObject, messages: list[JsonObject]) -> tuple[str, str]:
    """Return a response's status, and the reason if it is incomplete."""
    given = data.get("status")
    status = read_status(given)
    details = data.get("incomplete_details")
    reason = read_reason(as_dict(details).get("reason")) or read_reason(as_str(details))
    reason = reason or next((word for word in map(read_reason, map(data.get, REASONS)) if cut_short(word)), "")
    statuses = (read_status(item.get("status")) for item in messages)
    # Bridges report `completed` although the finish reason, or the status of a message, says otherwise.
    if status in ("completed", "") and (cut_short(reason) or "incomplete" in statuses):
        return "incomplete", reason
    if status == "incomplete" and not reason and as_str(given).lower() != "incomplete":
        reason = as_str(given)
    return status, reason


def _items(output: object) -> tuple[JsonObject, ...]:
    """Return the items of an output, which some gateways send as a text or as its only item."""
    if isinstance(output, str):
        output = {"type": "message", "content": output}
    items = as_list(output) or [output]
    return tuple(item for item in items if isinstance(item, dict))


def _is_no_error(value: object) -> bool:
    return not value or is_absent(value) or (isinstance(value, str | int) and str(value).lower() in _NO_ERROR)


def _gone(data: JsonObject, status: str) -> str:
    """Return a sentence if the response can never be retrieved (deleted, expired); empty otherwise."""
    if str(data.get("deleted")).lower() in ("true", "1") or as_str(data.get("object")).endswith(".deleted"):
        return "the response was deleted"
    given = as_str(data.get("status"))
    return f"the response is {one_line(given).lower()}" if status == "failed" and is_gone(given) else ""


def _messages_text(messages: list[JsonObject]) -> str:
    """Return the texts of the messages, each once: a gateway may send a message twice, or repeat it in the next."""
    texts: list[str] = []
    seen: set[str] = set()
    named: dict[str, int] = {}
    apart = True
    for item in messages:
        text, name, is_part = message_text(item), as_id(item.get("id")), item.get("type") in _PARTS
        # The parts of a message in place of messages.
        if is_part and not apart and text:
            texts[-1] = join([texts[-1], text])
            continue
        # Two messages without ids, or with broken ones, are compared by their text alone.
        earlier = named.get(name) if name else None
        if earlier is not None and text.startswith(texts[earlier]):  # a longer version of the same message
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
    text = join(list(dict.fromkeys(texts)))
    return text if text and not is_absent(text) else ""


def _calls(message: JsonObject) -> tuple[FunctionCall, ...]:
    calls = [_chat_call(call) for call in as_list(message.get("tool_calls")) if isinstance(call, dict)]
    function = as_dict(message.get("function_call"))  # the older form of the API
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
    """Return the arguments as JSON text; some gateways send the parsed object."""
    given = call.get("arguments")
    return sendable(json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given)


def read_usage(usage: object) -> Usage:
    """Return the `usage` of either API.

    The details are nested below the sums. Some providers put them beside the sums, under names of their API: Anthropic
    `cache_read_input_tokens`, DeepSeek `prompt_cache_hit_tokens`, Moonshot `cached_tokens`, Perplexity
    `reasoning_tokens`.
    """
    data = as_dict(usage)
    read = (data.get("input_tokens_details"), data.get("prompt_tokens_details"), data)
    written = (data.get("output_tokens_details"), data.get("completion_tokens_details"), data)
    return Usage(
        _count((data,), "input_tokens", "prompt_tokens"),
        _count((data,), "output_tokens", "completion_tokens"),
        _count((data,), "total_tokens"),
        read_cost(data.get("cost")),
        _count(read, "cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens"),
        _count(written, "reasoning_tokens"),
    )


def _count(places: Iterable[object], *names: str) -> int | None:
    """Return the first number of tokens under one of the names; None if no place has one."""
    counts = (as_int(as_dict(place).get(name)) for place in places for name in names)
    return next((count for count in counts if count is not None and 0 <= count < _LARGEST_INT), None)


def ends_of(choice: JsonObject, message: JsonObject) -> list[JsonObject]:
    """Return the objects of a choice that may have its finish reason; LiteLLM puts unknown fields into further ones."""
    return [
        place for one in (choice, message) for place in (one, as_dict(one.get("provider_specific_fields"))) if place
    ]


def _item_words(item: JsonObject) -> str:
    kind = as_str(item.get("type"))
    if kind in _NAMED_ELSEWHERE:
        return ""
    words = _WORDS.get(kind) or f"an item of the type {one_line(kind)[:60]}"
    name = one_line(as_str(item.get("name")))[:60]
    return f"{words} ({name})" if name else words


def as_dict(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def as_str(value: object) -> str:
    return value if isinstance(value, str) else ""


def as_int(value: object) -> int | None:
    """Return a count or an index, which some gateways send as 3.0 or "3"; None for any other value."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if abs(number) < _LARGEST_INT else None  # false for NaN, too


def as_id(value: object) -> str:
    """Return an id that can be sent in a request; empty if it is absent or broken."""
    text = as_str(value)
    return text if text.isprintable() and "\ufffd" not in text else ""


def sendable(value: object) -> str:
    """Return a text that can be sent, printed and stored: half a surrogate pair is replaced."""
    return as_str(value).encode("utf-8", "replace").decode()


def join(pieces: list[str]) -> str:
    """Join pieces of a text, and the halves of characters that were split between them."""
    text = "".join(pieces)
    if text.isascii():
        return text
    return _PAIR.sub(lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), text)


def read_cost(value: object) -> float | None:
    """Return the US dollars in a header or a JSON value; None if it is not a number that can be a cost."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        dollars = float(value)
    except (ValueError, OverflowError):
        return None
    return dollars if 0 <= dollars < _HIGHEST_COST else None
