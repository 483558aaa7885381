"""The `litellm-example` command: its options, exit codes and dispatch.

The SDK and everything built on it is imported by `_carry_out` alone, so that --help and a usage error stay fast.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import Any, NoReturn

import click

from ..config import DEFAULT_MODEL, DEFAULT_TIMEOUT, ConfigurationError, GatewaySettings, gateway_settings
from ..console import FAILED, READER_GONE, abandon_stdout, run_command
from ..payer import Payer, resolve_payer
from ..window import WINDOWS
from .input import read_prompt
from .options import (
    ASKING,
    FOLLOWING,
    GATEWAY,
    MANY,
    OUTPUT,
    PROGRAM,
    RESEARCH,
    Command,
    Options,
    option,
    parse_country,
    parse_fields,
    parse_seconds,
    read_options,
)
from .output import notice

_EPILOG = f"""\b
Examples:
  {PROGRAM} "Reply with exactly: OK"
  git diff | {PROGRAM} "Review this change"
  while read -r q; do {PROGRAM} "$q" </dev/null; done <questions.txt
  {PROGRAM} --api responses --web-search "What happened in Seoul today?"
  {PROGRAM} -c "And in one sentence?"
  {PROGRAM} --schema noodle.json "Describe a noodle" | jq .name
  {PROGRAM} --api responses -o reasoning.effort=high "Think hard"
  {PROGRAM} --api responses --background "Write a long report"
  {PROGRAM} --retrieve resp_123 --wait --timeout 600
  {PROGRAM} --auto-tool-call --timeout 900 "Research jajangmyeon"
  {PROGRAM} --questions questions.txt --out answers.jsonl

\b
Environment:
  LITELLM_BASE_URL  address of the gateway, its root or /v1 (required)
  LITELLM_API_KEY   a key of that gateway (required)
  LITELLM_MODEL     model, unless --model is given (default {DEFAULT_MODEL})
  LITELLM_TAGS      tags for the gateway's cost reports, separated by commas
  LITELLM_END_USER  end user for the gateway's cost reports
  LITELLM_NO_HISTORY  1 keeps no conversation for --continue
  RELAY_BASE_URL    address of the relay (default http://127.0.0.1:8080)
  RELAY_API_KEY     key of the relay, if it requires one
  RELAY_INVOCATION_TOKEN  token for --invocation, --cancel and --open

\b
Exit codes:
  0    the whole answer is on stdout
  1    the call failed; one line on stderr says why
  2    bad usage or configuration; nothing was sent
  3    not what was asked for: cut short, not of the --schema, or without the
       research that the model called for; the text is on stdout, the reason on
       stderr
  4    the deadline passed, or the answer to a submit was lost, while background
       work continues or may continue; stderr says how to pick it up
  130  interrupted; the ids of pending paid work are on stderr
  141  stdout was closed by its reader
"""


@click.command(
    cls=Command,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80, "allow_extra_args": True},
)
@click.argument("prompt", required=False)
@option(
    "--api",
    type=click.Choice(["chat", "responses"]),
    default="chat",
    show_default=True,
    group=ASKING,
    help="API to call.",
)
@option("--model", metavar="NAME", group=ASKING, help=f"Model. Default: LITELLM_MODEL, else {DEFAULT_MODEL}.")
@option("--instructions", metavar="TEXT", group=ASKING, help="System instructions for the model.")
@option(
    "--effort",
    metavar="LEVEL",
    group=ASKING,
    help="Reasoning effort: low, medium, high or another level of the model.",
)
@option(
    "-f",
    "files",
    metavar="FILE",
    multiple=True,
    group=ASKING,
    help="Attach a text, image or PDF, repeatable.",
)
@option(
    "-o",
    "fields",
    metavar="KEY=VALUE",
    multiple=True,
    callback=parse_fields,
    group=ASKING,
    help="Further field of the call, repeatable. Dotted keys nest, values are JSON or else text: "
    "-o reasoning.effort=high",
)
@option("--web-search", is_flag=True, group=ASKING, help="Let the model search the web (responses).")
@option(
    "--search-country",
    metavar="CC",
    callback=parse_country,
    group=ASKING,
    help="With --web-search: search from a country, such as KR.",
)
@option(
    "--background",
    is_flag=True,
    group=ASKING,
    help="With responses: submit, print the raw JSON (id, status, ...).",
)
@option(
    "--auto-tool-call",
    is_flag=True,
    group=RESEARCH,
    help="Let the model call deep_research through the relay. Selects the Responses API; together with --web-search "
    "both tools are offered.",
)
@option(
    "--target",
    type=click.Choice(["direct", "relay"]),
    default="direct",
    show_default=True,
    group=RESEARCH,
    help="relay: run the prompt as a deep_research invocation.",
)
@option(
    "--deliverable-format",
    type=click.Choice(["markdown_brief", "markdown_report", "json_outline"]),
    group=RESEARCH,
    help="With --target relay: form of the result (default markdown_brief).",
)
@option(
    "--window",
    type=click.Choice(WINDOWS),
    group=RESEARCH,
    help="With --background, --target relay or --auto-tool-call (for its research runs): the provider's discount for "
    "work that may take this long.",
)
@option(
    "--questions",
    metavar="FILE",
    group=MANY,
    help="Ask every line of a file (- for stdin): a prompt, or a JSON object with prompt, id and further options. "
    "Without --timeout there is no deadline.",
)
@option(
    "--out",
    metavar="FILE",
    group=MANY,
    help="With --questions: append one JSON line for each answer. The same command line goes on where it ended.",
)
@option(
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    default=4,
    show_default=True,
    group=MANY,
    help="With --questions: lines at a time.",
)
@option(
    "--retry-unknown",
    is_flag=True,
    group=MANY,
    help="With --questions: ask again what may have been executed without an answer. It may be paid for twice.",
)
@option("--sort", is_flag=True, group=MANY, help="With --out: put the lines into the order of the questions.")
@option(
    "--retrieve",
    metavar="ID",
    group=FOLLOWING,
    help="Print the raw JSON of a background response; its text with --wait.",
)
@option(
    "--wait",
    is_flag=True,
    group=FOLLOWING,
    help="With --background or --retrieve: poll until finished, print the text.",
)
@option(
    "--cancel",
    metavar="ID",
    group=FOLLOWING,
    help="Cancel a background response or a research run (inv_..., local_...) and print the raw JSON.",
)
@option(
    "--invocation",
    metavar="ID",
    group=FOLLOWING,
    help="Pick up a research run; its token comes from RELAY_INVOCATION_TOKEN or the record. An unconfirmed run "
    "(local_...) is submitted again under its key.",
)
@option(
    "--previous-response-id", metavar="ID", group=FOLLOWING, in_line=True, help="Continue a conversation (responses)."
)
@option(
    "-c",
    "--continue",
    "continue_last",
    is_flag=True,
    group=FOLLOWING,
    help="Continue this terminal's last conversation with the model.",
)
@option(
    "--list",
    "list_work",
    is_flag=True,
    group=FOLLOWING,
    help="List background responses and research runs that are not yet read whole. Not confirmed: the answer to the "
    "submit was lost.",
)
@option(
    "--open",
    "open_page",
    metavar="ID",
    group=FOLLOWING,
    help="Open the page of a research run in a browser, or print its link.",
)
@option("--forget", metavar="ID", group=FOLLOWING, help="Dismiss one entry of --list, without stopping the work.")
@option(
    "--sources/--no-sources",
    default=True,
    group=OUTPUT,
    help="After the text, list cited pages that it does not name. Default: on.",
)
@option(
    "--stream/--no-stream", default=None, group=OUTPUT, help="Print the text as it arrives. Default: on a terminal."
)
@option(
    "--schema",
    metavar="FILE",
    group=OUTPUT,
    in_line=True,
    help="Ask for JSON of a JSON schema, and check the answer.",
)
@option("--json", is_flag=True, group=OUTPUT, help="Print the gateway's raw JSON instead of the text.")
@option("--verbose", is_flag=True, group=OUTPUT, help="Show model, ids, retries, tokens, cost and times on stderr.")
@option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    callback=parse_seconds,
    default=DEFAULT_TIMEOUT,
    show_default=True,
    group=GATEWAY,
    help="Deadline of the whole command in seconds.",
)
@option(
    "--tag",
    "tags",
    metavar="TAG",
    multiple=True,
    group=GATEWAY,
    help="Tag for the gateway's cost reports, repeatable. Default: LITELLM_TAGS.",
)
@click.version_option(package_name="litellm-openai-example", prog_name=PROGRAM)
@click.pass_context
def command(ctx: click.Context, /, **_values: Any) -> int:
    """Ask a model through a LiteLLM gateway and print its answer.

    Piped input is appended to PROMPT, or is the prompt if PROMPT is missing or "-".
    """
    started = time.monotonic()
    options = read_options(ctx)
    many = options.service == "questions"
    if options.schema_file is not None and not many:  # each of many questions may have its own
        from .schema import read_schema, with_schema  # only for this option

        options = with_schema(options, read_schema(options.schema_file))
    if sys.stdout is None:
        raise ConfigurationError("stdout is closed: the answer would be lost")
    # Reject unusable tags before waiting for stdin.
    payer = resolve_payer(options.tags or None)
    prompt = "" if many else read_prompt(options, started + options.timeout)
    # Missing settings are reported before the SDK is imported.
    settings = gateway_settings() if options.service == "gateway" or options.auto_tool_call else None
    return _carry_out(options, prompt, started, payer, settings)


def _carry_out(options: Options, prompt: str, started: float, payer: Payer, settings: GatewaySettings | None) -> int:
    """Import the code that carries out the command line, and the SDK with it, and run it.

    The import creates some hundred thousand objects that stay, and the garbage collector would walk all of them over
    and over in the meantime. A library must not touch its host's collector; a command may touch its own: `main` turns
    it off first thing, and it is turned on here, once these objects are frozen.
    """
    from ..late_types import late_types

    try:
        with late_types():
            if options.service == "journal":
                from .pending import list_or_forget
            else:
                from .ending import Session, run_session

                if options.service == "relay":
                    from .research import run
                elif options.service == "questions":
                    from .questions import run
                else:
                    from .ask import run
    finally:
        gc.freeze()
        gc.enable()
    if options.service == "journal":
        return list_or_forget(options)
    return run_session(run, Session(options, started, payer, settings), prompt)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit with its code; see `--help` for what the codes mean."""
    if arguments is None:
        _speak_utf8()
    gc.disable()  # until everything is imported
    gc.freeze()
    sys.exit(_main(arguments))


def _speak_utf8() -> None:
    """Restart in Python's UTF-8 mode under an ASCII locale, such as that of cron jobs and small containers.

    Python enables that mode itself unless PYTHONUTF8=0 forbids it. Without it, prompts, file names and answers in most
    languages would be lost.
    """
    ascii_only = sys.getfilesystemencoding().lower() in ("ascii", "us-ascii", "ansi_x3.4-1968", "646")
    if ascii_only and os.environ.get("PYTHONUTF8") != "1" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606


def _main(arguments: list[str] | None) -> int:
    try:
        return run_command(command, notice, name=PROGRAM, arguments=arguments)
    except SystemExit as end:  # raised by shell completion, and with 1 by --help after its reader has gone
        return READER_GONE if end.code else 0
    except BrokenPipeError:
        abandon_stdout()
        return READER_GONE
    except OSError as error:
        abandon_stdout()
        notice(f"Error: cannot write to stdout: {error.strerror or error}")
        return FAILED
