"""Leases on a gateway that runs for other commands (`keeper`): how a command finds, starts, holds and stops it.

The keeper listens on a Unix socket in the state directory, which only this user can reach. A connection is a lease: a
gateway that stays between commands does so as long as it is open. With the lease the keeper hands over the gateway's
listening socket. So the address belongs to a process of this user, and no other user can take the port before the lease
ends, even if the keeper is killed.

Each side sends one line of JSON; the keeper's may be missing, which means that the gateway has ended.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..config import ConfigurationError, setting
from ..json_object import JsonObject
from .children import GatewayUnavailable, hang_up
from .directory import GatewayDirectory, loopback_id
from .environment import installation, only_one
from .progress import tell
from .proxy import decisive

SOCKET = "gateway.sock"
MINUTES = "LITELLM_KEEP_GATEWAY"
_DEFAULT_MINUTES, _MOST_MINUTES = 10.0, 24 * 60.0
_ANSWER_SECONDS = 20.0  # more than the keeper takes to stop LiteLLM
_LONGEST_LINE = 4096
# A kept process must not hold the prompt, which make passes in each of these.
_OF_ONE_CALL = frozenset({"PROMPT", "ARGS", "MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", MINUTES})


class Lease:
    """The use of a gateway, until this process ends.

    Attributes:
        base_url: the root of the gateway's address.
        offline: True if the offline demo model answers.
        stays: True for a gateway that stays between commands, False for one that serves in a terminal.
    """

    def __init__(self, connection: socket.socket, listener: socket.socket, facts: JsonObject) -> None:
        self.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.offline, self.stays = facts.get("offline") is True, facts.get("stays") is True
        self._connection, self._listener = connection, listener
        # The thread also keeps the lease from being collected.
        threading.Thread(target=self._hang_up_after_end, daemon=True).start()

    def _hang_up_after_end(self) -> None:
        """Hang up on new clients of a gateway that has ended: they would wait in the socket that this process holds."""
        with suppress(OSError):
            while self._connection.recv(1):
                pass
        hang_up(self._listener)


def minutes_to_stay() -> float:
    """Return for how many minutes after its last use a gateway should stay; 0 if it should end with its command.

    It stays only where a person sees the line that says so, or where `LITELLM_KEEP_GATEWAY` asks for it.

    Raises:
        ConfigurationError: `LITELLM_KEEP_GATEWAY` is not a number of minutes.
    """
    if given := setting(MINUTES):
        minutes = math.nan
        with suppress(ValueError):
            minutes = float(given)
        if not 0 <= minutes <= _MOST_MINUTES:
            raise ConfigurationError(f"{MINUTES} must be a number of minutes from 0 to {_MOST_MINUTES:.0f}")
        return minutes
    seen = sys.stderr is not None and sys.stderr.isatty() and has_terminal()
    return _DEFAULT_MINUTES if seen and setting("CI").lower() in ("", "0", "false") else 0


def has_terminal() -> bool:
    """Return True if this process belongs to a terminal; one that was closed or logged out of no longer counts."""
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    return False


def lease(directory: GatewayDirectory, minutes: float, port: int, timeout: int) -> Lease | None:
    """Return a lease on a gateway, or None if none can be had.

    Args:
        directory: the gateway's directory.
        minutes: how long the gateway should stay after this use. With 0, none is started or replaced for it, and one
            that stays does not stay longer.
        port: the port for a gateway that is started; 0 takes any free one.
        timeout: how long it may take to start, in seconds.

    Raises:
        GatewayUnavailable: the gateway cannot be started.
        ConfigurationError: the state or the cache directory cannot be used.
    """
    wish: JsonObject = {"settings": _settings(directory), "key": key_id(directory)}
    wish |= {"minutes": minutes, "machine": loopback_id()}
    if not minutes:
        return _join(directory, wish)
    with only_one(directory.path / "gateway.lock", lambda: tell("waiting for another command that starts a gateway")):
        return _join(directory, wish) or _start(wish, port, timeout)


def retire(directory: GatewayDirectory) -> bool | None:
    """Stop a gateway that stays, as soon as nothing uses it.

    Returns:
        True if it has ended, False if a command still uses it, None if there was none.

    Raises:
        GatewayUnavailable: it did not end in time, or serves in a terminal.
    """
    try:
        connection = _connect(directory)
    except OSError:
        return None
    with connection:
        try:
            answer = _ask(connection, {"stop": True})
        except TimeoutError:
            raise GatewayUnavailable("the gateway that stays did not end in time") from None
    if answer and (url := answer[0].get("in_terminal")):
        raise GatewayUnavailable(f"the gateway at {url} runs in a terminal: Ctrl-C there stops it")
    return answer is None


def send(connection: socket.socket, message: Mapping[str, object], *descriptors: int) -> None:
    """Send a message, and descriptors with it. Raises OSError."""
    socket.send_fds(connection, [json.dumps(message).encode() + b"\n"], descriptors)


def receive(connection: socket.socket) -> tuple[JsonObject, list[int]] | None:
    """Return the next message and the descriptors that came with it; None at the end. Raises OSError, ValueError."""
    text, descriptors = b"", []
    while not text.endswith(b"\n"):
        part, found, _, _ = socket.recv_fds(connection, _LONGEST_LINE, 1)
        descriptors += found
        if not part:
            return None
        text += part
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message, descriptors


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a directory, because the address of a Unix socket has room for about a hundred characters only."""
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def key_id(directory: GatewayDirectory) -> str:
    """Return a text that identifies the master key, and does not tell it."""
    return hashlib.sha256(directory.master_key.encode()).hexdigest()


def _settings(directory: GatewayDirectory) -> str:
    """Return a digest of all that decides how a gateway answers: keys, other settings, LiteLLM, and this code."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    code = [(str(file), file.stat().st_mtime_ns) for file in files]
    parts = json.dumps([sorted(decisive(os.environ).items()), installation(), code])
    # Keyed, so that the digest tells nothing about the keys. It also differs once the master key has changed.
    return hmac.new(directory.master_key.encode(), parts.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()


def _connect(directory: GatewayDirectory) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_ANSWER_SECONDS)
        with inside(directory.path):
            connection.connect(SOCKET)
    except BaseException:
        connection.close()
        raise
    return connection


def _ask(connection: socket.socket, message: JsonObject) -> tuple[JsonObject, list[int]] | None:
    """Return the answer to a message, None if the gateway has ended. Raises TimeoutError."""
    try:
        send(connection, message)
        return receive(connection)
    except TimeoutError:
        raise
    except (OSError, ValueError):
        return None


def _join(directory: GatewayDirectory, wish: JsonObject) -> Lease | None:
    try:
        connection = _connect(directory)
        answer = _ask(connection, wish)
    except OSError:  # none stays, or it does not answer
        return None
    return _leased(connection, answer) if answer else None


def _leased(connection: socket.socket, answer: tuple[JsonObject, list[int]]) -> Lease | None:
    message, descriptors = answer
    if not descriptors:
        connection.close()
        return None
    connection.settimeout(None)
    listener = socket.socket(fileno=descriptors[0])
    listener.set_inheritable(False)
    return Lease(connection, listener, message)


def _start(wish: JsonObject, port: int, timeout: int) -> Lease | None:
    """Start a keeper, whose first lease is a connection that it inherits, and return that lease."""
    connection, theirs = socket.socketpair()
    with theirs:
        keeper = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.keeper", str(port), str(timeout)],
            env={name: value for name, value in os.environ.items() if name not in _OF_ONE_CALL},
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,  # the command's alone; a pipe behind it must see its end
        )
    try:
        send(connection, wish)
        answer = receive(connection)
        if answer is None:
            raise GatewayUnavailable(f"the gateway ended with code {keeper.wait()} while it started")
        if error := answer[0].get("error"):
            raise GatewayUnavailable(str(error))
    except BaseException:
        connection.close()
        keeper.wait()
        raise
    return _leased(connection, answer)
