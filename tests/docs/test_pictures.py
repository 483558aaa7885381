"""The pictures of the documents: every text is inside, and the bench's picture has the rows of its table."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ..tools.bench.picture import draw
from ..tools.bench.report import Comparison
from ..tools.docs.blocks import ROOT

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_WIDE = 0.615  # width of a character, as a share of the font size: a monospaced one, wider than the mean of others


def outside(picture: str) -> list[str]:
    """Return the texts of an SVG that reach over its edges."""
    svg = ElementTree.fromstring(picture)
    _, _, width, height = (float(number) for number in svg.attrib["viewBox"].split())
    found = []
    for text in svg.iter(f"{_NAMESPACE}text"):
        written = "".join(text.itertext())
        size = float(text.get("font-size", svg.get("font-size", "16")))
        length = len(written) * size * _WIDE
        share = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.get("text-anchor", "start")]
        left = float(text.attrib["x"]) - share * length
        if left < 0 or left + length > width or not size <= float(text.attrib["y"]) <= height:
            found.append(written)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_has_all_its_texts_inside(path: Path) -> None:
    assert outside(path.read_text()) == []


def test_a_long_caption_is_broken_into_lines() -> None:
    row = Comparison("one-shot chat", "bare SDK", 0.4, 0.8, 0.5, 0.4, 0.6, 0.6)
    picture = draw([row], "name 1.2.3, " * 40)
    assert picture.count("name 1.2.3") == 40
    assert outside(picture) == []


def test_the_picture_of_the_bench_has_the_rows_with_a_goal() -> None:
    table = (ROOT / "docs/bench.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \| [^|]+ \| [^|]+ \| ([\d.]+) \(.+?\) \| [\d.]+", table, re.MULTILINE)
    picture = (ROOT / "docs/bench.svg").read_text()
    drawn = re.findall(r'text-anchor="end"[^>]*>([^<]+)</text>', picture)
    assert drawn == [f"{what.replace('`', '')} / {with_}" for what, with_, _ in rows]
