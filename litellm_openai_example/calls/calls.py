"""What both clients do, written once without I/O.

Each operation is a coroutine that awaits what it needs done; see `steps`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from openai import APIStatusError

from ..diagnosis import explain
from ..errors import ClosedClientError, ErrorKind, GatewayError, StillRunningError, one_line, raise_from
from ..json_object import JsonObject
from ..transport.deadline import current_deadline
from ..transport.headers import poll_after
from ..transport.raw_response import RawResponse
from .assembly import Assembly
from .chat_stream import ChatStream
from .lenient import as_list, read_json
from .reasons import RUNNING, TERMINAL
from .reply import Reply, read_reply, require_complete, require_submitted
from .requests import create, renamed_search
from .response_stream import ResponseStream
from .steps import EXPECTED, call, sleep

T = TypeVar("T")

POLL_TIMEOUT = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.5, 10.0, 1.5
_LAST_LOOK = 0.4  # seconds before the deadline: what ended during a long pause is not missed
_PATIENCE = 3  # a 404 may be a replica that lags behind: believed when it comes this often in a row
_FINAL = frozenset(range(400, 500)) - {404, 408, 409, 423, 425, 429}  # statuses of a poll that repeating cannot change
_MODELS_TIMEOUT = 3.0


@dataclass(frozen=True)
class Api:
    """One of the two APIs: its resource of the SDK's client, and what puts its streams together."""

    resource: Callable[[Any], Any]
    assembly: type[Assembly]


CHAT = Api(lambda sdk: sdk.chat.completions.with_raw_response, ChatStream)
RESPONSES = Api(lambda sdk: sdk.responses.with_raw_response, ResponseStream)


async def ask(api: Api, request: JsonObject, *, may_call: bool = False) -> Reply:
    """Create a chat completion or a response, and return it if it is whole.

    A background response is returned as it is submitted, and with `may_call` an answer that calls functions as well.

    Args:
        request: the fields of the call; where the model wants the web search by another name, it has that afterwards.
    """
    reply = await _explained(_fetch(_sent(api, request), api.assembly), request["model"])
    if may_call and reply.answer.calls and reply.answer.status in ("completed", "") and not reply.answer.failed:
        return reply
    return require_submitted(reply) if request.get("background") else require_complete(reply)


async def open_stream(api: Api, request: JsonObject) -> RawResponse:
    """Send a streaming create and return the SDK's raw response, its body not yet read."""
    return await _explained(_sent(api, request, stream=True), request["model"])


async def _sent(api: Api, request: JsonObject, **more: bool) -> RawResponse:
    """Send a create; once more where its search tool was refused by name, because that was not executed."""

    def send(sdk: Any) -> Any:
        return create(api.resource(sdk).create, request, **more)

    try:
        return await call(send)  # type: ignore[no-any-return]
    except APIStatusError as error:
        renamed = renamed_search(request.get("tools"))
        if renamed is None or explain(error).kind is not ErrorKind.UNSUPPORTED_TOOL:
            raise
    request["tools"] = renamed
    return await call(send)  # type: ignore[no-any-return]


async def retrieve(response_id: str, **options: Any) -> Reply:
    """Look at a response once, whatever its status; options are those of the SDK."""
    send = call(lambda sdk: sdk.responses.with_raw_response.retrieve(response_id, **options))
    return await _looked_up(send, response_id)


async def cancel(response_id: str) -> Reply:
    """Ask the gateway to stop a background response."""
    return await _looked_up(call(lambda sdk: sdk.responses.with_raw_response.cancel(response_id)), response_id)


async def wait(response_id: str, on_status: Callable[[str], None] | None = None) -> Reply:
    """Poll a background response until it has ended, and return it if it is whole.

    A poll that fails says nothing about the response, so it is repeated, unless the error is of a kind that stays.

    Raises:
        StillRunningError: the deadline passed first.
        GatewayError: the response failed, or cannot be retrieved.
    """
    pause, missing, trouble = _FIRST_PAUSE, 0, ""
    while True:
        asked = None
        try:
            reply = await retrieve(response_id, timeout=POLL_TIMEOUT)
        except GatewayError as error:
            missing = missing + 1 if error.status == 404 else 0
            stays = error.status in _FINAL or error.kind is ErrorKind.NOT_SUPPORTED
            closed = isinstance(error.__cause__, ClosedClientError)
            if stays or closed or missing >= _PATIENCE:
                error.response_id = response_id
                raise
            trouble = f"; the last look at it failed: {error}"
        else:
            trouble, missing = "", 0
            asked = poll_after(reply.headers)
            if on_status is not None:
                on_status(reply.answer.status)
            if reply.answer.status in TERMINAL or (reply.text and not reply.answer.status):
                return require_complete(reply)
            if reply.answer.status not in RUNNING:  # it says nothing about the response either
                trouble = f"; the last look at it showed: {one_line(reply.raw)}"
        until = current_deadline()
        left = math.inf if until is None else until.remaining()
        if left <= _LAST_LOOK:
            await sleep(left)
            raise StillRunningError(
                f"the response still runs after {until.seconds if until else 0:g} s{trouble}", response_id=response_id
            )
        await sleep(min(asked if asked is not None else pause, left - _LAST_LOOK / 2))
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


async def _fetch(send: Awaitable[RawResponse], kind: type[Assembly]) -> Reply:
    return read_reply(await send, kind)


async def _looked_up(send: Awaitable[RawResponse], response_id: str) -> Reply:
    reply = await _explained(_fetch(send, ResponseStream))
    # A gateway gives the same response another id on every reply, some of which cannot be retrieved.
    return replace(reply, answer=replace(reply.answer, id=response_id))


async def _explained(operation: Awaitable[T], model: str | None = None) -> T:
    """Turn whatever an operation raises into a `GatewayError`, with the gateway's models where that helps."""
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
        del failure, cause  # the traceback holds this frame, and would form a cycle with it


async def _model_names(wanted: str) -> list[str]:
    """Up to ten models that the gateway lists, the likeliest first; none if it does not tell."""
    try:
        raw = await call(lambda sdk: sdk.models.with_raw_response.list(timeout=_MODELS_TIMEOUT))
        entries = as_list(read_json(raw.http_response.content).get("data"))
    except EXPECTED:
        return []
    ids = [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    likely = difflib.get_close_matches(wanted, ids, n=10, cutoff=0.4)
    return [one_line(name) for name in dict.fromkeys([*likely, *ids])][:10]
