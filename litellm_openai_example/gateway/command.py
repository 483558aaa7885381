"""Running a command transparently beside a server of ours."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import NoReturn

from .children import GatewayUnavailable, end_with_parent


def run(command: tuple[str, ...], env: Mapping[str, str]) -> int:
    """Run a command to its end, passing signals on to it; it ends too if this process is killed (Linux)."""
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: object) -> None:
        # The terminal sends Ctrl-C to the command as well, and a second one would mean more than the user said.
        if process is not None and not (number == signal.SIGINT and _in_foreground()):
            process.send_signal(number)

    handle((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), pass_on)
    try:
        process = subprocess.Popen(command, env=dict(env), preexec_fn=end_with_parent())
    except OSError as error:
        raise GatewayUnavailable(f"cannot run {command[0]}: {error.strerror}") from None
    code = process.wait()
    return code if code >= 0 else 128 - code


def _in_foreground() -> bool:
    """Whether we run in the foreground of a terminal, whose Ctrl-C then reaches our children too."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def exec_command(command: tuple[str, ...], env: Mapping[str, str]) -> NoReturn:
    """Replace this process by the command: nothing of ours is needed any more."""
    try:
        os.execvpe(command[0], list(command), dict(env))  # noqa: S606
    except OSError as error:
        raise GatewayUnavailable(f"cannot run {command[0]}: {error.strerror}") from None


def handle(signals: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle signals, but for those that whoever started us wants ignored."""
    for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, handler)
