"""The relay as a process: its socket, its signals, its log."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn

from .app import create_app
from .database import LedgerUnavailable
from .relay import Relay
from .settings import Settings

_KEEP_ALIVE = 75  # seconds: clients give an idle connection up first, so none dies under a request
_CLOSING = 1  # seconds that answers in progress get at shutdown


class CannotStart(Exception):
    """The relay cannot start; the text is one line for a person."""


def run(settings: Settings, tell: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: checked.
        tell: takes the lines that a person at the terminal wants to see.

    Returns:
        the signal that ended it, 0 if there was none.

    Raises:
        ConfigurationError, CannotStart: with one line for a person.
    """
    logging.basicConfig(format="[relay] %(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    _allow_many_connections()
    gc.freeze()  # what has been imported stays for good: the collector need not walk it
    return asyncio.run(serve(settings, tell))


async def serve(settings: Settings, tell: Callable[[str], None]) -> int:
    """See `run`."""
    relay = Relay(settings)
    await relay.open()
    with bind(settings.host, settings.port) as listener:
        try:
            await relay.start()
            server = RelayServer(settings, relay, listener, tell)
            await server.serve(sockets=[listener])
            return server.ended_by
        except LedgerUnavailable:
            raise CannotStart("the ledger does not answer") from None
        finally:
            await relay.stop()


class RelayServer(uvicorn.Server):
    """Uvicorn, which lets go of those who wait at the first signal, and leaves the exit code to us."""

    def __init__(self, settings: Settings, relay: Relay, listener: socket.socket, tell: Callable[[str], None]) -> None:
        config = uvicorn.Config(
            create_app(relay),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_CLOSING,
        )
        super().__init__(config)
        self.ended_by = 0
        self._relay = relay
        self._listener = listener
        self._tell = tell
        self._ledger_name = settings.ledger_name

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        host, port = self._listener.getsockname()[:2]
        self._tell(f"ledger: {self._ledger_name}")
        self._tell(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ended_by = self.ended_by or sig
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._relay.close)


def bind(host: str, port: int) -> socket.socket:
    """A socket at that address, not listening yet. Raises CannotStart."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise CannotStart("RELAY_HOST is not an address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise CannotStart(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def _allow_many_connections() -> None:
    """Each waiter is a connection, and the usual limit of 1,024 files is soon reached."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
