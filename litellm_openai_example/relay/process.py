"""The relay as a process: socket, signals, uvicorn, event loop."""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn

from ..config import ConfigurationError
from ..console import INTERRUPTED
from .http.connection import BoundedConnection
from .http.routes import create_app
from .ledger.engines import quiet_drivers
from .ledger.failures import LedgerUnavailable
from .log import background_stderr, configure_logging, log
from .service import Relay
from .settings import Settings

_KEEP_ALIVE = 75  # seconds: clients close an idle connection first, so none breaks under a request
_CLOSING = 1  # seconds that answers in progress get at shutdown
_AFTER_DRAIN = 1.2  # seconds from the end of the drain to the end of the process, even if something hangs


class CannotStart(ConfigurationError):
    """The relay cannot start; the text is one line for the operator."""


def run(settings: Settings, tell: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        tell: prints a line for the person at the terminal.

    Returns:
        the exit code: 130 after Ctrl-C, as in shells; 0 after any other requested stop.

    Raises:
        ConfigurationError, CannotStart: with one line for the operator.
    """
    lost = "%d lines of this log were lost: stderr did not take them"
    with background_stderr(lambda lines: log.warning(lost, lines)):
        return _run(settings, tell)


def _run(settings: Settings, tell: Callable[[str], None]) -> int:
    configure_logging()
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of each malformed request
    quiet_drivers()
    _allow_many_connections()
    gc.freeze()  # imported objects stay: the collector need not walk them
    gc.set_threshold(10_000, 10, 10)  # few cycles among many objects: the default of 700 costs 8 % of a start
    stopping = Stopping(settings.timings.drain + _AFTER_DRAIN)
    try:
        # A `Runner` instead of `uvicorn.run`: the signals are ours, and the ledger is opened before the socket.
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            try:
                runner.run(serve(settings, tell, stopping))
            finally:
                _hush_drivers()
    except asyncio.CancelledError:
        if not stopping.by:
            raise
    log.info("stopped")
    return stopping.exit_code


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's, which saves a fifth of a start's cost, unless it cannot be installed: on Windows, for PyPy."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _hush_drivers() -> None:
    """Silence the SQLite driver's threads at the end.

    A thread still working on a cancelled operation finds the event loop closed afterwards, and Python would print a
    traceback.
    """
    usual = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        frames = (frame for frame, _ in traceback.walk_tb(args.exc_traceback))
        if not any(frame.f_globals.get("__name__", "").startswith("aiosqlite") for frame in frames):
            usual(args)

    threading.excepthook = hook


async def serve(settings: Settings, tell: Callable[[str], None], stopping: Stopping) -> None:
    """Serve until stopped; see `run`."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    stopping.handle(lambda: loop.call_soon_threadsafe(task.cancel))
    relay = Relay(settings)
    await relay.open()  # before the socket: a relay that cannot work must not be reachable
    with bind(settings.host, settings.port) if settings.fd is None else inherited(settings.fd) as listener:
        try:
            # Bound already, so a second relay on this port fails before it claims a run.
            await relay.start()
            server = RelayServer(settings, relay, listener, tell)
            stopping.handle(lambda: loop.call_soon_threadsafe(server.stop))
            relay.on_failure = server.stop
            await server.serve(sockets=[listener])
            if relay.failed:
                raise CannotStart("a part of the relay failed, see above; restart it")
        except LedgerUnavailable as error:
            raise CannotStart(f"the ledger cannot be used: {error}") from None
        finally:
            # After the server: until then, waiting clients are answered from the ledger.
            await relay.stop()


class Stopping:
    """Stops the process at the first SIGINT, SIGTERM or SIGHUP; further signals change nothing.

    Signals come in numbers: a terminal sends Ctrl-C to the whole process group, and wrappers (uv, make, a supervisor)
    forward signals that the relay has received already. A second signal must not shorten the stop: a submission in
    flight is paid for, and lost without its answer. A time limit does.

    Args:
        seconds: from the first signal until the process ends, even if something hangs.

    Attributes:
        by: the first signal, 0 before it.
    """

    def __init__(self, seconds: float) -> None:
        self.by = 0
        self._seconds = seconds
        self._stop: Callable[[], object] = lambda: None

    @property
    def exit_code(self) -> int:
        return INTERRUPTED if self.by == signal.SIGINT else 0

    def handle(self, stop: Callable[[], object]) -> None:
        """Call `stop` at the first signal, from a signal handler; at once if that came already."""
        self._stop = stop
        for number in _signals():
            signal.signal(number, self._on_signal)
        if self.by:
            stop()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.by:
            return
        self.by = number
        if sys.platform != "win32":  # not a thread, which cannot be started safely in a signal handler
            signal.signal(signal.SIGALRM, self._end)
            signal.setitimer(signal.ITIMER_REAL, self._seconds)
            # The interpreter removes its handlers at its very end: the alarm would kill the process then.
            atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
        self._stop()

    def _end(self, *_: object) -> None:
        os._exit(self.exit_code)  # silently: stderr may be what hangs


def _signals() -> list[signal.Signals]:
    # A process that ignores SIGHUP (nohup) is meant to outlive its terminal.
    if sys.platform == "win32" or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class RelayServer(uvicorn.Server):
    """Uvicorn, with waiting clients answered at a stop, and without its signal handlers."""

    def __init__(self, settings: Settings, relay: Relay, listener: socket.socket, tell: Callable[[str], None]) -> None:
        config = uvicorn.Config(
            create_app(relay),
            http=BoundedConnection,
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
        self._relay = relay
        self._listener = listener
        self._tell = tell
        self._ledger_name = settings.ledger_name

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self._listener.getsockname()[:2]
        self._tell(f"ledger: {self._ledger_name}")
        self._tell(f"replica: {self._relay.name}")
        self._tell(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # `Stopping` handles them, even after this server has ended

    def stop(self) -> None:
        """Stop serving; waiting clients are answered at once."""
        log.info("stopping: waiting a few seconds for submissions in flight")
        self.should_exit = True
        self._relay.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to that address, not listening yet. Raises CannotStart."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise CannotStart("RELAY_HOST is not an address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # Otherwise a restart fails for a minute while connections of the last process are in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise CannotStart(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def inherited(descriptor: int) -> socket.socket:
    """Return the bound socket inherited from the parent process. Raises CannotStart."""
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise CannotStart(f"--fd {descriptor} is not a socket: {error.strerror}") from None


def _allow_many_connections() -> None:
    """Raise the limit of open files: each waiting client is one, and the usual 1,024 are soon reached."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
