"""The page of a run, for a person: `/runs/{id}`, and `/`, where an id is pasted.

The page is the same for every run, and holds nothing of it. Its script takes the token from the fragment of the
address, which browsers send to no server, and reads the run through the API: the events, and here the report as HTML.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ...json_object import JsonObject
from ...research.contract import PAGES_PATH
from ..ledger.records import Record
from .access import Readable
from .markdown import render
from .responses import JsonResponse, Problem

# No inline script or style, and nothing from another host: markup that a report smuggled in could neither run nor send.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_TURN = 10.0  # seconds that a report waits for others to be rendered

pages = APIRouter(include_in_schema=False)


@pages.api_route("/", methods=["GET", "HEAD"])
async def start_page() -> Response:
    return _page("")


@pages.api_route(PAGES_PATH + "/{invocation_id}", methods=["GET", "HEAD"])
async def run_page(invocation_id: str) -> Response:  # noqa: ARG001 - the script takes it from the address
    return _page("../")


@pages.api_route("/page/{name}", methods=["GET", "HEAD"])
async def asset(name: str) -> Response:
    kind = _TYPES.get(name.rpartition(".")[2])
    if kind is None or name not in _assets():
        raise Problem("not_found")
    return Response(_assets()[name], media_type=kind, headers=_HEADERS)


@pages.get(PAGES_PATH + "/{invocation_id}/report")
async def report(request: Request, record: Readable) -> Response:
    """Return the question, its language, and the report as HTML; null for what is shown as plain text."""
    arguments: JsonObject = json.loads(record.arguments)
    told = {name: arguments.get(name) for name in ("research_question", "language")} | {"html": None}
    if record.output_text and _is_markdown(record, arguments):
        told["html"] = await _render(request, record.output_text)
    return JsonResponse(json.dumps(told))


def _page(root: str) -> Response:
    """Return the page with the way to the relay's root: behind a proxy, that may be a path."""
    return Response(_assets()["run.html"].replace(b"{root}", root.encode()), media_type="text/html", headers=_HEADERS)


@cache
def _assets() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (files(__package__) / "page").iterdir()}


def _is_markdown(record: Record, arguments: JsonObject) -> bool:
    return record.deliverable_format != "json_outline" and not arguments.get("text_format")


async def _render(request: Request, text: str) -> str | None:
    # One at a time: rendering keeps a processor busy, and a thread slows down the event loop.
    turn: asyncio.Lock = request.app.state.rendering
    try:
        async with asyncio.timeout(_TURN):
            await turn.acquire()
    except TimeoutError:
        return None
    try:
        return await asyncio.to_thread(render, text)
    finally:
        turn.release()
