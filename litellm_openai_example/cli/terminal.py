"""The terminal of the command, which keeps apart the conversations of two terminals."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_START_TIME = 19  # field of /proc/PID/stat behind the command's name: start of the process, in ticks since the boot


class Terminal(NamedTuple):
    """The session of this process.

    A terminal, a pane of tmux, a login by ssh, a cron job: each is a session. Its first process, mostly a shell, leads
    it, and everything started there belongs to it, pipelines and scripts included.

    Attributes:
        name: of the session, never used again.
        interactive: it has a controlling terminal, unlike that of a cron job or a service.
    """

    name: str
    interactive: bool


def this_terminal() -> Terminal:
    """Return the session of this process."""
    leader = os.getsid(0) if hasattr(os, "getsid") else os.getppid()
    # A process id is used again, so the session's name has the start of its leader as well.
    return Terminal(f"{_boot()} {leader} {_started(leader)}", _has_terminal())


def _boot() -> str:
    with suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _started(pid: int) -> str:
    """Return the start time of a process; empty if it has ended, and where there is no /proc."""
    with suppress(OSError, IndexError):
        # The name of the command may hold spaces and parentheses.
        fields = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return fields[_START_TIME]
    return ""


def _has_terminal() -> bool:
    """Return True if the session has a controlling terminal, even if all standard streams are redirected."""
    try:
        os.close(os.open("CONIN$" if os.name == "nt" else "/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True
