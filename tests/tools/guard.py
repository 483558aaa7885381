"""A guard process that ends everything a test run has started, even after `kill -9`.

Fixtures end what they start only if they get to run: not after `kill -9`, nor if a test is interrupted between starting
a process and entering the block that ends it. The guard has a separate session, so signals to the run's process group
do not reach it. As a child subreaper (PR_SET_CHILD_SUBREAPER) it adopts orphaned descendants, daemons such as
PostgreSQL included. Only Linux has this; elsewhere tests run unguarded.

    the process that was started, waits  ->  the guard  ->  the test run  ->  its workers, relays, databases
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from contextlib import suppress

import psutil

from .ending import kill_all_below, stop_server

_PR_SET_CHILD_SUBREAPER = 36
GUARDED = "LITELLM_TESTS_GUARDED"


def stand_guard() -> None:
    """Fork, and return in a guarded child; the calling process waits for it and exits with its code.

    Call it before any thread is started. It returns at once if a guard exists or the system cannot have one.
    """
    if not sys.platform.startswith("linux") or GUARDED in os.environ:
        return
    watched, _held = os.pipe()  # `_held` stays open for as long as this process lives
    result, told = os.pipe()
    guard = os.fork()
    if guard:
        os.close(watched)
        os.close(told)
        _wait(result)
    os.close(_held)
    os.close(result)
    _adopt_orphans()
    run = os.fork()
    if not run:
        os.close(watched)
        os.close(told)
        os.environ[GUARDED] = "1"
        return
    os.setsid()
    # A fresh program: one that is named like the run would die with it by `pkill -9 pytest`.
    os.set_inheritable(watched, True)
    os.set_inheritable(told, True)
    os.execv(sys.executable, [sys.executable, "-m", __name__, str(run), str(watched), str(told)])


def _adopt_orphans() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait(result: int) -> None:
    """Exit with the run's code once the guard is done. Ctrl-C is left to the run, which reports and unwinds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = os.read(result, 16)
    os._exit(int(code or b"1"))


def _guard(run: int, watched: int, told: int) -> None:
    """Wait until the run ends or its starter dies, then end all descendants."""
    code = _reap_until_it_ends(run, watched)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            parent = process.parent()
            if process.name() == "postgres" and (parent is None or parent.name() != "postgres"):
                stop_server(process)
    kill_all_below()
    os.write(told, str(code).encode())


def _reap_until_it_ends(run: int, watched: int) -> int:
    """Reap children until the run ends; return its exit code. Adopted orphans would otherwise remain zombies."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == run:
                    return _exit_code(ended[1])
        ready, _, _ = select.select([woken, watched], [], [])
        if watched in ready:
            return 128 + signal.SIGKILL
        os.read(woken, 1024)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    _guard(*map(int, sys.argv[1:]))
