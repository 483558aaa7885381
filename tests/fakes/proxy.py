"""A forward proxy for HTTP, and the scripted server over TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Self
from urllib.parse import urlsplit

from .raw import RawServer


class Proxy:
    """A forward proxy (absolute URLs for http, CONNECT for https) that records request lines."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for one in self._sockets:
            one.close()
        self._thread.join(60)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        line, rest = head.split(b"\r\n", 1)
        self.seen.append(line.decode())
        method, target, version = line.decode().split(" ")
        if method == "CONNECT":
            host, _, port = target.partition(":")
            server = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            url = urlsplit(target)
            server = socket.create_connection((url.hostname or "", url.port or 80))
            server.sendall(f"{method} {url.path} {version}\r\n".encode() + rest)
        self._sockets.append(server)
        threading.Thread(target=_pump, args=(server, client), daemon=True).start()
        _pump(client, server)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class TLSServer(RawServer):
    """The scripted server over TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.context = context

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def wrap(self, connection: socket.socket) -> socket.socket:
        # The handshake is made by the first read: at the server's end its socket can be shut down even there.
        return self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
