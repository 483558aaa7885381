"""`/docs` in a real browser without network besides the relay."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..browser import Page
from ..running import ThreadedRelay


def test_nothing_is_loaded_from_another_host(relay: ThreadedRelay) -> None:
    page = relay.api.call("GET", "/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("-http", "")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs/{name}" in page.text
        assert len(relay.api.call("GET", f"/docs/{name}").content) > 100_000
    assert relay.api.call("HEAD", "/docs").status_code == 200
    assert relay.api.call("GET", "/docs/nothing.js").status_code == 404


def test_the_page_can_send_a_request(relay: ThreadedRelay, page: Page) -> None:
    page.open(f"{relay.api.base_url}/docs")
    operation = "[id*='healthz']"
    page.click(f"{operation} .opblock-summary-control")
    page.click(f"{operation} .try-out__btn")
    page.click(f"{operation} .execute")
    page.until_text(".live-responses-table tbody .response-col_status", "200")
    assert page.hosts == {urlsplit(relay.api.base_url).netloc}
