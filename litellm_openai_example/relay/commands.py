"""The subcommands of `litellm-relay` beside `serve`: reports on the ledger, and an operator's wishes in it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ..console import FAILED, READER_GONE, abandon_stdout
from .log import write_line
from .settings import database_url

LONGEST = 1e8  # seconds, or hours


class Amount(click.FloatRange):
    """A number in a range; a plain FloatRange accepts NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("NaN is not in the range.", param, ctx)
        return number


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("list")
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


@click.command("cost")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="Since this day (UTC). Default: 30 days ago."
)
@_json_option
def cost_command(*, since: datetime | None, as_json: bool) -> int:
    """Print the cost of ended runs in the ledger by day and model."""
    from . import report

    day = since.replace(tzinfo=UTC) if since else datetime.now(UTC) - timedelta(days=30)
    return _print(lambda: report.cost_of_runs(database_url(), day, as_json=as_json))


@click.command("cancel")
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


@click.command("drain")
@click.argument("replica", required=False)
@click.option(
    "--timeout",
    type=Amount(0, LONGEST),
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


COMMANDS = (list_command, cost_command, cancel_command, drain_command)


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
