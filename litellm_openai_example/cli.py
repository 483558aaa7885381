"""The command line: options in, exit codes out. Nothing heavy is imported before a call is really made."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple, NoReturn

import click
from click.core import ParameterSource

from .config import DEFAULT_MODEL, DEFAULT_TIMEOUT, ConfigurationError

PROGRAM = "litellm-example"

_EPILOG = f"""\b
Examples:
  {PROGRAM} "Reply with exactly: OK"
  git diff | {PROGRAM} --instructions "Review this change"
  {PROGRAM} --api responses --web-search "What happened in Seoul today?"
  {PROGRAM} --api responses --background --wait --timeout 600 "Write a long report"
  {PROGRAM} --retrieve resp_123 --wait
  {PROGRAM} --api responses --auto-tool-call "Research the history of jajangmyeon"

\b
Environment:
  LITELLM_BASE_URL  address of the gateway, its root or /v1 (required)
  LITELLM_API_KEY   a key of that gateway (required)
  LITELLM_MODEL     model, unless --model is given (default {DEFAULT_MODEL})
  RELAY_BASE_URL    address of the relay (default http://127.0.0.1:8080)
  RELAY_API_KEY     key of the relay, if it wants one
  RELAY_INVOCATION_TOKEN  token for --invocation

\b
Exit codes:
  0    the whole answer is on stdout
  1    the call failed; one line on stderr says why
  2    bad usage or configuration; nothing was sent
  3    the answer is cut short: its text is on stdout, the reason on stderr
  4    the deadline passed while background work lives on; stderr says how to pick it up
  130  interrupted; ids of paid work in flight are on stderr
"""


def _finite(_ctx: click.Context, _param: click.Parameter, seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise click.BadParameter("must be a finite number above 0")
    return seconds


class Options(NamedTuple):
    """The command line, as given; `stream` is None where neither --stream nor --no-stream is."""

    prompt: str | None
    api: str
    background: bool
    wait: bool
    retrieve: str | None
    cancel: str | None
    previous_response_id: str | None
    web_search: bool
    auto_tool_call: bool
    target: str
    invocation: str | None
    deliverable_format: str | None
    stream: bool | None
    timeout: float
    model: str | None
    instructions: str | None
    json: bool
    verbose: bool

    @property
    def follows_up(self) -> bool:
        """Whether this is about work that was submitted before, and so needs no prompt."""
        return bool(self.retrieve or self.cancel or self.invocation)


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("prompt", required=False)
@click.option("--api", type=click.Choice(["chat", "responses"]), default="chat", show_default=True, help="API to call.")
@click.option("--background", is_flag=True, help="With responses: submit, print the raw JSON (id, status, ...).")
@click.option("--wait", is_flag=True, help="With --background or --retrieve: poll until finished, print the text.")
@click.option("--retrieve", metavar="ID", help="Print the raw JSON of a background response; its text with --wait.")
@click.option("--cancel", metavar="ID", help="Cancel a background response and print the raw JSON.")
@click.option("--previous-response-id", metavar="ID", help="Continue a conversation (responses).")
@click.option("--web-search", is_flag=True, help="Let the model search the web (responses).")
@click.option(
    "--auto-tool-call",
    is_flag=True,
    help="Let the model call deep_research through the relay (responses); together with --web-search both tools "
    "are offered.",
)
@click.option(
    "--target",
    type=click.Choice(["direct", "relay"]),
    default="direct",
    show_default=True,
    help="relay: run the prompt as a deep_research invocation.",
)
@click.option(
    "--invocation", metavar="ID", help="Pick up a research that still runs (token in RELAY_INVOCATION_TOKEN)."
)
@click.option(
    "--deliverable-format",
    type=click.Choice(["markdown_brief", "markdown_report", "json_outline"]),
    help="With --target relay: form of the research result (default markdown_brief).",
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

    PROMPT may also come from stdin, by a pipe or as "-".
    """
    options = Options(**values)
    given = {name for name in values if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    problem = nonsense(options, given)
    if problem:
        raise click.UsageError(problem, ctx)
    prompt = _prompt(options, ctx)
    from .commands import execute

    return execute(options, prompt)


def nonsense(options: Options, given: set[str]) -> str | None:
    """Why a combination of options makes no sense; None if it does.

    Args:
        options: their values.
        given: the names of those that stand on the command line, whatever their value.
    """
    for name in ("retrieve", "cancel", "invocation", "previous_response_id", "model"):
        value = getattr(options, name)
        if name in given and (not value.strip() or not value.isprintable()):
            return f"{_flag(name)} is empty or holds control characters"
        if name in given and name != "model" and not (value.isascii() and " " not in value):
            return f"{_flag(name)} is not an id"
    modes = [name for name in ("retrieve", "cancel", "invocation") if name in given]
    if len(modes) > 1:
        return f"{_flag(modes[0])} and {_flag(modes[1])} exclude each other"
    if modes:
        return _first(modes[0], given, _NOT_WITH[modes[0]])
    if "wait" in given and not options.background:
        return "--wait goes with --background or --retrieve"
    if options.target == "relay":
        return _relay_nonsense(options, given)
    if "deliverable_format" in given:
        return "--deliverable-format goes with --target relay"
    if options.api == "chat":
        only = [name for name in _RESPONSES_ONLY if getattr(options, name)]
        if only:
            return f"{_flag(only[0])} needs --api responses"
    if options.auto_tool_call:
        found = _first("auto_tool_call", given, ("background",))
        if found:
            return found
    if options.stream:
        return _first("stream", given, ("json", "background", "auto_tool_call"))
    return None


_RESPONSES_ONLY = ("background", "previous_response_id", "web_search", "auto_tool_call")
_ASKING = ("prompt", "background", "web_search", "auto_tool_call", "target", "deliverable_format", "stream")
_NOT_WITH = {
    "retrieve": (*_ASKING, "previous_response_id", "instructions"),
    "cancel": (*_ASKING, "wait", "previous_response_id", "instructions"),
    "invocation": (*_ASKING, "wait", "previous_response_id", "instructions", "model"),
}


def _relay_nonsense(options: Options, given: set[str]) -> str | None:
    if "api" in given:
        return "--target relay does not go through an API: leave --api away"
    found = _first("target relay", given, ("auto_tool_call", "web_search", "previous_response_id", "model", "wait"))
    if not found and options.stream:
        found = _first("stream", given, ("background", "json"))
    return found


def _first(what: str, given: set[str], excluded: tuple[str, ...]) -> str | None:
    """The message for the first of the excluded options that stands next to `what`, if one does."""
    for name in excluded:
        if name in given:
            return f"{_flag(what)} takes no prompt" if name == "prompt" else f"{_flag(what)} excludes {_flag(name)}"
    return None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _prompt(options: Options, ctx: click.Context) -> str:
    """The prompt from the argument or from stdin; empty where none is needed."""
    if options.follows_up:
        return ""
    prompt = options.prompt
    if prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError('give a prompt, or pipe it in (or type it with "-" as PROMPT)', ctx)
    if prompt is None or prompt == "-":
        prompt = _read_stdin(ctx)
    for name, text in (("prompt", prompt), ("text of --instructions", options.instructions)):
        if text is not None and not text.strip():
            raise click.UsageError(f"the {name} is empty", ctx)
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"the {name} is not valid UTF-8", ctx) from None
    return prompt


def _read_stdin(ctx: click.Context) -> str:
    if sys.stdin is None:
        raise click.UsageError("there is no stdin to read the prompt from", ctx)
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("the prompt on stdin is not valid UTF-8", ctx) from None
    except OSError as error:
        raise click.UsageError(f"cannot read the prompt from stdin: {error.strerror}", ctx) from None


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit with its code; see `--help` for what the codes mean."""
    sys.exit(_main(arguments))


def _main(arguments: list[str] | None) -> int:
    from .output import abandon_stdout, notice

    try:
        result = command.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigurationError as error:
        notice(f"Error: {error}")
        return 2
    except (click.Abort, KeyboardInterrupt):
        notice("interrupted")
        return 130
    except SystemExit as end:  # shell completion ends so, and with 1 --help whose reader has gone
        return 130 if end.code else 0
    except OSError as error:
        abandon_stdout()
        notice(f"Error: cannot write to stdout: {error.strerror or error}")
        return 1
