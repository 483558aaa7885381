"""The prompt: the command line's argument, stdin, or both joined."""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
import time

import click

from ..config import is_unicode
from .options import Options

_MAX_BYTES = 32 * 1024 * 1024  # no model takes more, and an endless writer must not fill the memory
# Errors of a stdin that exists in name only, as under nohup.
_NO_STDIN = (errno.EBADF, errno.EIO)


def read_prompt(options: Options, until: float) -> str:
    """Return the whole prompt: PROMPT, a blank line and the piped input, or either one alone.

    Args:
        options: the command line; one that follows up on earlier work takes no prompt, and the result is empty.
        until: deadline for the end of stdin, on the monotonic clock.

    Raises:
        click.UsageError: the prompt is missing or unusable. Nothing was sent.
    """
    if options.follows_up:
        return ""
    prompt = None if options.prompt == "-" else options.prompt
    check_text("prompt", prompt)
    check_text("text of --instructions", options.instructions)
    terminal = sys.stdin is None or sys.stdin.isatty()
    if options.prompt is None and terminal:
        raise click.UsageError('give a prompt, or pipe it in (or type it with "-" as PROMPT)')
    if prompt is not None:
        piped = "" if terminal else _read_stdin(until, needed=False)
        return f"{prompt}\n\n{piped}" if piped.strip() else prompt
    # A person who types the prompt may take longer than the deadline.
    piped = _read_stdin(until if not terminal else float("inf"), needed=True)
    if options.prompt is None and not piped.strip():
        raise click.UsageError("there is no prompt, neither as an argument nor on stdin")
    check_text("prompt", piped)
    return piped


def check_text(name: str, text: str | None) -> None:
    """Raise click.UsageError if a text cannot be sent: it is blank, or not valid Unicode."""
    if text is None:
        return
    if not text.strip():
        raise click.UsageError(f"the {name} is empty")
    if not is_unicode(text):
        raise click.UsageError(f"the {name} is not valid UTF-8")


def _read_stdin(until: float, *, needed: bool) -> str:
    if sys.stdin is None:
        raise click.UsageError("there is no stdin to read the prompt from")
    try:
        # Some shells begin piped text with a byte order mark.
        return _read(sys.stdin.fileno(), until).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("the text on stdin is not valid UTF-8") from None
    except TimeoutError:
        raise click.UsageError(
            "stdin did not end before the deadline, and nothing was sent: "
            "add </dev/null to read nothing from it, or a longer --timeout"
        ) from None
    except OSError as error:
        if not needed and error.errno in _NO_STDIN:
            return ""
        raise click.UsageError(f"cannot read the prompt from stdin: {error.strerror}") from None


def _read(descriptor: int, until: float) -> bytes:
    """Read to the end. Raise TimeoutError if the end does not come in time, and OSError if reading fails."""
    pieces: list[bytes] = []
    failures: list[OSError] = []

    def read() -> None:
        size = 0
        try:
            while piece := _next(descriptor):
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_BYTES:
                    raise OSError(errno.EFBIG, f"it holds more than {_MAX_BYTES // 2**20} MB")
        except OSError as error:
            failures.append(error)

    # A thread, because nothing else can wait for a pipe with a time limit on every system. It reads the descriptor: it
    # could still hold the lock of a buffered stream when the interpreter exits, which needs that lock.
    reader = threading.Thread(target=read, daemon=True, name="stdin")
    reader.start()
    reader.join(max(0.0, min(until - time.monotonic(), threading.TIMEOUT_MAX)))
    if reader.is_alive():
        raise TimeoutError
    if failures:
        raise failures[0]
    return b"".join(pieces)


def _next(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, 65536)
        except BlockingIOError:  # another process that shares the pipe made it non-blocking
            select.select([descriptor], [], [], 1.0)
