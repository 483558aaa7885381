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
    code = 128 + signal.SIGKILL
    pidfd = os.pidfd_open(run)
    if pidfd in _readable(watched, pidfd):
        code = _exit_code(os.waitpid(run, 0)[1])
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            parent = process.parent()
            if process.name() == "postgres" and (parent is None or parent.name() != "postgres"):
                stop_server(process)
    kill_all_below()
    os.write(told, str(code).encode())


def _readable(*files: int) -> list[int]:
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN | select.POLLHUP)
    return [file for file, _ in poll.poll()]


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    _guard(*map(int, sys.argv[1:]))
