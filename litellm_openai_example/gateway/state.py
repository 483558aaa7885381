"""What a gateway of ours leaves on disk: its key, its salt, and where it runs. Readable by the user alone."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..state import kept_secret, state_dir, write_private


@dataclass(frozen=True)
class Running:
    """A gateway that serves: the process to end it by, its root, and whether the offline demo model answers."""

    pid: int
    base_url: str
    offline: bool


class State:
    """A directory of mode 0700 with files of mode 0600.

    Args:
        folder: the directory, made if it is not there; default: this program's state directory.

    Raises:
        ConfigurationError: the state directory cannot be made or written to.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_dir()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._note = self.folder / "gateway.json"

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
        """Note where a gateway runs, for `running`."""
        self.write(self._note.name, json.dumps(vars(running)))

    def running(self) -> Running | None:
        """The gateway that was recorded last, if its process lives; whether it answers is for the caller to see."""
        try:
            running = Running(**json.loads(self._note.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return running if isinstance(running.base_url, str) and is_alive(running.pid) else None

    def forget(self, running: Running) -> None:
        """Remove the note of this gateway, if it is still the one that is noted."""
        with suppress(OSError, ValueError):
            if json.loads(self._note.read_text()) == vars(running):
                self._note.unlink()


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
