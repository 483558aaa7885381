"""A raw-socket server for answers that are cut, dripped or never begun, and for kept-alive connections."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import IO, Self

from .scripted import Answer, Script, ScriptedServer, Seen


def send(connection: socket.socket, answer: Answer, stopped: threading.Event) -> bool:
    """Send an answer exactly as scripted.

    Args:
        connection: to the client, read up to the end of the request.
        answer: what to send.
        stopped: set when the server ends; it cuts all waits short.

    Returns:
        True if the connection can be reused.
    """
    if answer.drop:
        return False
    stopped.wait(answer.pause)
    streams = bool(answer.events)
    length = {} if streams else {"content-length": str(len(answer.body))}
    headers = {**length, **({"connection": "close"} if streams else {}), **answer.headers}
    head = f"HTTP/1.1 {answer.status} Status\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    if answer.drip_head:
        _drip(connection, head.encode() + answer.body, answer.drip_head, stopped)
        return True
    connection.sendall(head.encode())
    for pause, event in answer.events:
        stopped.wait(pause)
        connection.sendall(event)
    if streams:
        return False
    body = answer.body if answer.cut is None else answer.body[: answer.cut]
    if answer.drip:
        _drip(connection, body, answer.drip, stopped)
    else:
        connection.sendall(body)
    return answer.cut is None


def _drip(connection: socket.socket, content: bytes, pause: float, stopped: threading.Event) -> None:
    for byte in content:
        if stopped.wait(pause):
            return
        connection.sendall(bytes([byte]))


class RawServer(ScriptedServer):
    """A server on a bare socket; unlike `FakeGateway` it keeps connections, and counts them."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(script)
        self._stopped = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def connections(self) -> int:
        """Number of connections accepted so far."""
        return len(self._connections)

    @property
    def closed(self) -> int:
        """Number of connections that this server has closed."""
        return sum(connection.fileno() < 0 for connection in self._connections)

    def wrap(self, connection: socket.socket) -> socket.socket:
        """Wrap an accepted connection, for example in TLS. Must not wait for the client."""
        return connection

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in [self._accepting, *self._threads]:
            thread.join(60)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            connection = self.wrap(plain)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._connections.append(connection)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as file:
                while (seen := _read(file)) is not None:
                    self.seen.append(seen)
                    if not send(connection, self.script(seen), self._stopped):
                        return
        except (OSError, ValueError):
            pass


def _read(file: IO[bytes]) -> Seen | None:
    line = file.readline().decode("latin-1")
    if not line.strip():
        return None
    method, path, _ = line.split(" ", 2)
    headers = {}
    while (line := file.readline().decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Seen(method, path, headers, file.read(int(headers.get("content-length", 0))))
