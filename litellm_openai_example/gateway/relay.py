"""`python -m litellm_openai_example.gateway.relay -- COMMAND...`: one command with a relay of its own beside it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from ..config import OWN_RELAY, setting
from .command import exec_command, handle, run
from .environment import GatewayUnavailable
from .proxy import is_ready, with_loopback_direct

_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def with_relay(command: tuple[str, ...]) -> int:
    """Run COMMAND with RELAY_BASE_URL set to a relay that runs meanwhile; the exit code is the command's.

    Where RELAY_BASE_URL is set already, that relay is used. A research run that outlives the command is kept in
    the ledger, and goes on with the next relay.
    """
    if setting("RELAY_BASE_URL"):
        exec_command(command, os.environ)
    with _relay() as base_url:
        # What the command tells its user to type must not count on a relay that has gone by then.
        return run(command, {**with_loopback_direct(os.environ), "RELAY_BASE_URL": base_url, OWN_RELAY: "1"})


@contextmanager
def _relay() -> Iterator[str]:
    """A relay on a free port of loopback, ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base_url = f"http://127.0.0.1:{port}"
    relay = [sys.executable, "-m", "litellm_openai_example.relay", "--host", "127.0.0.1", "--port", str(port)]
    # A session of its own: Ctrl-C at the terminal is for the command, the relay is stopped after it.
    env = {"RELAY_LOG_LEVEL": "WARNING", **os.environ}  # the command tells how its run goes
    process = subprocess.Popen(relay, env=env, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)
    try:
        _wait(process, base_url)
        yield base_url
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], base_url: str) -> None:
    until = time.monotonic() + _READY_SECONDS
    while not is_ready(base_url, path="/readyz"):
        if process.poll() is not None:
            raise GatewayUnavailable("the relay did not start")
        if time.monotonic() > until:
            raise GatewayUnavailable(f"the relay was not ready after {_READY_SECONDS:.0f} s")
        time.sleep(0.05)


def main() -> NoReturn:
    """Run the command line: exit code 1 when there is no relay to be had, 130 when interrupted before it is ready."""
    handle((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler)  # as Ctrl-C
    try:
        code = with_relay.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except GatewayUnavailable as error:
        click.echo(f"[relay] Error: {error}", err=True)
        code = 1
    except (click.Abort, KeyboardInterrupt):
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
