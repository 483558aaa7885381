"""A terminal with a shell, in which tests run launchers one after another and log out; gateways that stay."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from ..tools.ending import has_ended

GATEWAY = [sys.executable, "-m", "litellm_openai_example.gateway"]
PRINT = "import os; print(os.environ['LITELLM_BASE_URL'], os.environ['LITELLM_API_KEY'])"
# Says so once it runs, and ends when the file `go` of the home directory has been made.
WAIT = (
    "import os, pathlib, time; print('running', os.environ['LITELLM_BASE_URL'], flush=True)\n"
    "while not (pathlib.Path.home() / 'go').exists(): time.sleep(0.02)"
)
KEEP = ("--reuse", "--keep")
DONE = "--done--"


class Terminal:
    """A shell that leads a session with a terminal; stderr is the terminal, stdout a pipe.

    Attributes:
        shown: what stderr has shown so far.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._screen, other = pty.openpty()
        self._shell = subprocess.Popen(
            ["/bin/sh"],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=other,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
        )
        os.close(other)
        self.shown = ""
        self._closed = threading.Event()
        self.type("trap : INT")  # as an interactive shell: Ctrl-C ends what it runs, and not the shell
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):
            # A read that waits in the terminal would keep it open.
            while not self._closed.is_set():
                if select.select([self._screen], [], [], 0.05)[0]:
                    self.shown += os.read(self._screen, 4096).decode().replace("\r\n", "\n")

    def type(self, line: str) -> None:
        """Have the shell run a line."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{line}\n")
        self._shell.stdin.flush()

    def run(self, *arguments: str, command: str = "", **env: str) -> tuple[str, int]:
        """Run a launcher, with a command of Python code if one is given; return its stdout and exit code."""
        self.start(*arguments, command=command, **env)
        return self.finished()

    def start(self, *arguments: str, command: str = "", **env: str) -> None:
        """Start what `run` runs."""
        line = [*GATEWAY, *arguments, *(["--", sys.executable, "-c", command] if command else [])]
        settings = [shlex.quote(f"{name}={value}") for name, value in env.items()]
        self.type(f"env {' '.join(settings)} {shlex.join(line)} </dev/null; echo {DONE} $?")

    def finished(self) -> tuple[str, int]:
        """Return the rest of stdout, and the exit code, of what was started."""
        out = ""
        while (line := self.line()) and DONE not in line:
            out += line
        before, _, code = line.partition(DONE)
        return out + before, int(code)

    def line(self) -> str:
        """Return the next line of stdout."""
        assert self._shell.stdout is not None
        return self._shell.stdout.readline()

    def processes(self) -> list[psutil.Process]:
        """Return what the shell runs."""
        return psutil.Process(self._shell.pid).children()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._screen, b"\x03")

    def log_out(self) -> str:
        """End the shell; return what was left on stdout once nobody holds it any longer."""
        assert self._shell.stdin is not None
        with suppress(OSError):
            self._shell.stdin.close()
        assert self._shell.stdout is not None
        left = self._shell.stdout.read()
        self._shell.wait(60)
        return left

    def close_window(self) -> None:
        """Close the terminal, as the user's window or a lost connection does."""
        self._closed.set()
        self._reader.join(60)
        with suppress(OSError):
            os.close(self._screen)

    def end(self) -> None:
        """End everything that runs here."""
        with suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait(60)
        for stream in (self._shell.stdin, self._shell.stdout):
            if stream:
                with suppress(OSError):  # a line that the shell did not read any more
                    stream.close()
        if not self._closed.is_set():
            self.close_window()


def kept(home: Path) -> list[psutil.Process]:
    """Return the processes of all gateways that stay, LiteLLM included."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if ("gateway.keeper" in line or "boot.py" in line) and process.environ()["HOME"] == str(home):
                found.append(process)
        except (psutil.Error, KeyError):
            continue
    return [process for process in found if not has_ended(process)]


def keeper_of(home: Path) -> psutil.Process:
    (keeper,) = [process for process in kept(home) if "gateway.keeper" in " ".join(process.cmdline())]
    return keeper
