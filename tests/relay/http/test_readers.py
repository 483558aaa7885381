"""The page of a run for all readers: languages, screen readers, phones, the dark."""

from __future__ import annotations

import pytest

from ...fakes.gateway import Gateway
from ..browser import Page
from ..running import ThreadedRelay
from .pages import TEXT, answers, link, until_ready


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
        until_ready(page)
        assert page.text("h1") == question
        assert page.run("document.querySelector('#report').lang") == language
        for block in ("h1", "#report h3", "#report ul"):
            assert page.run(f"getComputedStyle(document.querySelector('{block}')).direction") == direction
        assert page.run("document.documentElement.dir") == ""


def test_the_language_of_the_arguments_wins(relay: ThreadedRelay, page: Page) -> None:
    started = relay.api.start("Why?", language="pt-BR")
    relay.api.wait(started)
    page.open(link(relay.api, started))
    until_ready(page)
    assert page.run("document.querySelector('#report').lang") == "pt-BR"


def test_a_screen_reader_finds_its_way(relay: ThreadedRelay, upstream: Gateway, page: Page) -> None:
    answers(upstream, TEXT, ("https://a.example/1", "A source"))
    started = relay.api.start("Why?")
    relay.api.wait(started)
    page.open(link(relay.api, started))
    until_ready(page)
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
    until_ready(page)
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
