"""`python -m litellm_openai_example.gateway`: a LiteLLM gateway on this machine, or one command against it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import click

if sys.platform == "win32":
    sys.exit("The embedded gateway needs Linux or macOS; on Windows run it in WSL.")

from ..config import setting
from ..console import FAILED, run_command
from .children import GatewayUnavailable
from .command import exec_command, handle, run
from .offline.server import MODELS, OfflineProvider
from .progress import PREFIX, progress
from .proxy import READY_SECONDS, Proxy, is_ready, with_loopback_direct
from .routes import OFFLINE_KEY, configuration, providers_with_keys
from .state import Running, State, this_machine

_NO_LLM = "offline demo model: no LLM is involved (set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY for one)"
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_NOT_FOUND = 127


@click.command(context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False})
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on. Default: any free one.")
@click.option("--reuse", is_flag=True, help="With a command: use LITELLM_BASE_URL, or a gateway that already runs.")
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    default=READY_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until LiteLLM is ready.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def gateway(port: int, reuse: bool, timeout: int, command: tuple[str, ...]) -> int:
    """Run a LiteLLM gateway on 127.0.0.1 until Ctrl-C, and print how to reach it.

    With a COMMAND, run that against the gateway (LITELLM_BASE_URL and LITELLM_API_KEY are set for it) and stop
    afterwards; the exit code is the command's.

    The providers are those whose keys are in the environment: OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY.
    Without any of them an offline demo model answers.
    """
    if reuse and not command:
        raise click.UsageError("--reuse goes with a command")
    if command and shutil.which(command[0]) is None:
        _tell(f"Error: command not found: {command[0]}")
        return _NOT_FOUND
    if reuse and (url := setting("LITELLM_BASE_URL")):
        _tell(f"using the gateway at {_without_credentials(url)}")
        exec_command(command, os.environ)
    state = State()
    if reuse and (running := _another(state)) is not None:
        _tell(f"using the gateway that runs at {running.base_url}")
        if running.offline:
            _tell(_NO_LLM)
        exec_command(command, _client_env(running.base_url, state.master_key))
    with _started(state, port, timeout) as (proxy, offline):
        if command:
            return run(command, _client_env(proxy.base_url, proxy.api_key))
        return _serve(state, proxy, offline)


def _another(state: State) -> Running | None:
    """A gateway of ours that already runs and answers."""
    running = state.running()
    return running if running is not None and is_ready(running.base_url, state.master_key, timeout=5.0) else None


@contextmanager
def _started(state: State, port: int, timeout: int) -> Iterator[tuple[Proxy, bool]]:
    """A gateway that is ready, and whether it is the offline one."""
    keys = providers_with_keys(os.environ)
    with ExitStack() as stack:
        if keys:
            _tell(f"routing to {', '.join(keys)}")
            routes, env = configuration(keys), dict(os.environ)
        else:
            provider = stack.enter_context(OfflineProvider(folder=state.folder / "offline"))
            routes = configuration({}, provider.base_url)
            env = _offline_env(provider)
        proxy = stack.enter_context(
            Proxy(routes, state=state, port=port, env=env, demo=() if keys else MODELS, tell=_tell)
        )
        with progress(f"starting LiteLLM at {proxy.base_url} (about 10 s)", _tell) as show:
            proxy.wait_until_ready(timeout, show)
        if not keys:
            _tell(_NO_LLM)  # last of all: right above the answer
        yield proxy, not keys


def _offline_env(provider: OfflineProvider) -> dict[str, str]:
    """Return LiteLLM's environment for the demo, in which each way out of this machine ends at the provider."""
    env = {name: value for name, value in os.environ.items() if name.upper() not in _PROXY_VARIABLES}
    nowhere = provider.base_url.removesuffix("/v1")
    ways_out = {name: nowhere for variable in _PROXY_VARIABLES for name in (variable, variable.lower())}
    return {**env, **ways_out, "NO_PROXY": "", "no_proxy": "", "HF_HUB_OFFLINE": "1", OFFLINE_KEY: provider.api_key}


def _serve(state: State, proxy: Proxy, offline: bool) -> int:
    """Print the exports and stay until the proxy ends or we are told to stop."""
    exports = {"LITELLM_BASE_URL": proxy.base_url, "LITELLM_API_KEY": proxy.api_key}
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXY_VARIABLES):
        exports["NO_PROXY"] = with_loopback_direct(os.environ)["NO_PROXY"]
    state.record(Running(proxy.base_url, offline, this_machine()))
    try:
        for name, value in exports.items():
            click.echo(f"export {name}={shlex.quote(value)}")
        _tell(f"ready; Ctrl-C stops it; log: {proxy.log}")
        proxy.wait()
        raise GatewayUnavailable(f"the proxy ended by itself{proxy.log_tail()}")
    except KeyboardInterrupt:
        _tell("stopping")
        return 0
    finally:
        state.forget()


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

    Exit code 1 when the gateway cannot be had, 2 for a wrong setting, 130 when interrupted before it is ready.
    """
    handle((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler)  # as Ctrl-C
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
