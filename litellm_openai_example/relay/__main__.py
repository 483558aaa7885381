"""`python -m litellm_openai_example.relay`, `litellm-relay`: run the relay server, or look after it."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from ..console import run_command
from ..json_object import JsonObject
from ..late_types import late_types
from ..window import WINDOWS
from .commands import COMMANDS, LONGEST, Amount, tell
from .log import open_standard_streams
from .settings import Settings, make_settings, request_fields

_ENVIRONMENT = """\b
Read from the environment only:
  LITELLM_BASE_URL        address of the gateway, its root or /v1 (required)
  LITELLM_API_KEY         key of the gateway (required)
  RELAY_API_KEY           key that clients must send to start a research run;
                          required for any address that is not loopback
  RELAY_API_KEY_PREVIOUS  a second key that is accepted, while clients change
                          to the first
  RELAY_DATABASE_URL      the ledger: sqlite:////path/to/file or
                          postgresql://user:password@host/database
                          (default: a SQLite file in the state directory)
  RELAY_PUBLIC_URL        address of this relay in browsers, for the links to
                          the page of a run
  RELAY_LOG_LEVEL         DEBUG, INFO (default), WARNING or ERROR
  RELAY_LOG_FORMAT        text (default) or json
"""


class _RequestFields(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest Click
    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> JsonObject:
        try:
            return request_fields(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Setting(click.Option):
    """An option whose errors name its environment variable too, with old versions of Click as with new ones."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        hint = super().get_error_hint(ctx)
        return hint if str(self.envvar) in hint else f"{hint} (env var: '{self.envvar}')"


def _option(flag: str, variable: str, help: str, **how: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.option(flag, cls=_Setting, envvar=variable, help=help, show_default=True, show_envvar=True, **how)


class _Relay(click.Group):
    """The group of the subcommands; options without one are those of `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help", "--version")):
            # `--list` and `--cost` are the older forms of two commands.
            name = next((name for name in ("list", "cost") if f"--{name}" in args), "serve")
            args = [name, *(one for one in args if one != f"--{name}")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            raise click.UsageError(
                f"the relay needs {missing}, which is not installed: pip install '.[relay]' in the checkout "
                "(or make relay)"
            ) from None


@click.group(
    cls=_Relay,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="`litellm-relay serve --help` lists all settings. The other commands read RELAY_DATABASE_URL alone.",
)
@click.version_option(package_name="litellm-openai-example", prog_name="litellm-relay")
def relay() -> None:
    """Run the relay, or look after it: deep research through a LiteLLM gateway, started once and never lost.

    Without a command, the relay is served: `litellm-relay --port 8081` means `litellm-relay serve --port 8081`. The
    other commands need the ledger alone, so they work from any machine that reaches it.
    """


for _command in COMMANDS:
    relay.add_command(_command)


@relay.command(epilog=_ENVIRONMENT)
@_option("--host", "RELAY_HOST", "Address to listen on.", metavar="ADDRESS", default=Settings.host)
@_option(
    "--port",
    "RELAY_PORT",
    "Port to listen on; 0 takes any free one.",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=Settings.port,
)
@click.option("--fd", type=click.IntRange(0), hidden=True, help="Serve on this inherited socket, as uvicorn's --fd.")
@_option("--model", "RELAY_MODEL", "Research model.", metavar="NAME", default=Settings.model)
@_option(
    "--request",
    "RELAY_REQUEST",
    "JSON object merged into the research request: tools, reasoning, max_tool_calls, include ... Its fields replace "
    "the default ones (a search tool, high effort, store); null removes one.",
    type=_RequestFields(),
    default=None,
)
@_option(
    "--window",
    "RELAY_WINDOW",
    "The provider's discount window for runs whose client asks for none: they may take this long.",
    type=click.Choice(WINDOWS),
    default=None,
)
@_option(
    "--max-running",
    "RELAY_MAX_RUNNING",
    "Concurrent research runs per process.",
    metavar="NUMBER",
    type=click.IntRange(1, 10_000),
    default=Settings.max_running,
)
@_option(
    "--max-queued",
    "RELAY_MAX_QUEUED",
    "Research runs that may wait in the queue, for all processes together.",
    metavar="NUMBER",
    type=click.IntRange(1, 1_000_000),
    default=Settings.max_queued,
)
@_option(
    "--submits",
    "RELAY_SUBMITS",
    "Most submissions that may wait for the gateway's answer at once, per process; fewer while the gateway refuses "
    "them or gets slow.",
    metavar="NUMBER",
    type=click.IntRange(1, 500),
    default=Settings.submits,
)
@_option(
    "--research-timeout",
    "RELAY_RESEARCH_TIMEOUT_SECONDS",
    "Time limit of a research run, in seconds.",
    metavar="SECONDS",
    type=Amount(0, LONGEST, min_open=True),
    default=Settings.research_timeout,
)
@_option(
    "--wait",
    "RELAY_WAIT_SECONDS",
    "Longest time that a request may wait for a result, in seconds.",
    metavar="SECONDS",
    type=Amount(0, LONGEST),
    default=Settings.wait,
)
@_option(
    "--retention",
    "RELAY_RETENTION_HOURS",
    "Time that results are kept, in hours.",
    metavar="HOURS",
    type=Amount(0, LONGEST, min_open=True),
    default=Settings.retention / 3600,
)
def serve(*, host: str, model: str, request: JsonObject | None, retention: float, **limits: Any) -> int:
    """Serve until SIGTERM or Ctrl-C. This is the default command.

    An accepted run is first written to the ledger, then submitted to the gateway once, and followed to its end by any
    relay process that shares the ledger. Stop the relay at any time: the next start picks up the runs in progress.
    """
    _end_at_once_by_sigterm()
    # Imports create many objects, none of them garbage: collecting would only slow the start.
    gc.disable()
    try:
        # Here: `--help` and the other commands need neither the server nor the engine.
        with late_types():
            from .process import run
    finally:
        gc.enable()
    # An empty variable, as a template leaves it behind, means the default.
    limits["host"] = host.strip() or Settings.host
    limits["model"] = model.strip() or Settings.model
    return run(make_settings(request=request or {}, retention=retention * 3600, **limits), tell)


def _end_at_once_by_sigterm() -> None:
    """End on SIGTERM without cleanup, until the relay handles signals itself."""
    # Nothing is open yet, and by default the process would die of the signal instead of ending with 0.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def main() -> NoReturn:
    """Run the command line: exit code 0 after SIGTERM, 130 after Ctrl-C, 2 when a setting is missing or wrong."""
    open_standard_streams()
    sys.exit(run_command(relay, tell, name="litellm-relay", show_usage=False))


if __name__ == "__main__":
    main()
