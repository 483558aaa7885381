"""The command line: options in, exit codes out. Nothing heavy is imported before a call is really made."""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from ..config import DEFAULT_MODEL, DEFAULT_TIMEOUT, ConfigurationError, gateway_settings
from ..console import FAILED, READER_GONE, abandon_stdout, run_command
from ..payer import resolve_payer
from .fields import parse_country, parse_fields
from .options import PROGRAM, Options, conflict
from .output import notice
from .prompt import read_prompt
from .quick_import import execute

_EPILOG = f"""\b
Examples:
  {PROGRAM} "Reply with exactly: OK"
  git diff | {PROGRAM} "Review this change"
  while read -r q; do {PROGRAM} "$q" </dev/null; done <questions.txt
  {PROGRAM} --api responses --web-search "What happened in Seoul today?"
  {PROGRAM} --api responses -o reasoning.effort=high "Think hard"
  {PROGRAM} --api responses --background "Write a long report"
  {PROGRAM} --retrieve resp_123 --wait --timeout 600
  {PROGRAM} --auto-tool-call --timeout 900 "Research jajangmyeon"

\b
Environment:
  LITELLM_BASE_URL  address of the gateway, its root or /v1 (required)
  LITELLM_API_KEY   a key of that gateway (required)
  LITELLM_MODEL     model, unless --model is given (default {DEFAULT_MODEL})
  LITELLM_TAGS      tags for the gateway's accounts, separated by commas
  LITELLM_END_USER  for whom the calls are made, for the same
  RELAY_BASE_URL    address of the relay (default http://127.0.0.1:8080)
  RELAY_API_KEY     key of the relay, if it wants one
  RELAY_INVOCATION_TOKEN  token for --invocation and --cancel

\b
Exit codes:
  0    the whole answer is on stdout
  1    the call failed; one line on stderr says why
  2    bad usage or configuration; nothing was sent
  3    not what was asked for: cut short, or without the research that the
       model called for; the text is on stdout, the reason on stderr
  4    the deadline passed, or the answer to a start was lost, while background
       work lives on or may do so; stderr says how to pick it up
  130  interrupted; ids of paid work in flight are on stderr
  141  the reader of stdout has gone
"""


def _finite(_ctx: click.Context, _param: click.Parameter, seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise click.BadParameter("must be a finite number above 0")
    return seconds


@click.command(
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80, "allow_extra_args": True},
)
@click.argument("prompt", required=False)
@click.option("--api", type=click.Choice(["chat", "responses"]), default="chat", show_default=True, help="API to call.")
@click.option("--background", is_flag=True, help="With responses: submit, print the raw JSON (id, status, ...).")
@click.option("--wait", is_flag=True, help="With --background or --retrieve: poll until finished, print the text.")
@click.option("--retrieve", metavar="ID", help="Print the raw JSON of a background response; its text with --wait.")
@click.option(
    "--cancel",
    metavar="ID",
    help="Cancel a background response or a research run (inv_..., local_...) and print the raw JSON.",
)
@click.option("--previous-response-id", metavar="ID", help="Continue a conversation (responses).")
@click.option("--web-search", is_flag=True, help="Let the model search the web (responses).")
@click.option(
    "--search-country", metavar="CC", callback=parse_country, help="With --web-search: where from, such as KR."
)
@click.option(
    "--auto-tool-call",
    is_flag=True,
    help="Let the model call deep_research through the relay. Selects the Responses API; together with --web-search "
    "both tools are offered.",
)
@click.option(
    "--target",
    type=click.Choice(["direct", "relay"]),
    default="direct",
    show_default=True,
    help="relay: run the prompt as a deep_research invocation.",
)
@click.option(
    "--invocation",
    metavar="ID",
    help="Pick up a research run (token from RELAY_INVOCATION_TOKEN, else as kept here). One that is not confirmed "
    "(local_...) is posted again under its key.",
)
@click.option(
    "--list",
    "list_work",
    is_flag=True,
    help="List what was submitted in the background or to a relay and is not yet read whole; not confirmed: the "
    "answer to the submit was lost.",
)
@click.option("--forget", metavar="ID", help="Drop one entry of --list; what it stands for is not stopped.")
@click.option(
    "--deliverable-format",
    type=click.Choice(["markdown_brief", "markdown_report", "json_outline"]),
    help="With --target relay: form of the result (default markdown_brief).",
)
@click.option(
    "-o",
    "fields",
    metavar="KEY=VALUE",
    multiple=True,
    callback=parse_fields,
    help="One more field of the call, repeatable. Dotted keys nest, values are JSON or else text: "
    "-o reasoning.effort=high",
)
@click.option(
    "--tag",
    "tags",
    metavar="TAG",
    multiple=True,
    help="Tag for the gateway's accounts, repeatable. Default: LITELLM_TAGS.",
)
@click.option("--effort", metavar="LEVEL", help="How hard the model thinks: low, medium, high or what else it knows.")
@click.option(
    "-f",
    "files",
    metavar="FILE",
    multiple=True,
    help="A text, image or PDF that goes with the prompt, repeatable.",
)
@click.option(
    "--sources/--no-sources",
    default=True,
    help="List the cited pages that the text does not name, after it. Default: on.",
)
@click.option("--stream/--no-stream", default=None, help="Print the text as it comes. Default: on a terminal.")
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    callback=_finite,
    default=DEFAULT_TIMEOUT,
    show_default=True,
    help="Deadline of the whole command in seconds.",
)
@click.option("--model", metavar="NAME", help=f"Model. Default: LITELLM_MODEL, else {DEFAULT_MODEL}.")
@click.option("--instructions", metavar="TEXT", help="System instructions for the model.")
@click.option("--json", is_flag=True, help="Print the gateway's raw JSON instead of the text.")
@click.option("--verbose", is_flag=True, help="Show model, ids, retries, tokens, cost and times on stderr.")
@click.version_option(package_name="litellm-openai-example", prog_name=PROGRAM)
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Ask a model through a LiteLLM gateway and print its answer.

    What is piped in is added to PROMPT, or is the prompt where PROMPT is not given or is "-".
    """
    started = time.monotonic()
    if ctx.args:
        raise click.UsageError("the prompt is one argument: put quotes around it", ctx)
    given = {name for name in values if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    if values["auto_tool_call"] and "api" not in given:
        values["api"] = "responses"
    options = Options(**values)
    problem = conflict(options, given)
    if problem:
        raise click.UsageError(problem, ctx)
    if sys.stdout is None:
        raise ConfigurationError("stdout is closed: the answer would be lost")
    resolve_payer(options.tags or None)
    prompt = read_prompt(options, started + options.timeout)
    if options.at_gateway:
        gateway_settings()  # what is missing is told before the SDK is imported
    return execute(options, prompt, started)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit with its code; see `--help` for what the codes mean."""
    if arguments is None:
        _speak_utf8()
    gc.disable()  # until everything is imported
    gc.freeze()
    sys.exit(_main(arguments))


def _speak_utf8() -> None:
    """Begin again in Python's UTF-8 mode if the locale knows only ASCII, as that of cron and small containers does.

    Python does so by itself unless PYTHONUTF8=0 forbids it; then a prompt, a file name and an answer in most languages
    would be lost.
    """
    ascii_only = sys.getfilesystemencoding().lower() in ("ascii", "us-ascii", "ansi_x3.4-1968", "646")
    if ascii_only and os.environ.get("PYTHONUTF8") != "1" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606


def _main(arguments: list[str] | None) -> int:
    try:
        return run_command(command, notice, name=PROGRAM, arguments=arguments)
    except SystemExit as end:  # shell completion ends so, and with 1 --help whose reader has gone
        return READER_GONE if end.code else 0
    except BrokenPipeError:
        abandon_stdout()
        return READER_GONE
    except OSError as error:
        abandon_stdout()
        notice(f"Error: cannot write to stdout: {error.strerror or error}")
        return FAILED
