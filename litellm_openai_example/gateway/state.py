"""A gateway's files: its key, its salt, and the address where it runs. Readable by the user alone."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..state import kept_secret, open_private, state_dir, write_private


@dataclass(frozen=True)
class Running:
    """A gateway that serves.

    Attributes:
        base_url: its root.
        offline: True if the offline demo model answers.
        machine: the loopback interface that the address belongs to, as `this_machine` names it.
    """

    base_url: str
    offline: bool
    machine: str


class State:
    """A directory of mode 0700 with files of mode 0600.

    Args:
        folder: the directory, made if it is not there; default: this program's state directory.

    Raises:
        ConfigurationError: the state directory cannot be made or written to, or is not this user's.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_dir()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._note = self.folder / "gateway.json"
        self._lock: int | None = None

    @property
    def master_key(self) -> str:
        """The gateway's key, generated once, then reused."""
        return kept_secret(self.folder / "master-key", "sk-")

    @property
    def salt(self) -> str:
        """What response ids are sealed with: a changed one would make every id that was handed out unusable."""
        return kept_secret(self.folder / "salt", "sk-")

    def write(self, name: str, text: str) -> Path:
        """Write a file in one step: a reader sees all of it or nothing."""
        path = self.folder / name
        write_private(path, text)
        return path

    def record(self, running: Running) -> None:
        """Note where a gateway runs, for `running`; to be called by the process that listens there.

        The note is locked until this process ends. A process id would not do: it may be another program's by now, and
        another user may listen on the port.
        """
        path = self.write(f"proxy-{os.getpid()}-note.json", json.dumps(vars(running)))
        self._lock = os.open(path, os.O_RDWR)
        with suppress(OSError):  # a file system without locks: then nobody finds the note locked, and it is not used
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.replace(path, self._note)

    def running(self) -> Running | None:
        """The gateway that was recorded last, if the process that listens at its address lives."""
        with suppress(OSError, ValueError, TypeError), os.fdopen(open_private(self._note), encoding="utf-8") as note:
            try:
                fcntl.flock(note, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                running = Running(**json.load(note))
                return running if running.machine == this_machine() else None
        return None

    def forget(self) -> None:
        """Remove the note that this process has made, unless another gateway has made one since."""
        if self._lock is not None:
            with suppress(OSError):
                if os.path.samestat(os.fstat(self._lock), self._note.lstat()):
                    self._note.unlink()
            os.close(self._lock)
            self._lock = None


def this_machine() -> str:
    """Name the loopback interface of this process.

    Home directories are shared between machines and containers, and so are locks on files there. But an address on
    loopback means another listener on each machine, and in each network namespace.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/net')}"
    except OSError:  # not Linux
        return platform.node()


def is_alive(pid: object) -> bool:
    """Whether there is a process with this id."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
