"""The gateway's directory: its key, its salt, and the note that leads `--reuse` to a running gateway."""

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
        base_url: the root of its address.
        offline: True if the offline demo model answers.
        machine: the loopback interface that the address belongs to.
    """

    base_url: str
    offline: bool
    machine: str


class GatewayDirectory:
    """A directory of mode 0700 with files of mode 0600.

    Args:
        path: the directory, which is created if it is missing; default: this program's state directory.

    Raises:
        ConfigurationError: the state directory cannot be created or written to, or belongs to another user.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or state_dir()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._note = self.path / "gateway.json"
        self._lock: int | None = None

    @property
    def master_key(self) -> str:
        """The gateway's key, generated once and then reused."""
        return kept_secret(self.path / "master-key", "sk-")

    @property
    def salt(self) -> str:
        """The secret that seals response ids, generated once: with another one, no earlier id could be read."""
        return kept_secret(self.path / "salt", "sk-")

    def write(self, name: str, text: str) -> Path:
        """Write a file in one step, so that a reader sees all of it or nothing, and return its path."""
        path = self.path / name
        write_private(path, text)
        return path

    def record(self, base_url: str, *, offline: bool) -> None:
        """Note where this process serves, for `running`.

        The note stays locked until this process ends. A process id in it would not do: the id may be reused by another
        program, and the port by another user.
        """
        running = Running(base_url, offline, loopback_id())
        path = self.write(f"proxy-{os.getpid()}-note.json", json.dumps(vars(running)))
        self._lock = os.open(path, os.O_RDWR)
        with suppress(OSError):  # a file system without locks: the note is never found locked, hence never used
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.replace(path, self._note)

    def running(self) -> Running | None:
        """Return the gateway that was recorded last if its process still runs on this machine."""
        # The note may be missing, stale or from another release: anything unreadable means that no gateway runs.
        with suppress(OSError, ValueError, TypeError), os.fdopen(open_private(self._note), encoding="utf-8") as note:
            try:
                # Getting the lock shows that the owner of the note has ended.
                fcntl.flock(note, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                running = Running(**json.load(note))
                return running if running.machine == loopback_id() else None
        return None

    def forget(self) -> None:
        """Remove the note of this process, unless another gateway has replaced it."""
        if self._lock is not None:
            with suppress(OSError):
                # By inode: another gateway replaces the note, and does not write into it.
                if os.path.samestat(os.fstat(self._lock), self._note.lstat()):
                    self._note.unlink()
            os.close(self._lock)
            self._lock = None


def loopback_id() -> str:
    """Identify the loopback interface of this process.

    Machines and containers may share a home directory, and with it the locks on files. But each machine and each
    network namespace has a loopback interface for itself.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/net')}"
    except OSError:  # not Linux
        return platform.node()
