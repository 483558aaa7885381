"""Lines for the user to type: each works as it is printed, from where it is printed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

from ..config import DEFAULT_RELAY_URL, OWN_RELAY, setting
from . import journal
from .journal import Record
from .options import PROGRAM

MAKE_TARGET = "LITELLM_EXAMPLE_MAKE"  # the Makefile's target that runs this command

_PACKAGE = __name__.partition(".")[0]


def own_relay() -> bool:
    """Whether the relay ends with this command."""
    return bool(setting(OWN_RELAY))


def pick_up_line(entry: Record) -> str | None:
    """Return the line that picks up work; None for a response whose id is not known."""
    if entry.kind == journal.RESPONSE:
        return typed("--retrieve", entry.id, "--wait") if entry.confirmed else None
    return typed("--invocation", entry.id, "--timeout", "3600", token=entry.token, relay=entry.relay)


def stop_line(entry: Record) -> str | None:
    """Return the line that cancels work; None for a response whose id is not known."""
    if entry.kind == journal.RESPONSE and not entry.confirmed:
        return None
    return typed("--cancel", entry.id, token=entry.token, relay=entry.relay)


def typed(*arguments: str, token: str | None = None, relay: str | None = None) -> str:
    """Return the line that runs this command with other arguments.

    Args:
        arguments: not to be trusted: an id comes from a gateway. They are quoted for the shell.
        token: of a research run, which is the relay's.
        relay: the address of that relay; else `RELAY_BASE_URL`.
    """
    words = []
    if token:
        relay = relay or setting("RELAY_BASE_URL")
        if relay.rstrip("/") not in ("", DEFAULT_RELAY_URL) and not own_relay():
            words.append(f"RELAY_BASE_URL={shlex.quote(relay)}")
        words.append(f"RELAY_INVOCATION_TOKEN={shlex.quote(token)}")
    target = setting(MAKE_TARGET)
    if target:
        # Quoted twice: make hands the words of ARGS to a shell of its own.
        words += ["make", shlex.quote(target), f"ARGS={shlex.quote(shlex.join(arguments))}"]
    else:
        words.append(' '.join([*_program(), *arguments]))
    return " ".join(words)


def _program() -> list[str]:
    """How this command was called, for another time."""
    start = os.path.abspath(sys.argv[0]) if sys.argv and sys.argv[0] else ""
    folder, name = os.path.split(start)
    program = [PROGRAM]
    if name == "__main__.py" and folder == os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        program = [sys.executable, "-m", _PACKAGE]
    elif name == PROGRAM and os.path.realpath(shutil.which(PROGRAM) or "") != os.path.realpath(start):
        program = [start]
    if own_relay():
        return [sys.executable, "-m", f"{_PACKAGE}.gateway.relay", "--", *program]
    return program
