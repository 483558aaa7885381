"""A report's Markdown as HTML for a page.

The text is a model's, so nothing in it may act: HTML in it is shown as text, images are not loaded, and links lead to
web pages or mail addresses alone, so none changes the page's own address.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

LONGEST = 250_000  # characters: a book of a hundred pages
SECONDS = 5.0  # of processor time; the longest usual text takes one, but brackets in brackets take a multiple
_DEEPEST = 60  # levels; a level of a list counts twice
_LINK = re.compile(r"https?://[^/]|mailto:[^/]", re.IGNORECASE)
_PAGE_LEVELS = 2  # levels of headings above the report: the question, and "Report"


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
