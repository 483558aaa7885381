"""The routes of the page of a run, without a browser."""

from __future__ import annotations

import pytest

from ..conftest import StartRelay
from ..running import ThreadedRelay, body


@pytest.mark.parametrize(
    "path", ["/", "/runs/inv_x", "/page/run.js", "/page/relay.js", "/page/run.css", "/page/icon.svg"]
)
def test_the_headers(path: str, relay: ThreadedRelay) -> None:
    answer = relay.api.call("GET", path)
    assert answer.status_code == 200
    policy = dict(one.strip().partition(" ")[::2] for one in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    head = relay.api.call("HEAD", path)
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", answer.headers["content-type"])


def test_the_page_is_the_same_for_every_run(relay: ThreadedRelay) -> None:
    started = relay.api.start()
    pages = {
        relay.api.call("GET", f"/runs/{id}").content for id in (started["invocation_id"], "inv_x", "<b>", "%22%3E")
    }
    assert len(pages) == 1
    assert b"<script>" not in pages.pop()
    for path in ("/page/run.html", "/page/../pages.py", "/page/%2e%2e/pages.py", "/page/", "/runs/", "/page/run.js/x"):
        assert relay.api.call("GET", path).status_code == 404


def test_the_report_needs_the_token(relay: ThreadedRelay) -> None:
    started = relay.api.start("Why?")
    path = f"/runs/{started['invocation_id']}/report"
    assert relay.api.call("GET", path).status_code == 403
    assert relay.api.call("GET", path, headers={"X-Invocation-Token": "wrong"}).status_code == 403
    relay.api.wait(started)
    told = relay.api.call("GET", path, headers={"X-Invocation-Token": started["invocation_token"]}).json()
    assert told == {"research_question": "Why?", "language": None, "html": '<p dir="auto">The answer.</p>\n'}


def test_a_page_below_a_path(relay: ThreadedRelay) -> None:
    """A proxy may serve the relay under a path: the page refers to everything relatively."""
    html = relay.api.call("GET", "/runs/inv_x").text
    assert '="/' not in html
    assert "://" not in html
    for file in ("run.js", "relay.js", "run.css"):
        text = relay.api.call("GET", f"/page/{file}").text
        assert "://" not in text.replace("[^:]://", "")
        assert '"/' not in text


def test_starts_hand_out_the_link(start_relay: StartRelay) -> None:
    relay = start_relay(public_url="https://relay.example.org/deep")
    started = relay.api.start()
    page = f"https://relay.example.org/deep/runs/{started['invocation_id']}"
    assert started["url"] == f"{page}#{started['invocation_token']}"
    assert relay.api.wait(started)["url"] == relay.api.view(started)["url"] == page
    assert relay.api.events(started)[-1].data["url"] == page
    foreground = relay.api.post(body("Why?")).json()
    assert foreground["url"].endswith(f"#{foreground['invocation_token']}")


def test_without_a_public_address_there_is_no_link(relay: ThreadedRelay) -> None:
    started = relay.api.start()
    assert started["url"] is None
    assert relay.api.wait(started)["url"] is None
