"""The page of a run in a real browser: from its start to its end, across reloads and restarts of the relay."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ...fakes.gateway import Gateway, message
from ...fakes.scripted import eventually, free_port
from ..browser import Page
from ..conftest import StartRelay
from ..running import FAST, RelayProcess, ThreadedRelay, environment
from .pages import TEXT, answers, assert_clean, link, until_ready


@pytest.fixture
def relay(start_relay: StartRelay) -> ThreadedRelay:
    """A relay that does not replace a silent stream by polls."""
    return start_relay(timings=replace(FAST, stall=60.0))


def test_a_run_from_its_first_status_to_its_report(
    start_relay: StartRelay, upstream: Gateway, page: Page, hold: Callable[[int], threading.Event]
) -> None:
    # So that the submission counts as queued until it is answered.
    relay = start_relay(timings=replace(FAST, stall=60.0, gate=60.0))
    usage = {"input_tokens": 12345, "output_tokens": 678, "output_tokens_details": {"reasoning_tokens": 90}}
    answers(upstream, TEXT, ("https://a.example/1", "A source"), ("https://b.example/2", "An [other] one"), **usage)
    upstream.cost = "1.5"
    release, upstream.accept = hold(2), 60.0
    started = relay.api.start("Why <b>noodles</b>?", stream=True)
    page.open(link(relay.api, started))
    page.until_text("#state", "Queued")
    assert page.text("h1") == "Why <b>noodles</b>?"
    page.until_text("#seconds", "1 s")
    upstream.accept = 0.0
    page.until_text("#state", "Running")
    page.until_text("#text", TEXT[:40].splitlines()[-1])
    assert page.run("document.title") == "Running – Why <b>noodles</b>?"
    assert page.run("document.querySelector('#cancel').hidden || document.querySelector('#downloads').hidden")
    release.set()
    until_ready(page)
    assert page.text("#state") == "Completed"
    assert page.run("[...document.querySelectorAll('#report > *')].map(e => e.localName)") == ["h3", "p", "h4", "ul"]
    assert page.text("#report p") == "They are old (a source)."
    shown = page.run("[...document.querySelectorAll('#sources a')].map(e => [e.href, e.textContent, e.rel])")
    rel = "noopener noreferrer nofollow"
    assert shown == [["https://a.example/1", "A source", rel], ["https://b.example/2", "An [other] one", rel]]
    details = page.text("#details")
    for fact in ("$1.50", "12,345 in, 678 out (90 of them reasoning)"):
        assert fact in details
    assert page.run("document.querySelector('#cancel').hidden && document.querySelector('#text').hidden")
    assert page.run("location.hash.slice(1)") == started["invocation_token"]
    assert_clean(page, relay.api, started["invocation_token"])


def test_downloads(relay: ThreadedRelay, upstream: Gateway, page: Page, tmp_path: Path) -> None:
    odd = "https://b.example/a(b)?q=%2F<x>"
    answers(upstream, TEXT, ("https://a.example/1", "A source"), (odd, "An [other]\n*one*"))
    started = relay.api.start()
    view = relay.api.wait(started)
    page.open(link(relay.api, started))
    until_ready(page)
    page.click("#markdown")
    page.click("#json")
    files = [tmp_path / f"{started['invocation_id']}.{kind}" for kind in ("md", "json")]
    assert eventually(lambda: all(file.exists() and file.stat().st_size for file in files))
    written = "* [An \\[other\\] \\*one\\*](<https://b.example/a(b)?q=%2F%3Cx%3E>)"
    assert files[0].read_text() == f"{TEXT}\n\n## Sources\n\n{written}\n"
    assert json.loads(files[1].read_text()) == view


def test_a_reload_in_the_middle(
    relay: ThreadedRelay, upstream: Gateway, page: Page, hold: Callable[[int], threading.Event]
) -> None:
    answers(upstream, TEXT)
    release = hold(2)
    started = relay.api.start(stream=True)
    for _ in range(2):
        page.open("about:blank")
        page.open(link(relay.api, started))
        page.until(f"document.querySelector('#text').textContent === {json.dumps(TEXT[:40])}")
    page.call("Page.reload")
    page.until(f"document.querySelector('#text')?.textContent === {json.dumps(TEXT[:40])}")
    release.set()
    until_ready(page)
    assert page.text("#report h3") == "Noodles"
    assert len(upstream.posts) == 1


# Breaks the event stream on `cut()`; the next request for events names the event `window.last`, if that is set.
BREAKING = """
const send = window.fetch;
window.fetch = (address, options = {}) => {
  if (!address.endsWith("/events")) return send(address, options);
  const broken = new AbortController();
  window.cut = () => broken.abort();
  const headers = {...options.headers};
  if (window.last) headers["Last-Event-ID"] = window.last;
  delete window.last;
  return send(address, {...options, headers, signal: AbortSignal.any([options.signal, broken.signal])});
};
"""


@pytest.mark.parametrize("last", ["", "999"])
def test_a_broken_stream_is_resumed(
    last: str, relay: ThreadedRelay, upstream: Gateway, page: Page, hold: Callable[[int], threading.Event]
) -> None:
    """From the last event, or from the first if the relay does not know the last, as after a restored backup."""
    answers(upstream, TEXT)
    release = hold(2)
    started = relay.api.start(stream=True)
    page.call("Page.addScriptToEvaluateOnNewDocument", source=BREAKING)
    page.open(link(relay.api, started))
    whole = "document.querySelector('#text').textContent"
    page.until(f"{whole} === {json.dumps(TEXT[:40])}")
    page.run(f"window.last = {json.dumps(last)}; cut()")
    page.until_text("#connection", "lost")
    page.until("document.querySelector('#connection').textContent === ''")
    page.until(f"{whole} === {json.dumps(TEXT[:40])}")
    release.set()
    until_ready(page)
    assert page.text("#report h3") == "Noodles"
    assert_clean(page, relay.api, started["invocation_token"])


@pytest.mark.parametrize("crash", [True, False])
def test_a_restart_of_the_relay_in_the_middle(
    crash: bool, sqlite_url: str, upstream: Gateway, page: Page, hold: Callable[[int], threading.Event]
) -> None:
    answers(upstream, TEXT)
    hold(2)
    port = free_port()
    relays = [RelayProcess(environment(sqlite_url, upstream, RELAY_LOG_LEVEL="DEBUG"), "--port", str(port)).ready()]
    try:
        started = relays[0].api.start(stream=True)
        page.open(link(relays[0].api, started))
        page.until(f"document.querySelector('#text').textContent === {json.dumps(TEXT[:40])}")
        if crash:
            relays[0].kill()
        else:
            relays[0].terminate()
        page.until_text("#connection", "lost")
        assert page.text("#state") == "Running"
        relays.append(RelayProcess(environment(sqlite_url, upstream), "--port", str(port)).ready())
        page.until("document.querySelector('#connection').textContent === ''")
        upstream.finish()
        until_ready(page)
        assert page.text("#report h3") == "Noodles"
        assert len(upstream.posts) == 1
        assert_clean(page, relays[1].api, started["invocation_token"])
        assert not [one for one in relays if started["invocation_token"][:20] in one.log]
    finally:
        for one in relays:
            one.ensure_ended()


def test_the_final_event_is_not_awaited_twice(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    """Opened after the end, the page reads the view, and needs no event."""
    answers(upstream, TEXT)
    started = relay.api.start()
    relay.api.wait(started)
    page.open(link(relay.api, started))
    until_ready(page)
    assert page.text("#report h3") == "Noodles"
    assert not [url for url in page.requested if url.endswith("/events")]


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("wrong", "does not open the run"),
        ("", "lacks the run's token"),
        ("%zz", "does not open the run"),
        ("%ED%86%A0", "damaged"),
        ("a%0D%0Ab", "damaged"),
        ("<img src=x onerror=window.hacked=1>", "damaged"),
    ],
)
def test_a_wrong_token(token: str, problem: str, relay: ThreadedRelay, page: Page) -> None:
    started = relay.api.start()
    page.open(link(relay.api, started, token))
    page.until_text("#problem", problem)
    assert page.run("document.activeElement.id") == "open-token"
    assert page.run("document.querySelector('#run').hidden && !window.hacked")
    page.type(started["invocation_token"])
    page.press("Enter", "\r")
    until_ready(page)
    assert page.text("#problem") == ""
    assert page.text("#state") == "Completed"
    assert_clean(page, relay.api, started["invocation_token"])


@pytest.mark.parametrize(
    "form", ["{base}/runs/{id}#{token}", "{id}.{token}", " {id} ", "https://other.example/runs/{id}#{token}"]
)
def test_the_start_page_takes_what_names_a_run(form: str, relay: ThreadedRelay, page: Page) -> None:
    started = relay.api.start("Why?")
    given = form.format(base=relay.api.base_url, id=started["invocation_id"], token=started["invocation_token"])
    page.open(f"{relay.api.base_url}/")
    page.until("document.activeElement.id === 'open-id'")
    page.type(given)
    if "{token}" not in form:
        page.press("Tab")
        page.type(started["invocation_token"])
    page.press("Enter", "\r")
    until_ready(page)
    assert page.run("location.pathname") == f"/runs/{started['invocation_id']}"
    assert page.text("h1") == "Why?"
    assert_clean(page, relay.api, started["invocation_token"])


def test_another_token_in_the_address_opens_the_run(relay: ThreadedRelay, page: Page) -> None:
    started = relay.api.start()
    page.open(link(relay.api, started, "wrong"))
    page.until_text("#problem", "does not open")
    page.run(f"location.hash = {json.dumps(started['invocation_token'])}")
    until_ready(page)


def test_a_cancel_with_the_keyboard(
    relay: ThreadedRelay, upstream: Gateway, page: Page, hold: Callable[[int], threading.Event]
) -> None:
    answers(upstream, TEXT)
    hold(2)
    upstream.seconds = 60.0
    started = relay.api.start(stream=True)
    page.open(link(relay.api, started))
    page.until_text("#text", "Noodles")
    page.run("document.querySelector('#cancel').focus()")
    for leave in ("Escape", "Enter"):  # Enter on the button in focus, which keeps the run
        page.press("Enter", "\r")
        page.until("document.querySelector('#confirm').open")
        page.press(leave, "\r" if leave == "Enter" else "")
        page.until("!document.querySelector('#confirm').open")
    assert page.text("#state") == "Running"
    page.press("Enter", "\r")
    page.until("document.querySelector('#confirm').open")
    page.press("Tab")
    assert page.run("document.activeElement.value") == "cancel"
    page.press("Enter", "\r")
    until_ready(page)
    assert page.text("#state") == "Cancelled"
    assert page.run("document.querySelector('#cancel').hidden")
    assert upstream.cancels == 1
    assert relay.api.view(started)["status"] == "cancelled"


def test_a_cancel_that_fails(start_relay: StartRelay, upstream: Gateway, page: Page) -> None:
    upstream.seconds = 60.0
    relay = start_relay()
    page.open(link(relay.api, relay.api.start()))
    page.until_text("#state", "Running")
    page.call("Network.setBlockedURLs", urls=["*/cancel"])
    page.click("#cancel")
    page.click("#confirm [value=cancel]")
    page.until_text("#problem", "could not be cancelled")
    assert page.text("#state") == "Running"
    page.call("Network.setBlockedURLs", urls=[])
    page.click("#cancel")
    page.click("#confirm [value=cancel]")
    page.until_text("#state", "Cancelled")


def test_a_failed_run_says_why(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    upstream.final = lambda _: (
        message("A part.") | {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    )
    started = relay.api.start()
    view = relay.api.wait(started)
    page.open(link(relay.api, started))
    until_ready(page)
    assert page.text("#state") == "Incomplete"
    assert page.text("#problem") == view["error_message"]
    assert page.text("#report") == "A part."
    assert "output_limit_reached" in page.text("#details")


def test_a_report_that_is_not_markdown_is_shown_as_it_is(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    answers(upstream, text := '{"title": "*a*",\n  "sections": []}')
    started = relay.api.start(deliverable_format="json_outline")
    relay.api.wait(started)
    page.open(link(relay.api, started))
    until_ready(page)
    assert page.text("#text") == text


def test_a_korean_report_on_a_phone(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    """Nothing makes the page wider than the screen, and words of a narrow column stay whole."""
    long = "https://a.example/" + "0123456789" * 30
    row = "| 1905 | 공화춘 개업, 부두 노동자에게 국수를 팔기 시작 | https://gonghwachun.example/ |"
    code = f"```\n{'x' * 300}\n```\n\n`{'y' * 300}`"
    answers(
        upstream,
        f"# 짜장면의 역사\n\n{long}\n\n| 연도 | 사건 | 출처 |\n|-:|-|-|\n{row}\n\n{code}",
        (long, ""),
        (long, "z" * 300),
    )
    started = relay.api.start("짜장면의 역사와 기원에 대해 상세히 조사해줘")
    relay.api.wait(started)
    page.emulate(width=390, height=844)
    page.open(link(relay.api, started))
    until_ready(page)
    assert page.run("document.documentElement.scrollWidth") == 390
    # As high as a line for each of its seven words, at the most.
    assert (
        page.run("(e => e.offsetHeight / parseFloat(getComputedStyle(e).lineHeight))(document.querySelector('td'))") < 8
    )
    scrollable = "[...document.querySelectorAll('pre, table')].map(e => [e.scrollWidth > e.clientWidth, e.tabIndex])"
    assert page.run(scrollable) == [[True, 0], [True, 0]]
