"""The list of cited pages under an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol


class Cited(Protocol):
    """A page that an answer cites."""

    @property
    def url(self) -> str: ...
    @property
    def title(self) -> str: ...


def source_list(sources: Iterable[Cited], text: str) -> str:
    """The pages whose address does not stand in the text, under a heading, none twice; empty if there are none.

    Args:
        sources: what the answer cites; nothing in them is trusted.
        text: the answer.
    """
    lines: dict[str, str] = {}
    for source in sources:
        url, title = _one_line(source.url), _one_line(source.title)
        page = url.rstrip("/")
        if page and page not in lines and not _holds(text, page):
            lines[page] = f"- {title}: {url}" if title and title != url else f"- {url}"
    return "\n".join(["Sources:", *lines.values()]) if lines else ""


def _holds(text: str, page: str) -> bool:
    """Whether an address stands in the text, and not only as the beginning of a longer one."""
    return page in text and re.search(re.escape(page) + r"/?(?![\w/%?&=#~+@:-]|[.,;!]\w)", text, re.ASCII) is not None


def _one_line(text: object) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""
