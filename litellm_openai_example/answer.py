"""Reading text, calls, usage and ids out of JSON that may hold anything.

Gateways and providers leave fields out, set them to null or change their type, so nothing here relies on a
shape: what cannot be read counts as absent, and it is for the caller to say that an answer is missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

# Reasons to stop which mean that the text is only the beginning of an answer. Providers behind a gateway
# keep words of their own now and then, so the common spellings of both families are known here.
_LENGTH = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"})
_FILTER = frozenset({"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii"})
_TOOLS = frozenset({"tool_calls", "function_call", "tool_use"})

TERMINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})
RUNNING = frozenset({"queued", "in_progress"})


@dataclass(frozen=True)
class FunctionCall:
    """A function that the model asks for; `arguments` is its JSON text, not yet checked."""

    call_id: str
    name: str
    arguments: str
    item_id: str = ""


@dataclass(frozen=True)
class Source:
    """A page that an answer rests on; `title` is empty where none is given."""

    url: str
    title: str = ""


@dataclass(frozen=True)
class Usage:
    """Tokens as counted by the provider; None where it does not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None


@dataclass(frozen=True)
class Answer:
    """What one reply says, whichever API it came from.

    `status` is that of the Responses API: completed, incomplete, failed, cancelled, queued, in_progress; an
    unknown one is kept as it came. `cut_short` names why the text is only a part of the answer. `sources` holds each
    page once, cited ones first; `searched` tells whether there is any sign that the model searched.
    """

    text: str = ""
    status: str = ""
    id: str | None = None
    model: str | None = None
    refusal: str = ""
    cut_short: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    calls: tuple[FunctionCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    sources: tuple[Source, ...] = ()
    searched: bool = False
    output: tuple[dict[str, Any], ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the reply says of itself that it is no answer."""
        return self.status in ("failed", "cancelled") or self.error_message is not None


def load_json(text: bytes | str) -> Any:
    """The value of a JSON text. A number of more digits than Python converts is kept as its text.

    Raises:
        ValueError, RecursionError: it is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # the limit on the digits of an integer, or bytes that are no Unicode
        return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


def read_json(content: bytes | str, *, beginning: bool = False) -> dict[str, Any]:
    """The JSON object in a body.

    Args:
        beginning: the body ends somewhere in the middle; what is there is read.

    Raises:
        ValueError: the body is empty, is not JSON, or is JSON of another kind than an object.
    """
    if not content.strip():
        raise ValueError("the answer is empty")
    try:
        body = _load_beginning(content) if beginning else load_json(content)
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None
    except ValueError:
        raise ValueError("the answer is not JSON") from None
    if not isinstance(body, dict):
        raise ValueError("the answer is not a JSON object")
    return body


def _load_beginning(content: bytes | str) -> Any:
    from pydantic_core import from_json  # seldom needed, and slow to import

    return from_json(content, allow_partial="trailing-strings")


def as_beginning(answer: Answer, why: str) -> Answer:
    """The answer in a body of which only the beginning was read: as long as it does not say that it runs, a part."""
    if answer.status in RUNNING:
        return answer
    return replace(answer, status="incomplete", cut_short=why, calls=())


def read_response(body: object) -> Answer:
    """Read a response object of the Responses API."""
    data = _dict(body)
    items = tuple(item for item in _list(data.get("output")) if isinstance(item, dict))
    parts = [part for item in items if item.get("type") == "message" for part in _parts(item)]
    searches = [item for item in items if item.get("type") == "web_search_call"]
    sources = read_sources(*(part.get("annotations") for part in parts), *map(_search_results, searches))
    code, message = read_error(data.get("error"))
    status = _str(data.get("status"))
    reason = _str(_dict(data.get("incomplete_details")).get("reason"))
    return Answer(
        text="".join(_str(part.get("text")) for part in parts if part.get("type") in ("output_text", "text")),
        status=status,
        id=_id(data.get("id")) or None,
        model=_str(data.get("model")) or None,
        refusal="".join(_str(part.get("refusal")) for part in parts if part.get("type") == "refusal"),
        cut_short=reason_in_words(reason or "incomplete") if status == "incomplete" else None,
        error_code=code,
        error_message=message,
        calls=tuple(_function_call(item) for item in items if item.get("type") == "function_call"),
        usage=_usage(data.get("usage")),
        sources=(
            sources := read_sources(*(part.get("annotations") for part in parts), *map(_search_results, searches))
        ),
        searched=bool(searches or sources),
        output=items,
    )


def read_chat(body: object) -> Answer:
    """Read a chat completion; several choices are not asked for, so the first one counts."""
    data = _dict(body)
    choice = _first(data.get("choices"))
    message = _dict(choice.get("message"))
    code, error = read_error(data.get("error"))
    searches = _list(_dict(message.get("provider_specific_fields")).get("web_search_calls"))
    given = (message.get("annotations"), data.get("search_results"), data.get("citations"))
    sources = read_sources(*given, *map(_search_results, searches))
    reason = _str(choice.get("finish_reason"))
    return Answer(
        text=_content(message.get("content")),
        status=_chat_status(reason, whole=True),
        id=_id(data.get("id")) or None,
        model=_str(data.get("model")) or None,
        refusal=_str(message.get("refusal")),
        cut_short=cut_short(reason),
        error_code=code,
        error_message=error,
        calls=tuple(_chat_call(call) for call in _list(message.get("tool_calls")) if isinstance(call, dict)),
        usage=_usage(data.get("usage")),
        sources=sources,
        searched=bool(searches or sources),
    )


def read_error(error: object) -> tuple[str | None, str | None]:
    """Code and message of an `error` field, which may be an object, a text, or anything else; None if absent."""
    if error is None or error is False or error == {} or error == "" or error == []:
        return None, None
    if isinstance(error, dict):
        code = _str(error.get("code")) or _str(error.get("type"))
        return code or None, _str(error.get("message")) or code or "an error without a message"
    return None, error if isinstance(error, str) else "an error without a message"


def read_sources(*lists: object) -> tuple[Source, ...]:
    """The pages named in lists of annotations, search results or addresses, each once, with the first title given.

    An annotation holds its address itself (Responses API) or under its type, `url_citation` (chat).
    """
    titles: dict[str, str] = {}
    for entry in (entry for entries in lists for entry in _list(entries)):
        note = {"url": entry} if isinstance(entry, str) else _dict(_dict(entry).get("url_citation")) or _dict(entry)
        url = _str(note.get("url"))
        if url.startswith(("https://", "http://")) and url.isprintable() and " " not in url:
            titles[url] = titles.get(url) or _str(note.get("title"))
    return tuple(Source(url, title) for url, title in titles.items())


def cut_short(finish_reason: str) -> str | None:
    """Why a chat completion that ended for this reason is only a part of an answer; None if it is whole."""
    reason = finish_reason.lower()
    return reason_in_words(reason) if reason in _LENGTH | _FILTER | _TOOLS else None


def reason_in_words(reason: str) -> str:
    """A reason to stop, in words for a person."""
    if reason.lower() in _LENGTH:
        return f"the length limit was reached ({reason})"
    if reason.lower() in _FILTER:
        return f"the content filter stopped it ({reason})"
    if reason.lower() in _TOOLS:
        return f"the model wants to call a tool ({reason})"
    return f"the provider stopped early ({reason})"


class ChatStream:
    """Puts the chunks of a chat stream together. A stream is whole once a chunk gave a finish reason."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._refusals: list[str] = []
        self._reason = ""
        self._id: str | None = None
        self._model: str | None = None
        self._usage = Usage()

    def feed(self, event: object) -> str:
        """Take one chunk and return the text that it adds."""
        data = _dict(event)
        self._id = self._id or _id(data.get("id")) or None
        self._model = self._model or _str(data.get("model")) or None
        if isinstance(data.get("usage"), dict):
            self._usage = _usage(data["usage"])
        choice = _first(data.get("choices"))
        delta = _dict(choice.get("delta"))
        self._reason = _str(choice.get("finish_reason")) or self._reason
        self._refusals.append(_str(delta.get("refusal")))
        piece = _content(delta.get("content"))
        self._pieces.append(piece)
        return piece

    def answer(self) -> Answer:
        """What has arrived so far; its status is empty while the stream has not reached its end."""
        return Answer(
            text="".join(self._pieces),
            status=_chat_status(self._reason, whole=False),
            id=self._id,
            model=self._model,
            refusal="".join(self._refusals),
            cut_short=cut_short(self._reason),
            usage=self._usage,
        )


class ResponseStream:
    """Puts the events of a response stream together. A stream is whole once a terminal event arrived."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._final: Answer | None = None
        self._id: str | None = None
        self._refusals: list[str] = []

    def feed(self, event: object) -> str:
        """Take one event and return the text that it adds."""
        data = _dict(event)
        kind = _str(data.get("type"))
        piece = ""
        if kind == "response.output_text.delta":
            piece = _str(data.get("delta"))
        elif kind == "response.refusal.delta":
            self._refusals.append(_str(data.get("delta")))
        elif kind == "error":
            code, message = read_error(data.get("error") or data)
            self._final = Answer(status="failed", error_code=code, error_message=message)
        elif isinstance(data.get("response"), dict):
            piece = self._response_event(kind.removeprefix("response."), read_response(data["response"]))
        self._pieces.append(piece)
        return piece

    def _response_event(self, kind: str, answer: Answer) -> str:
        self._id = self._id or answer.id
        if kind not in TERMINAL:
            return ""
        if answer.status != kind:  # the event's name is the surer of the two: a status may be null
            answer = _with(answer, status=kind)
        self._final = answer
        # A bridge may send the text, or the end of it, in the last event alone.
        sent = "".join(self._pieces)
        return answer.text[len(sent) :] if answer.text.startswith(sent) else ""

    def answer(self) -> Answer:
        """What has arrived so far; its status is empty while the stream has not reached its end."""
        text = "".join(self._pieces)
        final = self._final or Answer()
        # The id of the first event is the one that can be retrieved later: gateways change it on every reply.
        return _with(final, text=text, id=self._id or final.id, refusal=final.refusal or "".join(self._refusals))


def _with(answer: Answer, **changes: Any) -> Answer:
    return Answer(**{**answer.__dict__, **changes})


def _chat_status(finish_reason: str, *, whole: bool) -> str:
    if cut_short(finish_reason):
        return "incomplete"
    return "completed" if finish_reason or whole else ""


def _content(content: object) -> str:
    """A message's text: plain, or (some providers) in a list of parts."""
    if isinstance(content, list):
        return "".join(
            _str(part.get("text")) for part in content if isinstance(part, dict) and part.get("type") == "text"
        )
    return _str(content)


def _parts(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in _list(item.get("content")) if isinstance(part, dict)]


def _search_results(item: object) -> list[Any]:
    """What a `web_search_call` item read; LiteLLM puts an Anthropic model's sources there, and nowhere else."""
    places = (_dict(_dict(item).get("action")), _dict(item))
    return [entry for place in places for name in ("sources", "results") for entry in _list(place.get(name))]


def _function_call(item: dict[str, Any]) -> FunctionCall:
    name, arguments = _sendable(item.get("name")), _arguments(item.get("arguments"))
    return FunctionCall(_id(item.get("call_id")), name, arguments, _id(item.get("id")))


def _chat_call(call: dict[str, Any]) -> FunctionCall:
    function = _dict(call.get("function"))
    return FunctionCall(_id(call.get("id")), _sendable(function.get("name")), _arguments(function.get("arguments")))


def _usage(usage: object) -> Usage:
    data = _dict(usage)
    return Usage(
        _int(data.get("input_tokens", data.get("prompt_tokens"))),
        _int(data.get("output_tokens", data.get("completion_tokens"))),
        _int(data.get("total_tokens")),
    )


def _first(value: object) -> dict[str, Any]:
    items = _list(value)
    return _dict(items[0]) if items else {}


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: object) -> str:
    """The arguments of a call as JSON text; some gateways give the object itself."""
    return _sendable(json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value)


def _id(value: object) -> str:
    """An id that can be sent again; a broken one is none."""
    text = _str(value)
    return text if text.isprintable() else ""


def _sendable(value: object) -> str:
    """A text that goes back to the gateway: half a surrogate pair cannot travel."""
    return _str(value).encode("utf-8", "replace").decode()


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
