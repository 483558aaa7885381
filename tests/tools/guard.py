"""The guard of a test run: ends every process that the tests have started, however the run itself ends.

Fixtures end what they start, but only if they get to run: not after `kill -9`, nor where a test was interrupted between
the start of a process and the block that ends it. The guard is a process of its own session, which a signal to the
run's process group does not reach. On Linux it adopts the orphans of its descendants (PR_SET_CHILD_SUBREAPER), so that
it finds daemons such as PostgreSQL, too. Elsewhere there is no guard.

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
    """Return in a child process that is guarded; the caller's process waits for it and exits as it does.

    Call it before any thread is started. It returns at once where a guard stands already, or cannot.
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
    """Exit as the run did, once the guard has ended what was left. Ctrl-C is for the run, which reports and unwinds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = os.read(result, 16)
    os._exit(int(code or b"1"))


def _guard(run: int, watched: int, told: int) -> None:
    """Wait until the run ends or the process before it dies; then end all below this process."""
    code = _reap_until_it_ends(run, watched)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            parent = process.parent()
            if process.name() == "postgres" and (parent is None or parent.name() != "postgres"):
                stop_server(process)
    kill_all_below()
    os.write(told, str(code).encode())


def _reap_until_it_ends(run: int, watched: int) -> int:
    """Return the run's exit code. The orphans that the guard adopts are its children, and would stay as zombies."""
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
