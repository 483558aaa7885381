"""A command in the foreground of a pseudo-terminal."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


class Terminal:
    """A pseudo-terminal with a command; `printed` holds all output so far."""

    def __init__(self, command: Sequence[str], folder: Path, env: dict[str, str]) -> None:
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, start_new_session=True, preexec_fn=lambda: os.login_tty(os.dup(slave))
        )
        os.close(slave)
        self.printed = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def end(self, seconds: float) -> int:
        """Wait for the command and its output; return the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(60)
        os.close(self._master)
        return code

    def _read(self) -> None:
        with suppress(OSError):  # how Linux tells that the last program has closed the terminal
            while data := os.read(self._master, 65536):
                self.printed += data.decode(errors="replace")
