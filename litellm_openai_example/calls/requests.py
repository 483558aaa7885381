"""Requests: what a call sends, and the operations that send it (create, stream, retrieve, cancel, wait).

A request is one flat dict of the API's fields, and this is the one place that knows fields by name. Those that the
SDK's method knows become its arguments, all others go into the body unchanged, so a new field of the API works before
the SDK or this package knows it. The operations are coroutines for both kinds of clients; see `steps`.

Longer than other files, so that a request and the operation that sends it stand together.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

from openai import APIStatusError

from ..config import header_value, is_unicode
from ..diagnosis import explain
from ..error_table import is_lasting
from ..errors import ClosedClientError, ErrorKind, GatewayError, StillRunningError, one_line, raise_from
from ..json_object import JsonObject
from ..transport.policy import current_deadline
from ..window import Window, may_take_until, poll_pause
from .accumulator import Accumulator
from .answer import as_list
from .chat_stream import ChatStream
from .finish_reasons import RUNNING, TERMINAL
from .lenient import read_json
from .reply import RawResponse, Reply, read_reply, require_complete, require_submitted
from .response_stream import ResponseStream
from .steps import EXPECTED, call, sleep

T = TypeVar("T")

Tools = list[JsonObject]

# Fields that a method sets itself, and the way to set them.
RESERVED = {
    "input": "the prompt",
    "messages": "the prompt",
    "stream": "the method (stream_response, stream_chat_completion)",
    "background": "create_response and respond",
    "previous_response_id": "the methods of the Responses API",
    "num_retries": "the rule that nothing is paid for twice",
}
SEARCH, OLD_SEARCH = "web_search", "web_search_preview"

POLL_TIMEOUT = 10.0  # seconds of one poll
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.5, 10.0, 1.5
_LAST_POLL = 0.4  # seconds before the deadline, so that a response that ended during a long pause is not missed
_MISSING_POLLS = 3  # a 404 may come from a replica that lags behind: this many in a row are believed
_FINAL = frozenset(range(400, 500)) - {404, 408, 409, 423, 425, 429}  # statuses of a poll that repeating cannot change
_MODELS_TIMEOUT = 3.0
_POLL_AFTER_HEADER = "openai-poll-after-ms"
_LONGEST_POLL_AFTER = 3600.0  # seconds; a longer interval is a mistake of the gateway


def chat_request(
    model: str,
    content: object,
    instructions: str | None,
    fields: Mapping[str, object],
    earlier: Sequence[JsonObject] = (),
) -> JsonObject:
    """Return the fields of a chat completion for one prompt, after `earlier` messages; see `response_request`."""
    system = [{"role": "system", "content": instructions}] if instructions else []
    return {"model": model, "messages": [*system, *earlier, {"role": "user", "content": content}]} | further(fields)


def response_request(
    model: str,
    input: object,
    *,
    fields: Mapping[str, object],
    tools: Tools | None = None,
    previous_response_id: str | None = None,
    instructions: str | None = None,
    background: bool = False,
) -> JsonObject:
    """Return the fields of a response, without those that are None.

    Args:
        input: the prompt, or a list of items.
        fields: further fields of the API.

    Raises:
        ValueError: the method itself sets one of the further fields.
    """
    given = {
        "tools": tools,
        "previous_response_id": previous_response_id,
        "instructions": instructions,
        "background": background or None,
    }
    request = {"model": model, "input": input} | {name: value for name, value in given.items() if value is not None}
    return request | further(fields)


def further(fields: Mapping[str, object], **taken: str) -> JsonObject:
    """Return `fields` if a caller may set them.

    Args:
        fields: fields of a create call; `extra_body`, `extra_query` and `extra_headers` are those of the SDK.
        taken: further reserved fields, with the way to set each.

    Raises:
        ValueError: one of them is reserved, at the top, in `extra_body`, or in the `extra_body` inside that, which
            LiteLLM merges over the fields of the body.
    """
    reserved = {**RESERVED, **taken}
    level: object = fields
    # Each level is merged over the one before: by the SDK the first, by LiteLLM the second.
    while isinstance(level, Mapping):
        for name in level:
            if name in reserved:
                raise ValueError(f"{name} is set by {reserved[name]}")
        level = level.get("extra_body")
    return dict(fields)


def create_with(method: Callable[..., T], request: JsonObject, **more: object) -> T:
    """Call a `create` of the SDK with the fields of a request; those that it does not know go into `extra_body`.

    So do texts, unless the method requires them: the SDK would match each against every type of its field (the hundred
    names of `model`, the forms of `input`), and a call would take 1.14 times as long.
    """
    known, demanded = _parameters(inspect.unwrap(method))
    body = {
        name: value for name, value in request.items() if name not in (demanded if isinstance(value, str) else known)
    }
    if body:
        arguments = {name: value for name, value in request.items() if name not in body}
        request = {**arguments, "extra_body": {**body, **(arguments.get("extra_body") or {})}}
    return method(**request, **more)


def foreign_fields(method: Callable[..., object], fields: Mapping[str, object]) -> list[str]:
    """Return the names of the fields that a `create` of the SDK does not have."""
    known, _ = _parameters(inspect.unwrap(method))
    return [name for name in fields if name not in known]


@cache
def _parameters(function: Callable[..., object]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of all parameters, and of the required ones."""
    parameters = inspect.signature(function).parameters
    return frozenset(parameters), frozenset(
        n for n, parameter in parameters.items() if parameter.default is parameter.empty
    )


def renamed_search(tools: Sequence[object] | None) -> Tools | None:
    """Return `tools` with the newer name of web search, for a model that refused the older; None if it is absent."""
    found = [dict(tool) for tool in tools or () if isinstance(tool, Mapping)]
    if not any(tool.get("type") == OLD_SEARCH for tool in found):
        return None
    return [{**tool, "type": SEARCH} if tool.get("type") == OLD_SEARCH else tool for tool in found]


def check_prompt(prompt: object, name: str = "prompt") -> str:
    """Return `prompt` if it can be sent.

    Raises:
        ValueError: it is not a text, blank, or not valid Unicode.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"the {name} is empty")
    if not is_unicode(prompt):
        raise ValueError(f"the {name} is not valid Unicode (half of a surrogate pair)")
    return prompt


def check_response_id(response_id: object) -> str:
    """Return `response_id` if it can be part of a URL.

    Raises:
        ValueError: it is not a text, blank, or broken.
    """
    if not isinstance(response_id, str) or not response_id.strip():
        raise ValueError("the response id is empty")
    return header_value(response_id, "the response id")


@dataclass(frozen=True)
class Api:
    """One of the two APIs: its resource in the SDK, and the accumulator of its streams."""

    resource: Callable[[Any], Any]
    accumulator: type[Accumulator]


CHAT = Api(lambda sdk: sdk.chat.completions.with_raw_response, ChatStream)
RESPONSES = Api(lambda sdk: sdk.responses.with_raw_response, ResponseStream)
APIS: Mapping[str, Api] = {"chat": CHAT, "responses": RESPONSES}


async def create(api: Api, request: JsonObject, *, may_call: bool = False) -> Reply:
    """Create a chat completion or a response, and return its reply if the answer is whole.

    A background response is returned once it is submitted; with `may_call`, an answer that calls functions is, too.

    Args:
        request: the fields of the call. If the model requires the other name of web search, it is changed in place.
    """
    reply = await _explained(_fetch(_sent(api, request), api.accumulator), request["model"])
    if may_call and reply.answer.calls and reply.answer.status in ("completed", "") and not reply.answer.failed:
        return reply
    return require_submitted(reply) if request.get("background") else require_complete(reply)


async def open_stream(api: Api, request: JsonObject) -> RawResponse:
    """Send a streaming create and return the SDK's raw response, its body not yet read."""
    return await _explained(_sent(api, request, stream=True), request["model"])


async def _sent(api: Api, request: JsonObject, **more: bool) -> RawResponse:
    """Send a create, and again with the newer name of web search if the model refused the older: it did not run."""

    def send(sdk: Any) -> Any:
        return create_with(api.resource(sdk).create, request, **more)

    try:
        return await call(send)  # type: ignore[no-any-return]
    except APIStatusError as error:
        renamed = renamed_search(request.get("tools"))
        if renamed is None or explain(error).kind is not ErrorKind.UNSUPPORTED_TOOL:
            raise
    # In place, so that the caller's next turn sends the name that the model accepts.
    request["tools"] = renamed
    return await call(send)  # type: ignore[no-any-return]


async def retrieve(response_id: str, **options: Any) -> Reply:
    """Retrieve a response once, in any status; `options` are those of the SDK."""
    send = call(lambda sdk: sdk.responses.with_raw_response.retrieve(response_id, **options))
    return await _retrieved(send, response_id)


async def cancel(response_id: str) -> Reply:
    """Cancel a background response."""
    return await _retrieved(call(lambda sdk: sdk.responses.with_raw_response.cancel(response_id)), response_id)


async def wait(
    response_id: str,
    on_status: Callable[[str], None] | None = None,
    window: Window | None = None,
    window_ends_at: float | None = None,
) -> Reply:
    """Poll a background response until it has ended, and return its reply if the answer is whole.

    A failed poll says nothing about the response, so it is repeated, unless the error is permanent.

    Args:
        response_id: of the response.
        on_status: called with the status of each poll.
        window: the discount window of the response: it may take hours, and is polled seldom.
        window_ends_at: its end in seconds since 1970, if known.

    Raises:
        StillRunningError: the deadline passed first.
        GatewayError: the response failed, or cannot be retrieved.
    """
    pause, age, missing, trouble = _FIRST_PAUSE, 0.0, 0, ""
    while True:
        asked = None
        try:
            reply = await _polled(response_id)
        except GatewayError as error:
            # A 200 that reports an error has the status in it, as a number or in words.
            status = error.status or _status_in(error.code)
            unknown = status is None and (error.kind is ErrorKind.UNKNOWN_RESPONSE or is_lasting(error.code))
            # A replica that lags behind answers with 404, so one alone proves nothing.
            missing = missing + 1 if status == 404 or unknown else 0
            stays = status in _FINAL or error.kind is ErrorKind.NOT_SUPPORTED
            closed = isinstance(error.__cause__, ClosedClientError)
            if stays or closed or missing >= _MISSING_POLLS:
                error.response_id = response_id
                raise
            trouble = f"; the last poll failed: {error}"
        else:
            trouble, missing = "", 0
            asked = poll_after(reply.headers)
            if on_status is not None:
                on_status(reply.answer.status)
            # Some gateways omit the status; a text proves that the response has ended.
            if reply.answer.status in TERMINAL or (reply.text and not reply.answer.status):
                return require_complete(reply)
            if reply.answer.status not in RUNNING:  # as uninformative as a failed poll
                trouble = f"; the last poll returned: {one_line(reply.raw)}"
        until = current_deadline()
        left = math.inf if until is None else until.remaining()
        # No further poll would be answered in time. The caller gets the error at the deadline, not before.
        if until is not None and left <= _LAST_POLL:
            await sleep(left)
            raise StillRunningError(
                f"the response is still running after {until.seconds:g} s{trouble}"
                + may_take_until(window_ends_at, "; it "),
                response_id=response_id,
            )
        rest = asked if asked is not None else pause
        if window is not None and not trouble:
            rest = max(rest, poll_pause(age, _FIRST_PAUSE))
        age += rest
        await sleep(min(rest, left - _LAST_POLL / 2))
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


async def _polled(response_id: str) -> Reply:
    """Retrieve a response; raise the error that an answer with status 200 reports in place of one."""
    reply = await retrieve(response_id, timeout=POLL_TIMEOUT)
    if reply.answer.error_message is not None and reply.answer.status not in TERMINAL | RUNNING:
        return require_complete(reply)
    return reply


def _status_in(code: str | None) -> int | None:
    return int(code) if code is not None and re.fullmatch("[45][0-9]{2}", code) else None


def poll_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a gateway asks to wait before the next poll of a response; None if it does not say."""
    try:
        seconds = float(headers.get(_POLL_AFTER_HEADER) or "") / 1000
    except ValueError:
        return None
    return seconds if 0 <= seconds < _LONGEST_POLL_AFTER else None


async def _fetch(send: Awaitable[RawResponse], kind: type[Accumulator]) -> Reply:
    return read_reply(await send, kind)


async def _retrieved(send: Awaitable[RawResponse], response_id: str) -> Reply:
    reply = await _explained(_fetch(send, ResponseStream))
    # Gateways give the same response another id on every reply, and some of those cannot be retrieved.
    return replace(reply, answer=replace(reply.answer, id=response_id))


async def _explained(operation: Awaitable[T], model: str | None = None) -> T:
    """Await an operation, and turn its errors into a `GatewayError`, with the gateway's models if one is unknown."""
    try:
        return await operation
    except EXPECTED as error:
        failure, cause = explain(error), error
    if model and failure.kind is ErrorKind.UNKNOWN_MODEL and failure.status in (400, 401, 403, 404):
        names = await _model_names(model)
        if names:
            failure.hint = f"the gateway has: {', '.join(names)}"
    try:
        raise_from(failure, cause)
    finally:
        # The traceback refers to this frame: a cycle.
        del failure, cause


async def _model_names(wanted: str) -> list[str]:
    """Return up to ten models of the gateway, the most similar first; none if it does not list them."""
    try:
        raw = await call(lambda sdk: sdk.models.with_raw_response.list(timeout=_MODELS_TIMEOUT))
        entries = as_list(read_json(raw.http_response.content).get("data"))
    except EXPECTED:
        return []
    ids = [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    likely = difflib.get_close_matches(wanted, ids, n=10, cutoff=0.4)
    return [one_line(name) for name in dict.fromkeys([*likely, *ids])][:10]
