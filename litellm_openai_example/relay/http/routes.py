"""The relay's routes.

FastAPI checks keys, tokens, parameters and headers, and documents them. Three things are done without it, each for a
measured promise:

* `body.py` reads the body of a start: FastAPI would collect it without a limit of size or time (50 MB, or a byte a
  second), and its parsers keep the last of two fields of one name.
* `payer_of` and `relay_of` are plain functions: as header parameters, the payer's three headers cost every start a
  sixth of its time outside the ledger, and few clients send them.
* Views are encoded once and sent as bytes: `response_model` documents them, but does not rebuild them for every poll. A
  result may have megabytes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import cache
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from ...research.contract import (
    IDEMPOTENCY_HEADER,
    INVOCATIONS_PATH,
    LAST_EVENT_HEADER,
    MAX_IDEMPOTENCY_KEY,
    VISIBLE,
    AcceptedInvocation,
    Health,
    Invocation,
    with_token,
)
from ..engine.hub import Topic, happens, last_id
from ..ledger.failures import LedgerUnavailable
from ..ledger.records import NewInvocation, Record
from ..metrics import CONTENT_TYPE
from ..service import Relay
from .access import PAYER_PARAMETERS, Guard, Readable, payer_of, relay_of, require_key
from .agents import mount_agents
from .body import parse, read_body
from .openapi import ACCEPTED, HEALTH, STREAM, VIEW, WAITED, assets, docs, schema_of
from .pages import pages
from .responses import JsonResponse, answer_errors, bad_header, in_pieces

_LIVENESS = 15.0  # seconds between two checks that a waiting client is still connected
_ONE = INVOCATIONS_PATH + "/{invocation_id}"

routes = APIRouter()

_Key = Annotated[
    str | None, Header(alias=IDEMPOTENCY_HEADER, min_length=1, max_length=MAX_IDEMPOTENCY_KEY, pattern=VISIBLE)
]


def create_app(relay: Relay) -> ASGIApp:
    """Return the ASGI application of one relay."""
    app = FastAPI(
        title="LiteLLM relay",
        description="Runs deep research through a LiteLLM gateway: started once, never lost.",
        version="1",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # Telemetry would export the text of exceptions, and read the environment with every request. Operators have the
        # log and /metrics.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.relay = relay
    app.state.rendering = asyncio.Lock()
    app.include_router(routes)
    app.include_router(docs)
    app.include_router(pages)
    app.mount("/docs", assets)
    answer_errors(app)
    needs_key = relay.settings.api_key is not None
    app.openapi = cache(lambda: schema_of(app, needs_key=needs_key))  # type: ignore[method-assign]
    served = Guard(app, loopback=relay.settings.loopback)
    mount_agents(app, served)
    return served


@routes.post(
    INVOCATIONS_PATH,
    dependencies=[Depends(require_key)],
    response_model=AcceptedInvocation,
    responses=ACCEPTED,
    openapi_extra={"parameters": PAYER_PARAMETERS},
    summary="Start a research run",
)
async def start(request: Request, key: _Key = None) -> Response:
    """Start a research run, or find the one that was started with the same `Idempotency-Key`. With a key, repeating a
    start after a lost answer costs nothing."""
    relay = relay_of(request)
    if key is not None and len(request.headers.getlist(IDEMPOTENCY_HEADER)) > 1:
        raise bad_header(IDEMPOTENCY_HEADER, "occurs more than once")
    payer = payer_of(request)
    arguments = parse(await read_body(request, relay.settings.timings.body))
    # A token is derived from the key, so that a repeated start gets the same one from any replica.
    seed = key or secrets.token_urlsafe(32)
    record = await relay.accept(
        relay.ledger.tokens.protect(NewInvocation.of(arguments, key, payer, relay.settings.default_window), seed)
    )
    if arguments.mode == "foreground":
        record = await _until_finished(relay, record, relay.settings.wait, request)
    token = relay.ledger.tokens.given(record, seed)
    view = vars(record.view) | {"invocation_token": token}
    if record.view.url is not None:
        view["url"] = with_token(record.view.url, token)
    accepted = AcceptedInvocation.model_construct(**view)
    status = 200 if arguments.mode == "foreground" and record.finished else 202
    return JsonResponse(accepted.model_dump_json(), status, {"Location": f"{INVOCATIONS_PATH}/{record.id}"})


@routes.get(_ONE, response_model=Invocation, responses=VIEW, summary="Get the invocation")
async def view(record: Readable) -> Response:
    return JsonResponse(record.view_json)


@routes.get(_ONE + "/wait", response_model=Invocation, responses=WAITED, summary="Wait for the end of the invocation")
async def wait(
    request: Request,
    record: Readable,
    timeout: Annotated[
        float | None,
        Query(ge=0, allow_inf_nan=False, description="Seconds; the operator's limit is the default and the maximum."),
    ] = None,
) -> Response:
    """Return 200 with the view once the invocation has ended, 202 if it has not ended in time."""
    relay = relay_of(request)
    limit = relay.settings.wait
    seconds = limit if timeout is None else min(timeout, limit)
    record = await _until_finished(relay, record, seconds, request)
    return JsonResponse(record.view_json, 200 if record.finished else 202)


@routes.get(_ONE + "/events", responses=STREAM, summary="Stream the events of the invocation")
async def events(
    request: Request,
    record: Readable,
    last_event_id: Annotated[str | None, Header(alias=LAST_EVENT_HEADER)] = None,
) -> Response:
    """Stream server-sent events from the first one on, or from the one after `Last-Event-ID`."""
    relay = relay_of(request)
    last = 0
    if last_event_id:  # an empty one means the beginning, as for browsers
        newest = last_id(record, await relay.pieces(record))
        last = _event_id(last_event_id, newest)
        if record.finished and last == newest:
            return Response(status_code=204)
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(relay, record, last), media_type="text/event-stream", headers=headers)


@routes.post(_ONE + "/cancel", response_model=Invocation, responses=VIEW, summary="Cancel the research run")
async def cancel(request: Request, record: Readable) -> Response:
    """Ask the gateway to stop the run, until it has ended; the view may still say `running`. An ended run stays as it
    is."""
    relay = relay_of(request)
    if not record.finished:
        await relay.cancel(record.id)
        record = await _until_finished(relay, record, relay.settings.timings.cancel, request)
    return JsonResponse(record.view_json)


@routes.head("/healthz", include_in_schema=False)
@routes.get("/healthz", response_model=Health, responses=HEALTH, summary="Check that the process is alive")
async def healthz() -> Response:
    return JsonResponse('{"status":"ok"}')


@routes.head("/readyz", include_in_schema=False)
@routes.get("/readyz", response_model=Health, responses=HEALTH, summary="Check that the relay accepts work")
async def readyz(request: Request) -> Response:
    await relay_of(request).check_ready()
    return JsonResponse('{"status":"ready"}')


@routes.get("/metrics", dependencies=[Depends(require_key)], include_in_schema=False)
async def metrics(request: Request) -> Response:
    return JsonResponse(await relay_of(request).metrics(), headers={"Content-Type": CONTENT_TYPE})


async def _until_finished(relay: Relay, record: Record, seconds: float, request: Request) -> Record:
    """Return the record once it has ended, or after `seconds`, or when the relay stops or the client disconnects."""
    if record.finished or seconds == 0:
        return record
    until = time.monotonic() + seconds
    next_check = time.monotonic() + _LIVENESS
    async with relay.hub.watch(record) as topic:
        while True:
            # `next_change` first: a change after it ends the wait below, one before it is in the record.
            change, record, now = topic.next_change(), topic.record, time.monotonic()
            if record.finished or now >= until or relay.hub.closing:
                break
            if now >= next_check:
                if await request.is_disconnected():
                    break
                next_check = now + _LIVENESS
            await happens(change, min(until, next_check) - now)
    return record


async def _stream(relay: Relay, record: Record, last: int) -> AsyncIterator[bytes | memoryview]:
    hint = b"retry: 1000\n\n"  # milliseconds
    yield hint
    # If the ledger goes away the stream ends early, which makes the client reconnect.
    with suppress(LedgerUnavailable):
        async with relay.hub.watch(record) as topic:
            async for part in _follow(relay, topic, last):
                yield part
    if relay.hub.closing:
        yield hint


async def _follow(relay: Relay, topic: Topic, last: int) -> AsyncIterator[bytes | memoryview]:
    while not relay.hub.closing:
        # `next_change` first, and `finished` before the events: the last round then has all of them.
        change, finished = topic.next_change(), topic.record.finished
        for event in topic.events_after(last):
            for piece in in_pieces(event.encoded):
                yield piece
            last = event.id
        if finished:
            return
        if not await happens(change, relay.settings.timings.keep_alive):
            yield b": keep-alive\n\n"


def _event_id(text: str, newest: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:12]) <= newest and len(text) <= 12):
        raise bad_header(LAST_EVENT_HEADER, "is not an event id of this invocation")
    return int(text)
