"""Output to a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from litellm_openai_example.cli import output
from litellm_openai_example.cli.output import harmless

from ..fakes.scripted import eventually


@pytest.mark.parametrize(
    "text",
    [
        *("plain", "한국어 ᄒᆞᆫ글 \u3164", "two\nlines\t", "👩\u200d🚀 ❤\ufe0f", "می\u200cخواهم", "é e\u0301"),
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    ],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert harmless(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\x9b\r", "a\\x9b\\x0d"),
        ("a\r\nb", "a\nb"),
        *((f"a{chr(mark)}b", f"a\\u{mark:04x}b") for mark in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
        *((f"a{chr(mark)}b", f"a\\u{mark:04x}b") for mark in (0x200B, 0x200E, 0x200F, 0x061C, 0x2028, 0x2060, 0xFEFF)),
        ("a\U000e0041b", "a\\U000e0041b"),
    ],
)
def test_harmful_characters_are_escaped(text: str, shown: str) -> None:
    assert harmless(text) == shown


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_notice_clears_the_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with output.progress("waiting"):
        assert eventually(lambda: "waiting" in terminal.getvalue())
        output.notice("accepted")
    output.notice("done")
    assert "waiting\r\x1b[Kaccepted\n" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[Kdone\n")
