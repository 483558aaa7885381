"""Child processes that end with this one, even if it is killed, and servers among them that nobody can impersonate."""

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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_ANSWER_SECONDS = 5.0  # for the rest of an answer that has begun


class GatewayUnavailable(Exception):
    """The gateway cannot be installed or started; the message is for the user."""


class Server:
    """A server process that serves on a socket which this process listens on.

    The port is taken from the first moment and for as long as this process lives: a request reaches the child or
    nobody. A port that is only announced to a child could be taken by another user while the child boots, or after it
    has crashed, and the key would be sent to a stranger.

    Args:
        command: the program; its first two arguments are a descriptor of a pipe, whose end has to end it, and one of
            the socket.
        arguments: further ones.
        listener: from `listen`.
        env: the child's environment.
        output: file or descriptor for its stdout and stderr.
        folder: its working directory; default: this process's.

    Raises:
        GatewayUnavailable: it cannot be started.

    Attributes:
        base_url: its root.
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
        self._listener = listener
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
                # Ctrl-C at the terminal is for this process to handle: the server outlives the command it serves.
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._pipe)
            listener.close()
            raise GatewayUnavailable(f"{command[0]} could not be started: {error.strerror}") from None
        finally:
            os.close(reading)
            os.close(out)
        threading.Thread(target=self._refuse_after_its_end, daemon=True).start()

    def wait_until_ready(
        self, path: str, headers: Mapping[str, str], limit: float, on_second: Callable[[int], None] = lambda _: None
    ) -> bool:
        """Return True once a GET is answered with 200, False if the process has ended.

        Args:
            limit: seconds to wait at most.
            on_second: called about once a second with the seconds that have passed.

        Raises:
            TimeoutError: the limit has passed.
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
        """End the child and free the port; kill its process group if it takes longer than `seconds`."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    def _ask(self, path: str, headers: Mapping[str, str]) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_SECONDS)
        connection.connect()
        with suppress(OSError):  # the child has ended meanwhile, which the caller sees by itself
            connection.request("GET", path, headers=dict(headers))
        return connection

    def _refuse_after_its_end(self) -> None:
        """Hang up on clients of a dead child: in the queue of the socket they would wait until their deadline."""
        self.process.wait()
        with suppress(OSError):
            self._listener.setblocking(True)  # the child shared the socket and made it non-blocking
            while True:
                self._listener.accept()[0].close()


def listen(port: int = 0) -> socket.socket:
    """Return a socket that listens on a port of 127.0.0.1, 0 for any free one. Raises GatewayUnavailable."""
    listener = socket.socket()
    # For a restart on the same port. No system lets another user listen beside a socket that listens on this address.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise GatewayUnavailable(f"port {port} cannot be used: {error.strerror}") from None
    return listener


def end_with_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn` that has the kernel send SIGTERM to a child when its parent ends.

    For a program that knows of no pipe; to be used from the main thread, whose end is what the kernel looks at. Linux
    alone has it: elsewhere such a child outlives a parent that was killed.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up here: little is safe after the fork

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it ended before it could be watched
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def _status(connection: http.client.HTTPConnection) -> int:
    try:
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
