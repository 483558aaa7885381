"""Clean-up of the long-running tools: every process that a tool has started ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

import psutil

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 5.0  # seconds for killed processes to disappear
_ROUNDS = 3


class Ending:
    """Within the block, Ctrl-C, SIGTERM and SIGHUP end this process and all its descendants at once.

    Unwinding would not be enough: threads that wait for each other, or for a dead server, would keep the process alive.

    Args:
        first: called before the processes are killed, for a graceful shutdown.

    Attributes:
        directory: for temporary files of this process and its descendants; removed at the end.
    """

    def __init__(self, first: Callable[[], None] = lambda: None) -> None:
        # Short, for the address of a database server's socket lies in it, and may have some 100 characters.
        self.directory = Path(tempfile.mkdtemp(prefix="relay-"))
        self._first = first
        self._before = tempfile.tempdir, os.environ.get("TMPDIR")

    def __enter__(self) -> Self:
        self.directory.chmod(0o755)  # a database server that root starts is another user
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.directory)
        self._handlers = {number: signal.signal(number, self._end) for number in _SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self._clean_up()
        tempfile.tempdir, given = self._before
        os.environ.pop("TMPDIR") if given is None else os.environ.update(TMPDIR=given)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _end(self, number: int, _: object) -> NoReturn:
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_IGN)  # a terminal's Ctrl-C comes twice through `uv run`
        with suppress(Exception):
            self._first()
        self._clean_up()
        os._exit(128 + number)

    def _clean_up(self) -> None:
        kill_all_below()
        for file in self.directory.rglob("postmaster.pid"):  # a PostgreSQL server is nobody's child
            with suppress(OSError, ValueError, IndexError, psutil.Error):
                stop_server(psutil.Process(int(file.read_text().split()[0])))
        shutil.rmtree(self.directory, ignore_errors=True)


def kill_all_below() -> None:
    """Kill all descendants of this process."""
    for _ in range(_ROUNDS):  # a thread of ours may start one more meanwhile
        below = psutil.Process().children(recursive=True)
        for process in below:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(below, _PATIENCE)


def has_ended(process: psutil.Process) -> bool:
    """Return True if a process has gone or is a zombie. It may vanish between the two checks."""
    with suppress(psutil.Error):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def stop_server(process: psutil.Process) -> None:
    """Stop a PostgreSQL server at once, with its child processes and shared memory."""
    process.send_signal(signal.SIGQUIT)
    if psutil.wait_procs([process], _PATIENCE)[1]:
        process.kill()
