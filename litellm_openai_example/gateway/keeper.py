"""The leases on a gateway, and the process that keeps one between commands, in the background of its terminal.

That process ends some minutes after the last lease. When it was told to stop, or its session is over, it ends at once
after that lease; and if the command that started it ends while LiteLLM boots, it ends as well. See `lease`.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ..config import ConfigurationError
from ..json_object import JsonObject
from .children import GatewayUnavailable, handle_signals
from .directory import GatewayDirectory, loopback_id
from .lease import SOCKET, has_terminal, inside, receive, send
from .proxy import Proxy, started

_TICK = 0.5  # seconds between two looks at the session, the proxy and the clock
_REQUEST_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Door:
    """The Unix socket that commands connect to, which refuses them until it opens.

    Raises:
        OSError: the directory cannot hold such a socket.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SOCKET
        self.socket = socket.socket(socket.AF_UNIX)
        new = folder / f"proxy-{os.getpid()}-door"  # removed with a killed gateway's other files
        with inside(folder):
            self.socket.bind(new.name)
        new.chmod(0o600)
        self._inode = new.lstat()
        try:
            os.replace(new, self._path)  # of a gateway that was killed, or that notices and retires
        except OSError:
            new.unlink()
            raise

    def open(self) -> None:
        """Let commands in."""
        self.socket.listen()

    def stands(self) -> bool:
        """Return True if a command would still find this door."""
        with suppress(OSError):
            return os.path.samestat(self._inode, self._path.lstat())
        return False

    def close(self) -> None:
        """Let nobody in any longer."""
        if self.stands():
            with suppress(OSError):
                self._path.unlink()
        self.socket.close()


class Session:
    """The terminal, or the login without one, that this process was started in."""

    def __init__(self) -> None:
        # The number of a session is not used again while a process belongs to it.
        self._leader = os.getsid(0)
        self._terminal = has_terminal()

    def is_over(self) -> bool:
        """Return True after a logout: the terminal was closed, or the session's first process has ended."""
        with suppress(PermissionError):  # another user's process, as after `su`
            try:
                os.kill(self._leader, 0)
            except ProcessLookupError:
                return True
        return self._terminal and not has_terminal()


class Keeper:
    """A gateway and the leases on it.

    Args:
        proxy: the gateway.
        offline: True if the offline demo model answers.
        door: where leases are given.
        settings: the digest of the gateway's settings, or of its key alone; a command with another one gets no lease.
        session: the gateway ends with it, or some time after its last lease; None for one that serves in a terminal,
            which only Ctrl-C stops.
    """

    def __init__(
        self, proxy: Proxy, offline: bool, door: Door, settings: object, session: Session | None = None
    ) -> None:
        self._proxy, self._offline, self._door, self._session = proxy, offline, door, session
        self._settings = settings
        self._leases: dict[socket.socket, float] = {}  # each with the seconds to stay after it
        self._ending: list[socket.socket] = []  # those who wait for the end of this process
        self._until = 0.0
        self._retired = False
        self._selector = selectors.DefaultSelector()
        self._door.open()
        self._selector.register(self._door.socket, selectors.EVENT_READ)

    def serve(self) -> None:
        """Give leases until the gateway is no longer needed, or the proxy has ended."""
        while not self._proxy.has_ended and (self._leases or not self._is_over()):
            for key, _ in self._selector.select(_TICK):
                if key.fileobj is self._door.socket:
                    self._welcome()
                elif isinstance(key.fileobj, socket.socket):
                    self._release(key.fileobj)
            if (self._session is not None and self._session.is_over()) or not self._door.stands():
                self.retire()

    def _is_over(self) -> bool:
        return self._session is not None and (self._retired or time.monotonic() >= self._until)

    def _welcome(self) -> None:
        if self._retired:
            return
        with suppress(OSError, ValueError):
            connection, _ = self._door.socket.accept()
            connection.settimeout(_REQUEST_SECONDS)
            if request := receive(connection):
                self.consider(connection, request[0])

    def consider(self, connection: socket.socket, wish: JsonObject) -> None:
        """Give a lease, or refuse it; a refused command that wants a gateway that stays has this one replaced."""
        try:
            stays = self._session is not None
            fits = self._settings in (wish.get("settings"), wish.get("key"))
            if fits and wish.get("machine") == loopback_id():
                send(connection, {"offline": self._offline, "stays": stays}, self._proxy.listener.fileno())
                self._leases[connection] = 60.0 * float(wish["minutes"])
                self._selector.register(connection, selectors.EVENT_READ)
                return
            stop = stays and (wish.get("stop") or wish.get("minutes"))
            if stop:
                self.retire()
            if stop and not self._leases:
                self._ending.append(connection)  # closed by the end of this process
                return
            send(connection, {} if stays else {"in_terminal": self._proxy.base_url})
        except OSError:  # the command has ended meanwhile
            pass
        connection.close()

    def _release(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if connection.recv(1):
                return
        self._selector.unregister(connection)
        connection.close()
        if seconds := self._leases.pop(connection):
            self._until = time.monotonic() + seconds

    def retire(self) -> None:
        """Give no further lease; a gateway that stays ends with the last one."""
        if not self._retired:
            self._retired = True
            self._selector.unregister(self._door.socket)
            self._door.close()


def keep(first: socket.socket, wish: JsonObject, port: int, timeout: int) -> None:
    """Start a gateway, and keep it until it is no longer needed."""
    directory = GatewayDirectory()
    try:
        door = Door(directory.path)
    except OSError:
        send(first, {})  # no lease: the command gets a gateway that ends with it
        return
    try:
        session = Session()
        booted = threading.Event()
        threading.Thread(target=_end_with, args=(first, booted), daemon=True).start()
        with started(directory, port, timeout) as (proxy, offline):
            booted.set()
            _leave_foreground(directory.path)
            # The name keeps the connections open until LiteLLM has ended.
            keeper = Keeper(proxy, offline, door, wish.get("settings"), session)
            keeper.consider(first, wish)
            keeper.serve()
    finally:
        door.close()


def _end_with(first: socket.socket, booted: threading.Event) -> None:
    """Interrupt this process if the command that started it ends while the gateway boots."""
    with suppress(OSError):
        while first.recv(1):
            pass
    if not booted.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _leave_foreground(folder: Path) -> None:
    """Let go of all that belongs to the command: Ctrl-C, its directory, its standard streams."""
    os.setpgid(0, 0)
    os.chdir(folder)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _interrupt_once(_: int, __: object) -> NoReturn:
    """Interrupt this process, but not its clean-up: Ctrl-C comes from the terminal and from the launcher."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the keeper on the connection that is its standard input; a failure is reported there."""
    handle_signals(_SIGNALS, _interrupt_once)
    first = socket.socket(fileno=os.dup(0))
    first.set_inheritable(False)
    error = ""
    try:
        if request := receive(first):
            keep(first, request[0], int(sys.argv[1]), int(sys.argv[2]))
    except (GatewayUnavailable, ConfigurationError) as problem:
        error = str(problem)
    except OSError as problem:
        error = f"{problem.strerror or problem}: {problem.filename}" if problem.filename else str(problem)
    except KeyboardInterrupt:
        sys.exit(130)
    if error:
        with suppress(OSError):
            send(first, {"error": error})
    sys.exit(1 if error else 0)


if __name__ == "__main__":
    main()
