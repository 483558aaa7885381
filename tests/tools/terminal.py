"""A command in the foreground of a pseudo-terminal."""

from __future__ import annotations

import os
import subprocess
import termios
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


class Terminal:
    """A pseudo-terminal with a command; `printed` holds all output so far.

    Args:
        command: the command.
        folder: its working directory.
        env: its environment.
        columns: the width of the terminal; 0 if the terminal does not know it.
    """

    def __init__(self, command: Sequence[str], folder: Path, env: dict[str, str], columns: int = 0) -> None:
        self._master, slave = os.openpty()
        self.resize(columns)
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, start_new_session=True, preexec_fn=lambda: os.login_tty(os.dup(slave))
        )
        os.close(slave)
        self.printed = ""
        self._lines = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def resize(self, columns: int) -> None:
        """Set the width of the terminal."""
        termios.tcsetwinsize(self._master, (24 if columns else 0, columns))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def run(self, line: str, seconds: float = 60.0) -> None:
        """Type a line to a shell, and wait until it has been carried out."""
        self._lines += 1
        mark = f"[line {self._lines} done]"
        # The terminal echoes what is typed: the mark of the end must not be in it.
        self.type(f"{line}; printf '[line %s done]\\n' {self._lines}\n")
        until = time.monotonic() + seconds
        while mark not in self.printed:
            assert time.monotonic() < until, self.printed
            assert not self.ended, self.printed
            time.sleep(0.02)

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
