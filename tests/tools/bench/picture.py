"""The comparisons as a bar chart."""

from __future__ import annotations

import textwrap
from html import escape

from .report import Comparison

_WIDTH, _LEFT, _ROW, _TOP = 860, 330, 30, 64
_SCALE = 280.0  # pixels for a ratio of 1
_CAPTION, _LINE = 120, 16  # characters and pixels of a line of the caption
_LONGEST = 1.5  # ratio at which longer bars are cut off


def draw(comparisons: list[Comparison], caption: str) -> str:
    """Return an SVG with a bar for each comparison that has a goal: ours relative to theirs, and a mark at the goal."""
    rows = [one for one in comparisons if one.goal is not None]
    lines = textwrap.wrap(caption, _CAPTION)
    bottom = _TOP + _ROW * len(rows)
    height = bottom + 28 + _LINE * len(lines)
    bars = "\n".join(_bar(one, _TOP + _ROW * number) for number, one in enumerate(rows))
    written = "\n".join(
        f'<text x="16" y="{bottom + 30 + _LINE * number}" font-size="11" fill="#59636e">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    one = _LEFT + _SCALE
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"
 width="{_WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="13"
 role="img" aria-label="Time of litellm-openai-example against others">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="16" y="24" font-size="16" font-weight="600" fill="#1f2328">Time, as a share of what it is compared with</text>
<text x="16" y="44" fill="#59636e">shorter is faster; the line is 1.0, the mark is the goal</text>
{bars}
<line x1="{one}" y1="{_TOP - 8}" x2="{one}" y2="{bottom + 4}" stroke="#1f2328" stroke-width="1"/>
{written}
</svg>
"""


def _bar(one: Comparison, y: int) -> str:
    length = min(one.ratio, _LONGEST) * _SCALE
    goal = _LEFT + (one.goal or 0) * _SCALE
    label = f"{one.what.replace('`', '')} / {one.with_}"
    color = "#2da44e" if one.met else "#bf8700"
    return (
        f'<text x="{_LEFT - 10}" y="{y + 15}" text-anchor="end" fill="#1f2328">{escape(label)}</text>\n'
        f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="20" rx="3" fill="{color}"/>\n'
        f'<line x1="{goal:.1f}" y1="{y - 3}" x2="{goal:.1f}" y2="{y + 23}" stroke="#cf222e" stroke-width="2"/>\n'
        f'<text x="{_LEFT + _LONGEST * _SCALE + 16}" y="{y + 15}" fill="#1f2328">{one.ratio:.2f}</text>'
    )
