"""`python -m litellm_openai_example.relay`, `litellm-relay`: run the relay server."""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import click

from ..config import ConfigurationError
from ..console import READER_GONE, abandon_stdout, run_command
from ..json_object import JsonObject
from ..late_types import late_types
from ..window import WINDOWS
from .log import open_standard_streams, write_line
from .settings import Settings, database_url, make_settings, request_fields

_LONGEST = 1e8  # seconds, or hours
_ENVIRONMENT = """\b
Read from the environment only:
  LITELLM_BASE_URL    address of the gateway, its root or /v1 (required)
  LITELLM_API_KEY     key of the gateway (required)
  RELAY_API_KEY       key that clients must send to start a research run;
                      required for any address that is not loopback
  RELAY_DATABASE_URL  the ledger: sqlite:////path/to/file or
                      postgresql://user:password@host/database
                      (default: a SQLite file in the state directory)
  RELAY_LOG_LEVEL     DEBUG, INFO (default), WARNING or ERROR
  RELAY_LOG_FORMAT    text (default) or json
"""


class _Amount(click.FloatRange):
    """A number in a range; a plain FloatRange accepts NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("NaN is not in the range.", param, ctx)
        return number


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


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}, epilog=_ENVIRONMENT)
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
    type=_Amount(0, _LONGEST, min_open=True),
    default=Settings.research_timeout,
)
@_option(
    "--wait",
    "RELAY_WAIT_SECONDS",
    "Longest time that a request may wait for a result, in seconds.",
    metavar="SECONDS",
    type=_Amount(0, _LONGEST),
    default=Settings.wait,
)
@_option(
    "--retention",
    "RELAY_RETENTION_HOURS",
    "Time that results are kept, in hours.",
    metavar="HOURS",
    type=_Amount(0, _LONGEST, min_open=True),
    default=Settings.retention / 3600,
)
@click.option("--list", "list_runs", is_flag=True, help="Print the unfinished runs in the ledger, and exit.")
@click.option(
    "--state", metavar="STATE", help="With --list: only runs in this state, such as running; the newest 1,000."
)
@click.option("--cost", is_flag=True, help="Print the cost of ended runs in the ledger by day and model, and exit.")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DATE",
    help="With --cost: since this day (UTC). Default: 30 days ago.",
)
@click.option("--json", "as_json", is_flag=True, help="With --list or --cost: print JSON.")
@click.version_option(package_name="litellm-openai-example", prog_name="litellm-relay")
def relay(
    *,
    host: str,
    model: str,
    request: JsonObject | None,
    retention: float,
    list_runs: bool,
    state: str | None,
    cost: bool,
    since: datetime | None,
    as_json: bool,
    **limits: Any,
) -> int:
    """Run the relay: deep research through a LiteLLM gateway, started once and never lost.

    An accepted run is first written to the ledger, then submitted to the gateway once, and followed to its end by any
    relay process that shares the ledger. Stop the relay with SIGTERM or Ctrl-C at any time: the next start picks up the
    runs in progress.
    """
    problem = _conflict(list_runs=list_runs, cost=cost, state=state, since=since, as_json=as_json)
    if problem:
        raise click.UsageError(problem)
    # Imports create many objects, none of them garbage: collecting would only slow the start.
    gc.disable()
    try:
        if list_runs or cost:
            return _report(state, since, cost=cost, as_json=as_json)
        _end_at_once_by_sigterm()
        # Here: `--help` and the reports need neither the server nor the engine.
        with late_types():
            from .process import CannotStart, run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise click.UsageError(
            f"the relay needs {missing}, which is not installed: pip install '.[relay]' in the checkout (or make relay)"
        ) from None
    finally:
        gc.enable()
    # An empty variable, as a template leaves it behind, means the default.
    limits["host"] = host.strip() or Settings.host
    limits["model"] = model.strip() or Settings.model
    try:
        return run(make_settings(request=request or {}, retention=retention * 3600, **limits), _tell)
    except (ConfigurationError, CannotStart) as error:
        raise click.UsageError(str(error)) from None


def _conflict(*, list_runs: bool, cost: bool, state: str | None, since: datetime | None, as_json: bool) -> str | None:
    """Return the error in the report options: a wrong combination must not start a relay."""
    if list_runs and cost:
        return "--list and --cost exclude each other"
    if state is not None and not list_runs:
        return "--state goes with --list"
    if since is not None and not cost:
        return "--since goes with --cost"
    return "--json goes with --list or --cost" if as_json and not (list_runs or cost) else None


def _report(state: str | None, since: datetime | None, *, cost: bool, as_json: bool) -> int:
    from .report import STATES, cost_of_runs, list_runs

    # Before the ledger is read: the interpreter has no stdout if its descriptor is closed.
    if sys.stdout is None:
        raise click.UsageError("stdout is closed: the report would be lost")
    if state is not None and state not in STATES:
        raise click.UsageError(f"--state must be one of {', '.join(STATES)}")
    try:
        url = database_url()
        if cost:
            day = since.replace(tzinfo=UTC) if since else datetime.now(UTC) - timedelta(days=30)
            text = cost_of_runs(url, day, as_json=as_json)
        else:
            text = list_runs(url, state, as_json=as_json)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    try:
        click.echo(text)
    except OSError as error:
        abandon_stdout()
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        raise click.ClickException(f"cannot write to stdout: {error.strerror or error}") from None
    return 0


def _end_at_once_by_sigterm() -> None:
    """End on SIGTERM without cleanup, until the relay handles signals itself."""
    # Nothing is open yet, and by default the process would die of the signal instead of ending with 0.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def _tell(text: str) -> None:
    write_line(f"[relay] {text}")


def main() -> NoReturn:
    """Run the command line: exit code 0 after SIGTERM, 130 after Ctrl-C, 2 when a setting is missing or wrong."""
    open_standard_streams()
    sys.exit(run_command(relay, _tell, name="litellm-relay", show_usage=False))


if __name__ == "__main__":
    main()
