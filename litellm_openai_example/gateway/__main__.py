"""`python -m litellm_openai_example.gateway`: a LiteLLM gateway on this machine, or one command against it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import click

if sys.platform == "win32":
    sys.exit("The embedded gateway needs Linux or macOS; on Windows run it in WSL.")

from ..config import OWN_RELAY, setting
from ..console import FAILED, run_command
from . import boot
from .children import GatewayUnavailable, Server, exec_command, handle_signals, listen, supervise
from .directory import GatewayDirectory
from .offline.model import MODELS
from .offline.provider import OfflineProvider
from .progress import PREFIX, progress
from .proxy import (
    OFFLINE_KEY,
    READY_SECONDS,
    Proxy,
    accepts_key,
    configuration,
    providers_with_keys,
    with_loopback_direct,
)

_NO_LLM = "offline demo model: no LLM is involved (set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY for one)"
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_NOT_FOUND = 127
_RELAY_STOP_SECONDS = 10.0  # two more than the relay gets to finish its submissions (boot)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False})
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on. Default: any free one.")
@click.option("--reuse", is_flag=True, help="With a command: use LITELLM_BASE_URL, or a gateway that already runs.")
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
def gateway(port: int, reuse: bool, relay: bool, timeout: int, command: tuple[str, ...]) -> int:
    """Run a LiteLLM gateway on 127.0.0.1 until Ctrl-C, and print how to reach it.

    With a COMMAND, run it against the gateway (LITELLM_BASE_URL and LITELLM_API_KEY are set for it) and stop
    afterwards; the exit code is the command's.

    The gateway routes to the providers whose keys are in the environment: OPENAI_API_KEY, ANTHROPIC_API_KEY,
    GEMINI_API_KEY. Without any of them an offline demo model answers.
    """
    if (reuse or relay) and not command:
        raise click.UsageError(f"{'--reuse' if reuse else '--relay'} goes with a command")
    if command and shutil.which(command[0]) is None:
        _tell(f"Error: command not found: {command[0]}")
        return _NOT_FOUND
    relay = relay and not setting("RELAY_BASE_URL")
    if reuse and (env := _reusable()) is not None:
        if relay:
            return _run_with_relay(command, env, timeout)
        exec_command(command, env)
    directory = GatewayDirectory()
    with _started(directory, port, timeout) as (proxy, offline):
        if not command:
            return _serve(directory, proxy, offline)
        env = _client_env(proxy.base_url, proxy.api_key)
        return _run_with_relay(command, env, timeout) if relay else supervise(command, env)


def _reusable() -> Mapping[str, str] | None:
    """Return the environment for a client of the configured gateway or of one that runs; None if there is neither."""
    if url := setting("LITELLM_BASE_URL"):
        _tell(f"using the gateway at {_without_credentials(url)}")
        return os.environ
    directory = GatewayDirectory()
    running = directory.running()
    if running is None or not accepts_key(running.base_url, directory.master_key):
        return None
    _tell(f"using the gateway that runs at {running.base_url}")
    if running.offline:
        _tell(_NO_LLM)
    return _client_env(running.base_url, directory.master_key)


@contextmanager
def _started(directory: GatewayDirectory, port: int, timeout: int) -> Iterator[tuple[Proxy, bool]]:
    """Start a gateway; yield it once it is ready, with True if the offline model answers."""
    keys = providers_with_keys(os.environ)
    with ExitStack() as stack:
        if keys:
            _tell(f"routing to {', '.join(keys)}")
            routes, env = configuration(keys), dict(os.environ)
        else:
            provider = stack.enter_context(OfflineProvider(folder=directory.path / "offline"))
            routes = configuration({}, provider.base_url)
            env = _offline_env(provider)
        proxy = stack.enter_context(
            Proxy(routes, directory=directory, port=port, env=env, demo=() if keys else MODELS, tell=_tell)
        )
        with progress(f"starting LiteLLM at {proxy.base_url}", _tell, expected=10) as show:
            proxy.wait_until_ready(timeout, show)
        if not keys:
            _tell(_NO_LLM)  # last, so that it stands right above the answer
        yield proxy, not keys


def _offline_env(provider: OfflineProvider) -> dict[str, str]:
    """Return LiteLLM's environment for the demo, in which each way out of this machine ends at the provider."""
    env = {name: value for name, value in os.environ.items() if name.upper() not in _PROXY_VARIABLES}
    # The provider refuses whatever comes as a request to a proxy (CONNECT, absolute URLs).
    nowhere = provider.base_url.removesuffix("/v1")
    ways_out = {name: nowhere for variable in _PROXY_VARIABLES for name in (variable, variable.lower())}
    return {**env, **ways_out, "NO_PROXY": "", "no_proxy": "", "HF_HUB_OFFLINE": "1", OFFLINE_KEY: provider.api_key}


def _serve(directory: GatewayDirectory, proxy: Proxy, offline: bool) -> int:
    """Print the exports, and serve until the proxy ends or a signal arrives."""
    exports = {"LITELLM_BASE_URL": proxy.base_url, "LITELLM_API_KEY": proxy.api_key}
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXY_VARIABLES):
        exports["NO_PROXY"] = with_loopback_direct(os.environ)["NO_PROXY"]
    # Only a gateway that stays is recorded: one started for a command would end under those who reuse it.
    directory.record(proxy.base_url, offline=offline)
    try:
        for name, value in exports.items():
            click.echo(f"export {name}={shlex.quote(value)}")
        if os.environ.get("UV"):  # `uv run` found the command in an environment that the user's shell does not have
            click.echo(f'export PATH={shlex.quote(os.path.dirname(sys.executable))}:"$PATH"')
        _tell(f"ready; Ctrl-C stops it; log: {proxy.log}")
        proxy.wait()
        raise GatewayUnavailable(f"the proxy ended unexpectedly{proxy.log_tail()}")
    except KeyboardInterrupt:
        _tell("stopping")
        return 0
    finally:
        directory.forget()


def _run_with_relay(command: tuple[str, ...], env: Mapping[str, str], timeout: int) -> int:
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


def _client_env(base_url: str, api_key: str) -> dict[str, str]:
    return {**with_loopback_direct(os.environ), "LITELLM_BASE_URL": base_url, "LITELLM_API_KEY": api_key}


def _without_credentials(url: str) -> str:
    with suppress(ValueError):
        address = urlsplit(url)
        if place := address.netloc.rpartition("@")[2]:
            return urlunsplit((address.scheme, place, address.path, "", ""))
    return "LITELLM_BASE_URL"


def _tell(text: str) -> None:
    click.echo(f"{PREFIX}{text}", err=True)


def main() -> NoReturn:
    """Run the command line.

    The exit code is 1 if the gateway or the relay cannot start, 2 for a wrong option or setting, and 130 after an
    interrupt before they are ready.
    """
    handle_signals((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler)  # as Ctrl-C
    try:
        code = run_command(gateway, _tell)
    except GatewayUnavailable as error:
        _tell(f"Error: {error}")
        code = FAILED
    except OSError as error:
        _tell(f"Error: {error.strerror or error}: {error.filename}" if error.filename else f"Error: {error}")
        code = FAILED
    sys.exit(code)


if __name__ == "__main__":
    main()
