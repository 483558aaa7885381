"""The pages that an answer rests on: read out of a reply, and listed under the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ..json_object import JsonObject
from .lenient import as_dict, as_list, as_str


@dataclass(frozen=True)
class Source:
    """A page that an answer rests on; `title` is empty where none is given."""

    url: str
    title: str = ""


class Cited(Protocol):
    """A page that an answer cites."""

    @property
    def url(self) -> str: ...
    @property
    def title(self) -> str: ...


def read_sources(*lists: object) -> tuple[Source, ...]:
    """The pages named in lists of annotations, search results or addresses, each once, with the first title given.

    An annotation holds its address itself (Responses API) or under its type, `url_citation` (chat).
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
    """What a `web_search_call` item read; LiteLLM puts an Anthropic model's sources there, and nowhere else."""
    places = (as_dict(as_dict(item).get("action")), as_dict(item))
    return [entry for place in places for name in ("sources", "results") for entry in as_list(place.get(name))]


def anthropic_pages(place: JsonObject) -> Iterable[list[object]]:
    """What an Anthropic model cites and what it has read, with titles: LiteLLM leaves both as they came."""
    extra = as_dict(place.get("provider_specific_fields"))
    yield from map(as_list, as_list(extra.get("citations")))
    yield from (as_list(as_dict(result).get("content")) for result in as_list(extra.get("web_search_results")))


def source_list(sources: Iterable[Cited], text: str) -> str:
    """The pages whose address does not stand in the text, under a heading, none twice; empty if there are none.

    Nothing in the sources is trusted.
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
