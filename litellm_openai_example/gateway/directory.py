"""The gateway's directory, with its key and its salt, and the machine that a gateway runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ..state import kept_secret, state_dir, write_private


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
