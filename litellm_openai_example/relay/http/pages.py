"""The page of a run, for a person: `/runs/{id}`, and `/`, where an id is pasted.

The page is the same for every run, and holds nothing of it. Its script takes the token from the fragment of the
address, which browsers send to no server, and reads the run through the API: the events, and here the report as HTML.

A report's Markdown is a model's, so nothing in it may act: HTML in it is shown as text, images are not loaded, and
links lead to web pages or mail addresses alone, so none changes the page's own address.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ...json_object import JsonObject
from ...research.contract import PAGES_PATH
from .access import Readable
from .responses import JsonResponse, Problem

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

# No inline script or style, and nothing from another host: markup that a report smuggled in could neither run nor send.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_TURN = 10.0  # seconds that a report waits for others to be rendered
LONGEST = 250_000  # characters: a book of a hundred pages
SECONDS = 5.0  # of processor time; the longest usual text takes one, but brackets in brackets take a multiple
_DEEPEST = 60  # levels; a level of a list counts twice
_LINK = re.compile(r"https?://[^/]|mailto:[^/]", re.IGNORECASE)
_PAGE_LEVELS = 2  # levels of headings above the report: the question, and "Report"

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
    is_markdown = record.deliverable_format != "json_outline" and not arguments.get("text_format")
    if record.output_text and is_markdown:
        told["html"] = await _render(request, record.output_text)
    return JsonResponse(json.dumps(told))


def _page(root: str) -> Response:
    """Return the page with the way to the relay's root: behind a proxy, that may be a path."""
    return Response(_assets()["run.html"].replace(b"{root}", root.encode()), media_type="text/html", headers=_HEADERS)


@cache
def _assets() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (files(__package__) / "page").iterdir()}


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


# Markdown


class _TooSlow(Exception):
    pass


def render(text: str, seconds: float = SECONDS) -> str | None:
    """Return the HTML of a report; None if it is too long, nested too deep, or takes too long to render.

    Blocking: call it in a thread.

    Args:
        text: the Markdown.
        seconds: of this thread's processor time. A busy machine gets as far as an idle one.
    """
    if len(text) > LONGEST:
        return None
    parser, env = _parser(), {"until": time.thread_time() + seconds}
    try:
        tokens = parser.parse(text, env)
    except (_TooSlow, RecursionError):
        return None
    if any(token.level >= _DEEPEST - 1 for token in tokens):
        return None  # the parser drops what is deeper
    _adapt(tokens)
    return str(parser.renderer.render(tokens, parser.options, env))


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt  # here: a relay imports it only for its first page

    class Parser(MarkdownIt):
        def validateLink(self, url: str) -> bool:
            return _LINK.match(url) is not None

    parser = Parser("commonmark", {"html": False, "linkify": True, "maxNesting": _DEEPEST})
    parser.enable(["table", "strikethrough"]).disable("image")
    parser.inline.ruler.enable("linkify")  # addresses with a scheme; the core's rule would guess others
    # The parser calls its rules at each position, so these see the time pass in any text.
    parser.block.ruler.before("table", "time limit", _check_time)
    parser.inline.ruler.before("text", "time limit", _check_time)
    return parser


def _check_time(state: Any, *_: object) -> bool:
    if time.thread_time() > state.env["until"]:
        raise _TooSlow
    return False


def _adapt(tokens: Sequence[Token]) -> None:
    """Fit a report into the page: headings below its own, blocks in the direction of their text, links in new tabs."""
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(6, int(token.tag[1:]) + _PAGE_LEVELS)}"
        # Only the outermost blocks: to find its direction, a list skips entries that have one themselves.
        if token.nesting == 1 and token.level == 0:
            token.attrSet("dir", "auto")
        # A column's alignment, as a class: the page's policy ignores style attributes.
        if alignment := token.attrs.pop("style", None):
            token.attrSet("class", str(alignment).rpartition(":")[2])
        for inner in token.children or ():
            if inner.type == "link_open" and inner.attrs["href"]:
                inner.attrs |= {"rel": "noopener noreferrer nofollow", "target": "_blank"}
            elif inner.type == "link_open":
                inner.attrs.clear()  # `[text]()`, which the parser does not validate
