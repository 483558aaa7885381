"""Output: the answer on stdout, everything else on stderr.

A model's text must pass through any terminal, encoding and pipe, neither doing harm nor losing characters.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from ..config import keys, redact_text

_MIN_PREFIX = 5  # characters of a key that are held back; shorter prefixes are common to all keys
# Control characters, which move a terminal's cursor or set colours, and invisible characters that change what a reader
# sees: direction marks and overrides, zero-width spaces, line separators, tags. Joiners stay, because emoji and scripts
# need them, and so do the tags of a flag.
_UNSAFE = re.compile(
    "\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f|"
    "([\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f])"
)
_ESCAPES = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|.)")


class Output:
    """The answer on stdout, without the user's keys even if a gateway echoes them.

    Attributes:
        terminal: stdout is a terminal.
        first_at: time of the first output on the monotonic clock; None before it.
    """

    def __init__(self) -> None:
        stream = self._stream = sys.stdout
        self._held = ""
        self._last = "\n"
        self.terminal = _is_terminal(stream)
        self.first_at: float | None = None
        self._secrets = keys()
        if hasattr(stream, "reconfigure"):
            # Characters that the encoding lacks, and lone surrogates, are escaped rather than lost.
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write a piece of the answer at once. Raise OSError if stdout fails."""
        text = redact_text(self._held + text, *self._secrets)
        # The end of the text is held back while it may be the beginning of a key.
        safe = len(text) - max((_prefix_at_end(secret, text) for secret in self._secrets), default=0)
        self._put(text[:safe])
        self._held = text[safe:]

    def _put(self, text: str) -> None:
        if not text:
            return
        # A program that reads a pipe gets the text unchanged.
        if self.terminal:
            text = harmless(text)
        self._stream.write(text)
        # A reader gets each piece at once.
        self._stream.flush()
        self.first_at = self.first_at or time.monotonic()
        self._last = text[-1]

    @property
    def wrote(self) -> bool:
        """Has anything been written to stdout?"""
        return self.first_at is not None

    def paragraph(self, text: str) -> None:
        """Write text as separate lines, after a blank line unless it comes first. Empty text is skipped."""
        if text:
            self.write(("\n" if self.wrote else "") + text)
            self.end()

    def end(self) -> None:
        """Write the held text, and end the last line unless the answer did."""
        held, self._held = self._held, ""
        self._put(held)
        if self._last != "\n":
            self._put("\n")


def notice(text: str) -> None:
    """Write lines to stderr, without keys and control characters; a closed or broken stderr is ignored.

    The callers need not check what a gateway or a relay may have put into an id or a status.
    """
    with suppress(OSError, ValueError, AttributeError):
        if hasattr(sys.stderr, "reconfigure"):
            sys.stderr.reconfigure(errors="backslashreplace")
        # Clear a progress line first; it is drawn again within a second.
        sys.stderr.write(("\r\x1b[K" if progress_line.is_set() else "") + harmless(without_keys(text)) + "\n")
        sys.stderr.flush()


def without_keys(text: str) -> str:
    """Return `text` with the user's keys redacted: a gateway may echo them."""
    return redact_text(text, *keys())


def harmless(text: str) -> str:
    """Return `text` with control and invisible characters escaped, which could harm a terminal or deceive a reader."""
    return text if text.isprintable() else _UNSAFE.sub(_visible, text.replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    if match[1] is None:
        return match[0]
    number = ord(match[1])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def readable_json(text: str) -> str:
    r"""Return JSON text unchanged except for `\uXXXX` escapes of printable characters, which are decoded."""

    def letter(match: re.Match[str]) -> str:
        high, low, single = match.groups()
        if high:
            return (bytes.fromhex(high) + bytes.fromhex(low)).decode("utf-16-be")
        character = chr(int(single, 16)) if single else ""
        # Control characters, quotes and lone surrogates need their escape.
        return character if character.isprintable() and character > "~" else match.group()

    return _ESCAPES.sub(letter, text) if "\\u" in text else text


def stderr_is_terminal() -> bool:
    """Does a person, rather than a program, read the notices?"""
    return _is_terminal(sys.stderr)


# Set while the last line of the terminal is one of progress, which a notice clears first.
progress_line = threading.Event()


class Progress:
    """Elapsed time and status on a terminal's last line, redrawn each second."""

    def __init__(self, status: str) -> None:
        self._status = status
        self._paused, self._paused_until = "", 0.0
        self._done = threading.Event()
        self._started = time.monotonic()

    def status(self, status: str) -> None:
        """Set the status."""
        self._status = status

    def retrying(self, status: int, seconds: float) -> None:
        """Show for `seconds` that a request is retried after an answer with this HTTP status."""
        self._paused = "a rate limit" if status == 429 else f"a retry (HTTP {status})"
        self._paused_until = time.monotonic() + seconds

    def _run(self) -> None:
        while not self._done.wait(1.0):
            now = time.monotonic()
            left = self._paused_until - now
            doing = f"waiting for {self._paused}, {left:.0f} s left" if left > 0 else self._status
            self._show(f"{now - self._started:.0f} s  {doing}")

    def _show(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"\r\x1b[K{harmless(without_keys(text))}")
            sys.stderr.flush()
            progress_line.set()

    def stop(self) -> None:
        """Clear the line and stop redrawing it."""
        self._done.set()
        if progress_line.is_set():
            self._show("")
            progress_line.clear()


@contextmanager
def progress(status: str) -> Iterator[Progress]:
    """Show progress while the block runs, if stderr is a terminal."""
    shown = Progress(status)
    thread = threading.Thread(target=shown._run, name="progress", daemon=True)
    terminal = stderr_is_terminal()
    if terminal:
        thread.start()
    try:
        yield shown
    finally:
        shown.stop()
        if terminal:
            thread.join()
            shown.stop()  # the thread may have drawn the line once more


def _prefix_at_end(secret: str, text: str) -> int:
    """Return the number of characters at the end of `text` that may be the beginning of `secret`."""
    return max((n for n in range(_MIN_PREFIX, len(secret)) if text.endswith(secret[:n])), default=0)


def _is_terminal(stream: TextIO) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return bool(stream.isatty())
    return False
