"""`python -m litellm_openai_example.gateway.relay -- COMMAND...`: one command with a relay of its own beside it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from ..config import OWN_RELAY, setting
from . import relay_boot
from .children import GatewayUnavailable, Server, listen
from .command import exec_command, handle, run
from .proxy import with_loopback_direct

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
    relay = Server(
        [sys.executable, "-m", relay_boot.__name__],
        listener=listen(),
        env={"RELAY_LOG_LEVEL": "WARNING", **os.environ},  # the command tells how its run goes
        output=2,
    )
    try:
        _wait(relay)
        yield relay.base_url
    finally:
        relay.stop(_STOP_SECONDS)


def _wait(relay: Server) -> None:
    try:
        if not relay.wait_until_ready("/readyz", {}, _READY_SECONDS):
            raise GatewayUnavailable("the relay did not start")
    except TimeoutError:
        raise GatewayUnavailable(f"the relay was not ready after {_READY_SECONDS:.0f} s") from None


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
