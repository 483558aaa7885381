"""The rendering of reports, without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from litellm_openai_example.relay.http.pages import LONGEST, render

# Relatives of the same few attacks: markup, addresses that run code, addresses that leave the page or change it.
HOSTILE = [
    "<script>alert(1)</script>",
    "<ScRiPt\n>alert(1)</script\t>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<form action=https://evil.example><input name=token></form>",
    "<base href=https://evil.example>",
    "<style>*{display:none}</style>",
    "<!-- --!><img src=x onerror=alert(1)> -->",
    "<![CDATA[<img src=x onerror=alert(1)>]]>",
    "<?php ?><img src=x>",
    "</article></main><h1>Sign in</h1>",
    "`<img src=x>` ``<b>``",
    "    <b>indented</b>",
    "```<img src=x>\n<b>fenced</b>\n```",
    '```" onmouseover="alert(1)\n```',
    "&lt;img src=x onerror=alert(1)&gt;",
    "\\<img src=x>",
    "| <b>x</b> |\n|---|\n| <i>y</i> |",
    "[a](javascript:alert(1))",
    "[a](JAVASCRIPT:alert(1))",
    "[a]( \t<javascript:alert(1)>)",
    "[a](&#x6A;avascript:alert(1))",
    "[a](java&NewLine;script:alert(1))",
    "[a](java\\script:alert(1))",
    "[a](\x01javascript:alert(1))",
    "[a](vbscript:x) [b](data:text/html,x) [c](blob:https://evil.example/1) [d](file:///etc/passwd)",
    "[a](//evil.example) [b](/docs) [c](#token) [d](?x) [e](x) [f]() [g](\\\\evil.example)",
    "[a](https:evil.example) [b](https:///evil.example) [c](https:/evil.example) [d](mailto://evil.example)",
    "<javascript:alert(1)> <data:text/html,x> <//evil.example>",
    "[a]: javascript:alert(1)\n\n[a]",
    "[a]: <data:text/html,x> 'title'\n\n[a] [b][a]",
    "![a](https://evil.example/pixel.png)",
    "![a](data:image/svg+xml,<svg/onload=alert(1)>)",
    "![a][b]\n\n[b]: https://evil.example/pixel.png",
    "[![a](https://evil.example/pixel.png)](https://ok.example)",
    'https://ok.example/"onmouseover="alert(1) <https://ok.example/"onmouseover="alert(1)>',
    "[a](https://ok.example '\"onmouseover=\"alert(1)')",
    "javascript://ok.example/%0Aalert(1) vbscript://x data://x file://x",
    "# <img src=x onerror=alert(1)>",
    "> * 1. <b>deep</b>",
    "|a|\n|:-:|\n|b|",
]
TAGS = {
    *("a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "strong"),
    *("table", "tbody", "td", "th", "thead", "tr", "ul"),
}
ATTRIBUTES = {"class", "dir", "href", "rel", "start", "target", "title"}


class Elements(HTMLParser):
    """The elements of a text, as a browser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def check(html: str) -> None:
    assert not re.search("<[!?]", html)  # comments, declarations
    for tag, attributes in Elements(html).found:
        assert tag in TAGS
        assert attributes.keys() <= ATTRIBUTES
        if tag == "a" and attributes:
            assert re.match(r"https?://[^/]|mailto:[^/]", attributes["href"] or "")
            assert attributes["rel"] == "noopener noreferrer nofollow"
            assert attributes["target"] == "_blank"
        assert re.fullmatch(r"|center|left|right|language-\S+", attributes.get("class") or "")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_in_a_report_can_act(text: str) -> None:
    for form in (
        "{0}",
        "a {0} b",
        "* {0}",
        "> {0}",
        "**{0}**",
        "# {0}",
        "[x]({0})",
        "|a|\n|-|\n|{0}|",
        "{0}\n{0}\n\n{0}",
    ):
        html = render(form.format(text))
        assert html is not None
        check(html)


def test_two_hostile_texts_together() -> None:
    for first in HOSTILE:
        html = render("".join(f"{first}{second}" for second in HOSTILE))
        assert html is not None
        check(html)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# A\n\n###### B", '<h3 dir="auto">A</h3>\n<h6 dir="auto">B</h6>\n'),
        ("~~a~~ *b* **c** `d`", '<p dir="auto"><s>a</s> <em>b</em> <strong>c</strong> <code>d</code></p>\n'),
        ("* a\n  * b", '<ul dir="auto">\n<li>a\n<ul>\n<li>b</li>\n</ul>\n</li>\n</ul>\n'),
        ("|a|\n|-:|\n|b|", 'class="right">b</td>'),
        ("[a](https://a.example/?b=1&c=2)", 'href="https://a.example/?b=1&amp;c=2"'),
        ("see https://a.example/b_c_d.", 'href="https://a.example/b_c_d"'),
        ("<mailto:a@b.example>", 'href="mailto:a@b.example"'),
        ("a@b.example and a.example stay text", '<p dir="auto">a@b.example and a.example stay text</p>\n'),
        ("![a picture](https://a.example/b.png)", ">a picture</a>"),
        ("짜장면 😀 \U000e0041", "짜장면 😀"),
    ],
)
def test_what_a_report_looks_like(text: str, html: str) -> None:
    assert html in (render(text) or "")


def test_a_text_that_is_too_long_is_not_rendered() -> None:
    assert render("a" * LONGEST) is not None
    assert render("a" * (LONGEST + 1)) is None


@pytest.mark.parametrize(
    "unit", ["[", "![", "a\n", "- a\n", "|a|\n|-|\n", "a://", "*a", "[a](", ">", "  - a\n", "`" * 9 + "a"]
)
def test_a_text_that_takes_too_long_is_not_rendered(unit: str) -> None:
    # None, or HTML from a quick renderer: the time limit ends the rest.
    html = render((unit * LONGEST)[:LONGEST], seconds=0.2)
    if html is not None:
        check(html[:100_000].rpartition("<")[0])


def test_the_time_limit_ends_the_rendering() -> None:
    assert render("[" * 1000, seconds=0.0) is None
    assert render("a\n\n" * 1000, seconds=0.0) is None


@pytest.mark.parametrize("unit", ["> ", "- ", "1. ", "**", "[", "> - "])
def test_deep_nesting_loses_no_text(unit: str) -> None:
    for depth in (20, 29, 30, 31, 58, 59, 60, 61, 2000):
        html = render(unit * depth + "the end")
        assert html is None or "the end" in html
        check(html or "")
    assert "the end" in (render(unit * 10 + "the end") or "")
