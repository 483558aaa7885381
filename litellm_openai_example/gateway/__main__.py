"""`python -m litellm_openai_example.gateway`: a LiteLLM gateway on this machine, or one command against it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn
from urllib.parse import urlsplit

import click

from . import state
from .environment import GatewayUnavailable
from .offline.server import OfflineProvider
from .proxy import Proxy, answers, with_loopback_direct
from .routes import configuration, providers_with_keys

_NO_LLM = "offline demo model: no language model is involved (set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY)"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on. Default: any free one.")
@click.option("--reuse", is_flag=True, help="With a command: use LITELLM_BASE_URL, or a gateway that already runs.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def gateway(port: int, reuse: bool, command: tuple[str, ...]) -> int:
    """Run a LiteLLM gateway on 127.0.0.1 until Ctrl-C, and print how to reach it.

    With a COMMAND, run that against the gateway (LITELLM_BASE_URL and LITELLM_API_KEY are set for it) and stop
    afterwards; the exit code is the command's.

    The providers are those whose keys are in the environment: OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY.
    Without any of them an offline demo model answers.
    """
    if reuse and not command:
        raise click.UsageError("--reuse goes with a command")
    if reuse:
        _use_another(command)
    with _running(port, dict(os.environ)) as (proxy, offline):
        if command:
            return _run(command, _client_env(os.environ, proxy.base_url, proxy.api_key))
        _serve(proxy, offline)
    return 0


def _use_another(command: tuple[str, ...]) -> None:
    """Become the command, if there is a gateway to use already; return if there is none."""
    given = os.environ.get("LITELLM_BASE_URL", "").strip()
    if given:
        _tell(f"using the gateway at {_host(given)}")
        _become(command, os.environ)
    noted = state.running()
    if noted is None:
        return
    key = state.secret("master-key")
    if not answers(noted["base_url"], key):
        state.forget_running(noted["pid"])
        return
    _tell(f"using the gateway that runs at {noted['base_url']}")
    if noted.get("offline"):
        _tell(_NO_LLM)
    _become(command, _client_env(os.environ, noted["base_url"], key))


@contextmanager
def _running(port: int, env: Mapping[str, str]) -> Iterator[tuple[Proxy, bool]]:
    """A gateway that is ready, and whether it is the offline one."""
    keys = providers_with_keys(env)
    provider = None if keys else OfflineProvider().start()
    try:
        if provider is None:
            _tell(f"starting a gateway for {', '.join(keys)}")
        else:
            _tell(_NO_LLM)
        config = configuration(keys, None if provider is None else provider.base_url)
        proxy = Proxy.start(config, port=port, tell=_tell, env=env)
        try:
            _wait(proxy)
            yield proxy, provider is not None
        finally:
            proxy.stop()
    finally:
        if provider is not None:
            provider.stop()


def _wait(proxy: Proxy) -> None:
    terminal = sys.stderr is not None and sys.stderr.isatty()
    _tell(f"starting LiteLLM at {proxy.base_url} (about 10 s)")

    def on_second(seconds: float) -> None:
        if terminal:
            sys.stderr.write(f"\r\x1b[K[gateway] {seconds:.0f} s")
            sys.stderr.flush()

    try:
        proxy.wait_until_ready(on_second)
    finally:
        if terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _serve(proxy: Proxy, offline: bool) -> None:
    """Print the exports and stay until the proxy ends or we are told to stop."""
    state.record_running({"pid": os.getpid(), "base_url": proxy.base_url, "offline": offline})
    try:
        print(f"export LITELLM_BASE_URL={proxy.base_url}")
        print(f"export LITELLM_API_KEY={proxy.api_key}")
        if any(os.environ.get(name) for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")):
            print(f"export NO_PROXY={with_loopback_direct(os.environ)['NO_PROXY']}")
        sys.stdout.flush()
        _tell("ready; Ctrl-C stops it")
        stopped = threading.Event()
        proxy.when_it_ends(stopped.set)
        stopped.wait()
        raise GatewayUnavailable(f"the proxy ended by itself; its log: {proxy.log}")
    finally:
        state.forget_running(os.getpid())


def _run(command: tuple[str, ...], env: Mapping[str, str]) -> int:
    """Run a command to its end; Ctrl-C is for it to handle."""
    try:
        process = subprocess.Popen(command, env=dict(env))
    except OSError as error:
        raise GatewayUnavailable(f"cannot run {command[0]}: {error.strerror}") from None
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal has sent it to the command as well
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    code = process.wait()
    return code if code >= 0 else 128 - code


def _become(command: tuple[str, ...], env: Mapping[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], list(command), dict(env))  # noqa: S606
    except OSError as error:
        raise GatewayUnavailable(f"cannot run {command[0]}: {error.strerror}") from None


def _client_env(env: Mapping[str, str], base_url: str, api_key: str) -> dict[str, str]:
    return {**with_loopback_direct(env), "LITELLM_BASE_URL": base_url, "LITELLM_API_KEY": api_key}


def _host(url: str) -> str:
    """The host of a URL, without what might be a secret in it."""
    try:
        return urlsplit(url).hostname or "LITELLM_BASE_URL"
    except ValueError:
        return "LITELLM_BASE_URL"


def _tell(text: str) -> None:
    click.echo(f"[gateway] {text}", err=True)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line; exit code 1 when the gateway cannot be had, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = gateway.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except GatewayUnavailable as error:
        _tell(f"Error: {error}")
        code = 1
    except (click.Abort, KeyboardInterrupt):
        _tell("stopped")
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
