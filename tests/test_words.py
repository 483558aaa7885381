"""The words: what a user reads is English as a colleague speaks it, in the package and in what it prints."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A run is counted, research is not; the others were translated word for word.
WORDS = re.compile(
    r"\bresearches\b|\ban? (new |single |deep |costly |finished )?research(?! (run|question|report|text|task|model))\b"
    r"|\bresearch(es)? runs on\b|\bsome seconds\b|\bif it stays so\b|\bmet an error\b"
    r"|\bdrawn once\b|\bmarch(es)? in step\b"
    r"|\b(is|are|needs?|takes?) (its place )?no more\b(?! (than|work))|\basked anew\b"
    r"|\bserve no more\b",
    re.IGNORECASE,
)


def test_no_translated_phrases() -> None:
    found = []
    for path in [*(ROOT / "litellm_openai_example").rglob("*.py"), ROOT / "Makefile"]:
        text = re.sub(r"^\s*#", " ", path.read_text(), flags=re.MULTILINE)
        text = " ".join(text.split())  # phrases that go over the end of a line too
        found += [
            f"{path.relative_to(ROOT)}: {text[max(0, m.start() - 30) : m.end() + 30]}" for m in WORDS.finditer(text)
        ]

    assert found == []
