"""`python -m litellm_openai_example.relay`, `litellm-relay`: run the relay server, or look after it."""

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

from ..console import FAILED, READER_GONE, abandon_stdout, run_command
from ..json_object import JsonObject
from ..late_types import late_types
from ..window import WINDOWS
from .log import open_standard_streams, write_line
from .settings import Settings, database_url, make_settings, request_fields

_LONGEST = 1e8  # seconds, or hours
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


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@relay.command("list")
@click.option("--state", metavar="STATE", help="Only runs in this state, such as running; the newest 1,000.")
@_json_option
def list_command(*, state: str | None, as_json: bool) -> int:
    """Print the unfinished runs in the ledger.

    The last column is the replica that follows the run, or the error code of one that has ended.
    """
    from . import report

    if state is not None and state not in report.STATES:
        raise click.UsageError(f"--state must be one of {', '.join(report.STATES)}")
    return _print(lambda: report.list_runs(database_url(), state, as_json=as_json))


@relay.command("cost")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="Since this day (UTC). Default: 30 days ago."
)
@_json_option
def cost_command(*, since: datetime | None, as_json: bool) -> int:
    """Print the cost of ended runs in the ledger by day and model."""
    from . import report

    day = since.replace(tzinfo=UTC) if since else datetime.now(UTC) - timedelta(days=30)
    return _print(lambda: report.cost_of_runs(database_url(), day, as_json=as_json))


@relay.command("cancel")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--queued", is_flag=True, help="Cancel everything that waits in the queue.")
def cancel_command(*, ids: tuple[str, ...], queued: bool) -> int:
    """Cancel runs by their ids, or all that are queued.

    No token is needed, so anybody's run can be cancelled. A queued run ends at once. The replica that follows a run in
    progress asks the gateway to stop it, and repeats that until the gateway reports the end.
    """
    from .operations import cancel_queued, cancel_runs

    if queued == bool(ids):
        raise click.UsageError("name the runs to cancel by their ids, or pass --queued")
    if queued:
        cancelled = "{}  cancelled".format
        return _print(lambda: "\n".join(map(cancelled, cancel_queued(database_url()))) or "no runs were queued")
    records = cancel_runs(database_url(), ids)
    for record in records:
        if record is not None and not record.finished:
            tell(f"{record.id} still runs: the request to stop it stays in the ledger (`litellm-relay list`)")
    unknown = [one for one, record in zip(ids, records, strict=True) if record is None]
    for one in unknown:
        tell(f"Error: no run {one} in the ledger")
    known = [record for record in records if record is not None]
    code = _print(lambda: "\n".join(f"{record.id}  {record.state}" for record in known)) if known else 0
    return code or (FAILED if unknown else 0)


@relay.command("drain")
@click.argument("replica", required=False)
@click.option(
    "--timeout",
    type=_Amount(0, _LONGEST),
    metavar="SECONDS",
    default=3600.0,
    show_default=True,
    help="Longest time to wait until the replica has no work left.",
)
def drain_command(*, replica: str | None, timeout: float) -> int:
    """Relieve a replica of its work, so that it can be stopped.

    REPLICA is a name that `list` prints, its beginning, or the name of a machine. The default is the replica on this
    machine.

    The replica refuses new runs, so that clients repeat them at another replica, and submits nothing more. Other
    replicas take over the runs that it follows; if there is none, it follows them to their ends. Stop it once this
    command prints that it is drained: nothing is then cut short. A drained replica still answers those who wait for a
    run. It takes work again only after a restart.
    """
    from .operations import drain

    try:
        name, done = drain(database_url(), replica, timeout, tell)
    except KeyboardInterrupt:
        tell("no longer waiting; a replica that was asked to drain goes on")
        raise
    if not done:
        raise click.ClickException(f"{name} still has work after {timeout:g} s; it goes on draining")
    return _print(lambda: f"{name}  drained")


def tell(text: str) -> None:
    """Print a line for the person at the terminal."""
    write_line(f"[relay] {text}")


def _print(make: Callable[[], str]) -> int:
    """Print what `make` returns, and return the exit code."""
    # Before the ledger is read: the interpreter has no stdout if its descriptor is closed.
    if sys.stdout is None:
        raise click.UsageError("stdout is closed: the report would be lost")
    text = make()
    try:
        click.echo(text)
    except OSError as error:
        abandon_stdout()
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        raise click.ClickException(f"cannot write to stdout: {error.strerror or error}") from None
    return 0


def main() -> NoReturn:
    """Run the command line: exit code 0 after SIGTERM, 130 after Ctrl-C, 2 when a setting is missing or wrong."""
    open_standard_streams()
    sys.exit(run_command(relay, tell, name="litellm-relay", show_usage=False))


if __name__ == "__main__":
    main()
