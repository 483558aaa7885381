"""Child processes that end with this one, even if it is killed: servers that nobody can impersonate, and a command."""

from __future__ import annotations

import ctypes
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_RESPONSE_SECONDS = 5.0  # for the rest of a response that has begun


class GatewayUnavailable(Exception):
    """The gateway or its relay cannot be installed or started; the message is for the user."""


class Server:
    """A server process on a socket that this process binds and keeps.

    The port belongs to this process from the first moment until it stops the server, so a request reaches the child or
    nobody. If only the number were passed to the child, another user could bind the port while the child boots, or
    after it has crashed, and would be sent the key.

    Args:
        command: the program; its first arguments are two descriptors: a pipe whose end must stop it, and the socket.
        arguments: more arguments.
        listener: from `listen`.
        env: the child's environment.
        output: the file or descriptor for its stdout and stderr.
        folder: its working directory; default: that of this process.

    Raises:
        GatewayUnavailable: the program cannot be started.

    Attributes:
        base_url: the root of its address.
        listener: the socket.
        process: the child.
    """

    def __init__(
        self,
        command: Sequence[str],
        arguments: Sequence[str] = (),
        *,
        listener: socket.socket,
        env: Mapping[str, str],
        output: Path | int,
        folder: Path | None = None,
    ) -> None:
        self._port = int(listener.getsockname()[1])
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.listener = listener
        # The child holds the reading end. Nothing is ever written: the pipe closes when this process ends or stops it.
        reading, self._pipe = os.pipe()
        out = os.open(output, os.O_WRONLY | os.O_APPEND) if isinstance(output, Path) else os.dup(output)
        try:
            self.process = subprocess.Popen(
                [*command, str(reading), str(listener.fileno()), *arguments],
                env=dict(env),
                cwd=folder,
                pass_fds=(reading, listener.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Out of reach of the terminal's Ctrl-C: the server must outlive the command that uses it.
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._pipe)
            listener.close()
            raise GatewayUnavailable(f"{command[0]} could not be started: {error.strerror}") from None
        finally:
            os.close(reading)
            os.close(out)
        # A daemon, because it may wait in accept for as long as this process lives.
        threading.Thread(target=self._hang_up_after_exit, daemon=True).start()

    def wait_until_ready(
        self, path: str, headers: Mapping[str, str], limit: float, on_second: Callable[[int], None] = lambda _: None
    ) -> bool:
        """Return True once a GET gets a 200, False if the process has ended.

        Args:
            path: the path to request.
            headers: the headers to send.
            limit: the longest wait, in seconds.
            on_second: called about once a second with the seconds that have passed.

        Raises:
            TimeoutError: `limit` has passed.
        """
        started, told = time.monotonic(), 0
        connection = self._ask(path, headers)
        try:
            while self.process.poll() is None:
                passed = time.monotonic() - started
                if passed > limit:
                    raise TimeoutError
                if passed >= told + 1:
                    told = int(passed)
                    on_second(told)
                # The request waits in the socket's queue until the child accepts connections.
                if select.select([connection.sock], [], [], 0.1)[0]:
                    if _status(connection) == 200:
                        return True
                    connection.close()
                    time.sleep(0.1)
                    connection = self._ask(path, headers)
            return False
        finally:
            connection.close()

    def stop(self, seconds: float) -> None:
        """Stop the child and free the port; kill its process group after `seconds`."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            # The whole group, in case the server has child processes.
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self.listener.close()

    def _ask(self, path: str, headers: Mapping[str, str]) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_RESPONSE_SECONDS)
        connection.connect()
        with suppress(OSError):  # the child has ended meanwhile; the caller notices
            connection.request("GET", path, headers=dict(headers))
        return connection

    def _hang_up_after_exit(self) -> None:
        """Hang up on the clients of a dead child, which would wait in the socket's queue until their deadline."""
        self.process.wait()
        hang_up(self.listener)


def listen(port: int = 0) -> socket.socket:
    """Return a socket that listens on a port of 127.0.0.1; 0 takes any free one.

    Raises:
        GatewayUnavailable: the port is in use or reserved.
    """
    try:
        # With SO_REUSEADDR: the same port can be used again at once. No system lets another user bind beside it.
        return socket.create_server(("127.0.0.1", port), backlog=128)
    except OSError as error:
        raise GatewayUnavailable(f"port {port} cannot be used: {os.strerror(error.errno or 0)}") from None


def hang_up(listener: socket.socket) -> None:
    """Hang up on every client until the socket is closed or shut down."""
    with suppress(OSError, ValueError):
        while True:
            select.select([listener], [], [])
            # Several processes share the socket and its mode: another one may have accepted the client meanwhile.
            with suppress(BlockingIOError):
                listener.accept()[0].close()


def supervise(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a command to its end, forward signals to it, and return its exit code as a shell does.

    On Linux the command is sent SIGTERM if this process is killed.

    Raises:
        GatewayUnavailable: the command cannot be run.
    """
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _: object = None) -> None:
        if process is None:
            early.append(number)
        # The terminal sends Ctrl-C to the command as well, and a second one would mean more than the user typed.
        elif not (number == signal.SIGINT and _in_foreground()):
            process.send_signal(number)

    handle_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), forward)
    try:
        process = subprocess.Popen(command, env=dict(env), preexec_fn=death_signal())
    except OSError as error:
        raise GatewayUnavailable(f"cannot run {command[0]}: {error.strerror}") from None
    # A signal may arrive while the command starts, even from the command itself.
    for number in early:
        forward(number)
    code = process.wait()
    return code if code >= 0 else 128 - code


def handle_signals(signals: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle signals, except those that the parent process ignores, as nohup does."""
    for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def death_signal() -> Callable[[], None] | None:
    """Return a `preexec_fn` that has the kernel send the child SIGTERM when its parent ends.

    It is for programs that read no pipe. Call it in the main thread: the kernel watches the thread that forks. Only
    Linux has it; elsewhere it is None, and such a child outlives a killed parent.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up here: little is safe after the fork

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it ended before the kernel watched it
            os.kill(os.getpid(), signal.SIGTERM)

    return set_death_signal


def _in_foreground() -> bool:
    """Return True in the foreground of a terminal, whose Ctrl-C reaches the child processes too."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _status(connection: http.client.HTTPConnection) -> int:
    try:
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
