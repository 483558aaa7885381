"""What leaves the command: the answer on stdout, everything else on stderr.

Whatever a model wrote has to get through any terminal, encoding and pipe without harm to them or to itself.
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

_TELLING = 5  # characters of a key that are not shown any more; fewer are those that all keys begin with
# What moves a terminal's cursor or colours, and what a reader cannot see but which changes what they read: overrides
# and marks of direction, spaces of no width, line separators, tags. Joiners stay, for emoji and scripts need them, and
# so do the tags of a flag.
_UNSAFE = re.compile(
    "\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f|"
    "([\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f])"
)
_ESCAPES = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|.)")


class Output:
    """The answer's way to stdout. The keys do not get there, even if a gateway sends them back."""

    def __init__(self) -> None:
        stream = self._stream = sys.stdout
        self._secrets = keys()
        self._held = ""
        self._last = "\n"
        self.terminal = _is_terminal(stream)
        self.first_at: float | None = None
        if hasattr(stream, "reconfigure"):
            # What the encoding lacks (and half a surrogate pair) is written as an escape, not lost.
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write a piece of the answer at once. Raises OSError when stdout does not take it."""
        text = redact_text(self._held + text, *self._secrets)
        sure = len(text) - max((_begun(secret, text) for secret in self._secrets), default=0)
        self._put(text[:sure])
        self._held = text[sure:]

    def _put(self, text: str) -> None:
        if not text:
            return
        if self.terminal:
            text = harmless(text)
        self._stream.write(text)
        self._stream.flush()
        self.first_at = self.first_at or time.monotonic()
        self._last = text[-1]

    @property
    def wrote(self) -> bool:
        """Whether anything is on stdout."""
        return self.first_at is not None

    def paragraph(self, text: str) -> None:
        """Write lines of their own, set apart from what stands before them; nothing if there are none."""
        if text:
            self.write(("\n" if self.wrote else "") + text)
            self.end()

    def end(self) -> None:
        """End the last line, unless the answer did."""
        held, self._held = self._held, ""
        self._put(held)
        if self._last != "\n":
            self._put("\n")


def notice(text: str) -> None:
    """Write a line (or lines) to stderr, without keys; a stderr that is closed or broken stops nothing.

    Not every line has to think of what a gateway or a relay may have put into an id or a status.
    """
    with suppress(OSError, ValueError, AttributeError):
        if hasattr(sys.stderr, "reconfigure"):
            sys.stderr.reconfigure(errors="backslashreplace")
        # On a terminal the line may hold progress, which is written again with the next second.
        sys.stderr.write(("\r\x1b[K" if _progress_shown.is_set() else "") + harmless(without_keys(text)) + "\n")
        sys.stderr.flush()


def without_keys(text: str) -> str:
    """`text` without the user's keys, which must not leave even if a gateway sends them back."""
    return redact_text(text, *keys())


def harmless(text: str) -> str:
    """`text` with what could harm or deceive at a terminal made visible: control characters, and hidden ones."""
    return text if text.isprintable() else _UNSAFE.sub(_visible, text.replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    if match[1] is None:
        return match[0]
    number = ord(match[1])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def readable_json(text: str) -> str:
    r"""JSON text as it came, but with letters instead of their `\uXXXX` escapes."""

    def letter(match: re.Match[str]) -> str:
        high, low, single = match.groups()
        if high:
            return (bytes.fromhex(high) + bytes.fromhex(low)).decode("utf-16-be")
        character = chr(int(single, 16)) if single else ""
        # Control characters, quotes and lone surrogates need their escape.
        return character if character.isprintable() and character > "~" else match.group()

    return _ESCAPES.sub(letter, text) if "\\u" in text else text


def stderr_is_terminal() -> bool:
    """Whether a person reads the notices, and not a program."""
    return _is_terminal(sys.stderr)


_progress_shown = threading.Event()


class Progress:
    """Elapsed time and status on a terminal's last line, rewritten each second."""

    def __init__(self, status: str) -> None:
        self._status = status
        self._paused, self._paused_until = "", 0.0
        self._done = threading.Event()
        self._started = time.monotonic()

    def status(self, status: str) -> None:
        """Say what the work is doing now."""
        self._status = status

    def retrying(self, status: int, seconds: float) -> None:
        """Say for that long that a request is sent again after an answer with this HTTP status."""
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
            _progress_shown.set()

    def stop(self) -> None:
        """Clear the line; nothing is written afterwards."""
        self._done.set()
        if _progress_shown.is_set():
            self._show("")
            _progress_shown.clear()


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
            shown.stop()  # it may have written once more


def _begun(secret: str, text: str) -> int:
    """How many characters at the end of `text` may be the beginning of a secret that comes in pieces."""
    return max((n for n in range(_TELLING, len(secret)) if text.endswith(secret[:n])), default=0)


def _is_terminal(stream: TextIO) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return bool(stream.isatty())
    return False
