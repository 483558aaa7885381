"""Helpers of the tests of the page of a run."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ...fakes.gateway import Gateway, Json, message
from ..browser import Page
from ..running import Api

TEXT = "# Noodles\n\nThey are **old** ([a source](https://a.example/1)).\n\n## Since when\n\n* 1883\n* 1905\n"


def link(api: Api, started: Json, token: str | None = None) -> str:
    """Return the address of a run's page, by default with its token."""
    return f"{api.base_url}/runs/{started['invocation_id']}#{started['invocation_token'] if token is None else token}"


def answers(upstream: Gateway, text: str, *sources: tuple[str, str], **usage: Any) -> None:
    """Let the gateway answer with a text and its sources, in pieces if it streams."""

    def final(_: Json) -> Json:
        whole = message(text, usage=usage)
        whole["output"][0]["content"][0]["annotations"] = [
            {"type": "url_citation", "url": url, "title": title, "start_index": 0, "end_index": 1}
            for url, title in sources
        ]
        return whole

    upstream.final = final
    upstream.pieces = [text[at : at + 20] for at in range(0, len(text), 20)]


def until_ready(page: Page, seconds: float = 60) -> None:
    """Wait until the page shows the end of its run."""
    page.until("document.body.dataset.ready", seconds)


def assert_clean(page: Page, api: Api, *tokens: str) -> None:
    """Assert that the page's scripts had no errors, and that nothing but the relay was asked, never with a token."""
    assert page.complaints == []
    assert page.hosts == {urlsplit(api.base_url).netloc}
    assert not [url for url in page.requested for token in tokens if token in url]
