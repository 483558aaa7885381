"""Standard error that nobody has to read: lines are written by a thread, so the event loop never waits for a reader.

A pager, a log collector or a disk may stop taking lines. The relay carries on, drops the lines that the queue cannot
hold, and logs afterwards how many were lost.
"""

from __future__ import annotations

import io
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_HELD = 1000  # lines
_LAST = 0.5  # seconds that the last lines get when the process ends


class BackgroundStream(io.TextIOBase):
    """A text stream whose `write` never blocks and never fails.

    Args:
        descriptor: takes the lines, in a thread.
        tell_losses: called in that thread with the number of lines that were lost, once the descriptor takes some.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, tell_losses: Callable[[int], None]) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._tell_losses = tell_losses
        self._lines: queue.Queue[bytes] = queue.Queue(_HELD)
        self._begun = ""  # the line that is being written
        self._lost = 0
        self._counting = threading.Lock()
        threading.Thread(target=self._write_lines, name="stderr", daemon=True).start()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            try:
                self._lines.put_nowait(f"{line}\n".encode(errors=self.errors))
            except queue.Full:
                self._count_lost()
        return len(text)

    def drain(self, seconds: float) -> None:
        """Wait until all lines are written, or the seconds are over."""
        until = time.monotonic() + seconds
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks and (left := until - time.monotonic()) > 0:
                self._lines.all_tasks_done.wait(left)

    def _write_lines(self) -> None:
        while True:
            if not _write(self._descriptor, self._lines.get()):
                self._count_lost()
            elif self._lost:
                with self._counting:
                    lost, self._lost = self._lost, 0
                self._tell_losses(lost)
            self._lines.task_done()

    def _count_lost(self) -> None:
        with self._counting:
            self._lost += 1


def _write(descriptor: int, data: bytes) -> bool:
    """Write all of it, however long that takes. Return False if the descriptor does not take it."""
    try:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # another program has made the terminal or the pipe non-blocking
                select.select([], [descriptor], [])
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def background_stderr(tell_losses: Callable[[int], None]) -> Iterator[None]:
    """Make `sys.stderr` a `BackgroundStream` for this block: the log, warnings and the interpreter's own words."""
    usual, stream = sys.stderr, BackgroundStream(2, tell_losses)
    sys.stderr = stream
    try:
        yield
    finally:
        stream.drain(_LAST)
        sys.stderr = usual


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed: the next file or socket would take its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def write_line(text: str) -> None:
    """Write a line to stderr as it is at the start and the end of the process, and let nothing come of a failure."""
    with suppress(OSError, ValueError):
        if isinstance(sys.stderr, BackgroundStream):
            sys.stderr.write(f"{text}\n")
        else:
            os.write(2, f"{text}\n".encode(errors="backslashreplace"))
