"""The relay's routes.

FastAPI finds who may do what, checks parameters and headers, and documents all of it. Three things stay by hand, each
for a measured promise:

* The body of a start is read by us (`body.py`) and is no parameter: FastAPI would collect it without a bound of size or
  time (50 MB, or a byte a second), and its parsers keep the last of two fields of one name.
* Who pays (`payers.py`) and which relay it is (`relay_of`) are plain functions: a dependency costs a start some 3 % of
  its time, a header parameter 2 %; and few say who pays.
* Views are stored as JSON and sent as they are: `response_model` documents them, but does not build them anew at every
  look. A result may have megabytes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
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
)
from ..engine.hub import Topic, happens
from ..events import RETRY_MILLISECONDS, last_id
from ..ledger.failures import LedgerUnavailable
from ..ledger.records import NewInvocation, Record
from ..metrics import CONTENT_TYPE, exposition
from ..relay import Relay
from .access import Readable, may_pay, relay_of
from .agents import mount_agents
from .body import bad_header, parse, read_body
from .docs import docs
from .errors import answer_errors
from .guard import Guard
from .openapi import ACCEPTED, HEALTH, STREAM, VIEW, WAITED, describe
from .payers import PARAMETERS, payer_of
from .responses import BoundedResponse, JsonResponse, in_pieces

_LIVENESS = 15.0  # seconds between two looks whether a waiting client is still there
_ONE = INVOCATIONS_PATH + "/{invocation_id}"

routes = APIRouter()

_Key = Annotated[
    str | None, Header(alias=IDEMPOTENCY_HEADER, min_length=1, max_length=MAX_IDEMPOTENCY_KEY, pattern=VISIBLE)
]


def create_app(relay: Relay) -> ASGIApp:
    """The ASGI application of one relay."""
    app = FastAPI(
        title="LiteLLM relay",
        description="Runs deep research through a LiteLLM gateway: started once, never lost.",
        version="1",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # What it records of an exception, its words among it, is not for others; and it would cost a look at the
        # environment with every request. What an operator may know is in the log and at /metrics.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.relay = relay
    # Not included: an included router is asked through another one, for 5 % of the time of a start.
    app.router.routes += [*routes.routes, *docs.routes]
    answer_errors(app)
    describe(app, needs_key=relay.settings.api_key is not None)
    served = Guard(app, loopback=relay.settings.loopback)
    mount_agents(app, served)
    return served


@routes.post(
    INVOCATIONS_PATH,
    dependencies=[Depends(may_pay)],
    response_model=AcceptedInvocation,
    responses=ACCEPTED,
    openapi_extra={"parameters": PARAMETERS},
    summary="Start a research run",
)
async def start(request: Request, key: _Key = None) -> Response:
    """Starts a research run, or finds the one that was started with the same `Idempotency-Key`. Send one: then a repeat
    after a lost answer is free of charge."""
    relay = relay_of(request)
    if key is not None and len(request.headers.getlist(IDEMPOTENCY_HEADER)) > 1:
        raise bad_header(IDEMPOTENCY_HEADER, "is there more than once")
    payer = payer_of(request)
    arguments = parse(await read_body(request, relay.settings.timings.body))
    seed = key or secrets.token_urlsafe(32)
    record = await relay.accept(relay.ledger.tokens.protect(NewInvocation.of(arguments, key, payer), seed))
    if arguments.mode == "foreground":
        record = await _until_finished(relay, record, relay.settings.wait, request)
    token = relay.ledger.tokens.given(record, seed)
    accepted = AcceptedInvocation.model_construct(**vars(record.view), invocation_token=token)
    status = 200 if arguments.mode == "foreground" and record.finished else 202
    return JsonResponse(accepted.model_dump_json(), status, {"Location": f"{INVOCATIONS_PATH}/{record.id}"})


@routes.get(_ONE, response_model=Invocation, responses=VIEW, summary="The invocation as it is")
async def view(record: Readable) -> Response:
    return JsonResponse(record.view_json)


@routes.get(_ONE + "/wait", response_model=Invocation, responses=WAITED, summary="The invocation once it has ended")
async def wait(
    request: Request,
    record: Readable,
    timeout: Annotated[
        float | None,
        Query(ge=0, allow_inf_nan=False, description="Seconds; by default and at most what the operator allows."),
    ] = None,
) -> Response:
    """200 with the view once it has ended, 202 when it has not ended in time."""
    relay = relay_of(request)
    limit = relay.settings.wait
    seconds = limit if timeout is None else min(timeout, limit)
    record = await _until_finished(relay, record, seconds, request)
    return JsonResponse(record.view_json, 200 if record.finished else 202)


@routes.get(_ONE + "/events", responses=STREAM, summary="What happens to the invocation, as it happens")
async def events(
    request: Request,
    record: Readable,
    last_event_id: Annotated[str | None, Header(alias=LAST_EVENT_HEADER)] = None,
) -> Response:
    """Server-sent events from the first one on, or from the one after `Last-Event-ID`."""
    relay = relay_of(request)
    last = 0
    if last_event_id:
        newest = last_id(record, await relay.pieces(record))
        last = _event_id(last_event_id, newest)
        if record.finished and last == newest:
            return Response(status_code=204)
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(relay, record, last), media_type="text/event-stream", headers=headers)


@routes.post(_ONE + "/cancel", response_model=Invocation, responses=VIEW, summary="Stop the research run")
async def cancel(request: Request, record: Readable) -> Response:
    """Asks the gateway to stop it until it has ended; the view may still say `running`. What has ended stays so."""
    relay = relay_of(request)
    if not record.finished:
        await relay.cancel(record.id)
        record = await _until_finished(relay, record, relay.settings.timings.cancel, request)
    return JsonResponse(record.view_json)


@routes.get("/", include_in_schema=False)
async def root() -> Response:
    return RedirectResponse("/docs")


@routes.head("/healthz", include_in_schema=False)
@routes.get("/healthz", response_model=Health, responses=HEALTH, summary="Whether the process lives")
async def healthz() -> Response:
    return JsonResponse('{"status":"ok"}')


@routes.head("/readyz", include_in_schema=False)
@routes.get("/readyz", response_model=Health, responses=HEALTH, summary="Whether it can take work")
async def readyz(request: Request) -> Response:
    await relay_of(request).check_ready()
    return JsonResponse('{"status":"ready"}')


@routes.get("/metrics", dependencies=[Depends(may_pay)], include_in_schema=False)
async def metrics(request: Request) -> Response:
    relay = relay_of(request)
    text = await exposition(relay.ledger, waiters=relay.hub.watchers, seconds=relay.settings.timings.ledger)
    return BoundedResponse(text, headers={"Content-Type": CONTENT_TYPE})


async def _until_finished(relay: Relay, record: Record, seconds: float, request: Request) -> Record:
    """The record once it has ended, or as it is after `seconds`, or when the relay stops or the client has gone."""
    if record.finished or seconds == 0:
        return record
    until = time.monotonic() + seconds
    next_look = time.monotonic() + _LIVENESS
    async with relay.hub.watch(record) as topic:
        while True:
            change, record, now = topic.next_change(), topic.record, time.monotonic()
            if record.finished or now >= until or relay.hub.closing:
                break
            if now >= next_look:
                if await request.is_disconnected():
                    break
                next_look = now + _LIVENESS
            await happens(change, min(until, next_look) - now)
    return record


async def _stream(relay: Relay, record: Record, last: int) -> AsyncIterator[bytes | memoryview]:
    hint = f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    yield hint
    # Without its ledger the stream ends too soon, which tells the client to come back.
    with suppress(LedgerUnavailable):
        async with relay.hub.watch(record) as topic:
            async for part in _follow(relay, topic, last):
                yield part
    if relay.hub.closing:
        yield hint


async def _follow(relay: Relay, topic: Topic, last: int) -> AsyncIterator[bytes | memoryview]:
    while not relay.hub.closing:
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
        raise bad_header(LAST_EVENT_HEADER, "is not the id of an event of this invocation")
    return int(text)
