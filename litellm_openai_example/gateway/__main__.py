"""`python -m litellm_openai_example.gateway`: a LiteLLM gateway on this machine, or one command against it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import click

if sys.platform == "win32":
    sys.exit("The embedded gateway needs Linux or macOS; on Windows run it in WSL.")

from ..config import OWN_RELAY, setting
from ..console import FAILED, run_command
from . import boot
from .children import GatewayUnavailable, Server, handle_signals, listen, supervise
from .directory import GatewayDirectory
from .keeper import Door, Keeper
from .lease import key_id, lease, minutes_to_stay, retire
from .progress import tell
from .proxy import (
    PROXY_VARIABLES,
    READY_SECONDS,
    Proxy,
    client_env,
    started,
    tell_if_offline,
    with_loopback_direct,
)

_NOT_FOUND = 127
_MAKE_TARGET = "LITELLM_EXAMPLE_MAKE"  # set by the Makefile
_RELAY_STOP_SECONDS = 10.0  # two more than the relay gets to finish its submissions (boot)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False})
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on. Default: any free one.")
@click.option("--reuse", is_flag=True, help="With a command: use LITELLM_BASE_URL, or a gateway that already runs.")
@click.option("--keep", is_flag=True, help="With --reuse: let a gateway that this starts stay for later commands.")
@click.option("--stop", is_flag=True, help="Stop the gateway that stays, as soon as no command uses it.")
@click.option("--relay", is_flag=True, help="With a command: run a relay for it too, unless RELAY_BASE_URL is set.")
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    default=READY_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until LiteLLM, and then the relay, is ready.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def gateway(port: int, reuse: bool, keep: bool, stop: bool, relay: bool, timeout: int, command: tuple[str, ...]) -> int:
    """Run a LiteLLM gateway on 127.0.0.1 until Ctrl-C, and print how to reach it.

    With a COMMAND, run it against the gateway (LITELLM_BASE_URL and LITELLM_API_KEY are set for it) and stop
    afterwards; the exit code is the command's.

    The gateway routes to the providers whose keys are in the environment: OPENAI_API_KEY, ANTHROPIC_API_KEY,
    GEMINI_API_KEY. Without any of them an offline demo model answers.

    With --keep a gateway stays for ten minutes after its last use, until logout or --stop at the latest. It does so
    only if stderr is a terminal; LITELLM_KEEP_GATEWAY sets the minutes, also without a terminal, and 0 switches it off.
    """
    if stop:
        if reuse or keep or relay or command:
            raise click.UsageError("--stop goes alone")
        return _stop(GatewayDirectory())
    if keep and not reuse:
        raise click.UsageError("--keep goes with --reuse")
    if (reuse or relay) and not command:
        raise click.UsageError(f"{'--reuse' if reuse else '--relay'} goes with a command")
    if command and shutil.which(command[0]) is None:
        tell(f"Error: command not found: {command[0]}")
        return _NOT_FOUND
    run = partial(_run_with_relay, timeout=timeout) if relay and not setting("RELAY_BASE_URL") else supervise
    if reuse and (url := setting("LITELLM_BASE_URL")):
        tell(f"using the gateway at {_without_credentials(url)}")
        return run(command, os.environ)
    directory = GatewayDirectory()
    if reuse and (env := _leased(directory, minutes_to_stay() if keep else 0, port, timeout)) is not None:
        return run(command, env)
    with started(directory, port, timeout) as (proxy, offline):
        tell_if_offline(offline)
        if not command:
            return _serve(directory, proxy, offline)
        return run(command, client_env(proxy.base_url, proxy.api_key))


def _leased(directory: GatewayDirectory, minutes: float, port: int, timeout: int) -> Mapping[str, str] | None:
    """Return the environment for a client of a gateway that runs, or is to stay; None if there is none."""
    use = lease(directory, minutes, port, timeout)
    if use is None:
        return None
    how_long = f"; it stays for {minutes:g} min after its last use, stop it with: {_stop_line()}"
    how_long = how_long if minutes and use.stays else ""
    tell(f"using the gateway that runs at {use.base_url}{how_long}")
    tell_if_offline(use.offline)
    return client_env(use.base_url, directory.master_key)


def _stop_line() -> str:
    """Return the shell command that stops a gateway that stays."""
    if setting(_MAKE_TARGET):
        return "make gateway-stop"
    return shlex.join([sys.executable, "-m", str(__package__), "--stop"])


def _stop(directory: GatewayDirectory) -> int:
    """Stop a gateway that stays, and say what became of it. Raises GatewayUnavailable."""
    ended = retire(directory)
    told = {True: "the gateway has ended", False: "a command still uses the gateway, which ends with that command"}
    tell("no gateway stays" if ended is None else told[ended])
    return 0


def _serve(directory: GatewayDirectory, proxy: Proxy, offline: bool) -> int:
    """Print the exports, and serve until the proxy ends or a signal arrives."""
    exports = {"LITELLM_BASE_URL": proxy.base_url, "LITELLM_API_KEY": proxy.api_key}
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in PROXY_VARIABLES):
        exports["NO_PROXY"] = with_loopback_direct(os.environ)["NO_PROXY"]
    # From now on commands find this one. One that was started for a command would end under those who reuse it.
    keeper = None
    with suppress(OSError):  # the directory cannot hold a socket
        keeper = Keeper(proxy, offline, Door(directory.path), key_id(directory))
    try:
        for name, value in exports.items():
            click.echo(f"export {name}={shlex.quote(value)}")
        if os.environ.get("UV"):  # `uv run` found the command in an environment that the user's shell does not have
            click.echo(f'export PATH={shlex.quote(os.path.dirname(sys.executable))}:"$PATH"')
        tell(f"ready; Ctrl-C stops it; log: {proxy.log}")
        keeper.serve() if keeper is not None else proxy.wait()
        raise GatewayUnavailable(f"the proxy ended unexpectedly{proxy.log_tail()}")
    except KeyboardInterrupt:
        tell("stopping")
        return 0
    finally:
        if keeper is not None:
            keeper.retire()


def _run_with_relay(command: Sequence[str], env: Mapping[str, str], timeout: int) -> int:
    """Run a command beside a relay of the same environment; a run that outlives it goes on with the next relay."""
    relay = Server(
        [sys.executable, "-m", boot.__name__],
        [boot.RELAY],
        listener=listen(),
        env={"RELAY_LOG_LEVEL": "WARNING", **env},  # the command itself reports on its run
        output=2,
    )
    try:
        if not relay.wait_until_ready("/readyz", {}, timeout):
            raise GatewayUnavailable("the relay did not start")
        # OWN_RELAY: the lines that the command suggests to type must not rely on a relay that is gone by then.
        return supervise(command, {**with_loopback_direct(env), "RELAY_BASE_URL": relay.base_url, OWN_RELAY: "1"})
    except TimeoutError:
        raise GatewayUnavailable(f"the relay was not ready after {timeout} s") from None
    finally:
        relay.stop(_RELAY_STOP_SECONDS)


def _without_credentials(url: str) -> str:
    with suppress(ValueError):
        address = urlsplit(url)
        if place := address.netloc.rpartition("@")[2]:
            return urlunsplit((address.scheme, place, address.path, "", ""))
    return "LITELLM_BASE_URL"


def main() -> NoReturn:
    """Run the command line.

    The exit code is 1 if the gateway or the relay cannot start, 2 for a wrong option or setting, and 130 after an
    interrupt before they are ready.
    """
    handle_signals((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler)  # as Ctrl-C
    try:
        code = run_command(gateway, tell)
    except GatewayUnavailable as error:
        tell(f"Error: {error}")
        code = FAILED
    except OSError as error:
        tell(f"Error: {error.strerror or error}: {error.filename}" if error.filename else f"Error: {error}")
        code = FAILED
    sys.exit(code)


if __name__ == "__main__":
    main()
