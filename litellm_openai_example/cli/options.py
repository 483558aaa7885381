"""The command line: its values, the conflicts between its options, and the callbacks that read single options.

In `--help` the options stand under headings; each names its own where `main` defines it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import click
from click.core import ParameterSource

from ..config import is_visible_ascii
from ..json_object import JsonObject, can_be_sent, strict_json
from ..window import Window, window_of, with_window

PROGRAM = "litellm-example"

ASKING, RESEARCH, MANY = "Asking", "Research", "Many questions"
FOLLOWING, OUTPUT, GATEWAY = "Following up", "Output", "Gateway"
OTHER = "Other"  # of an option that names no group
_ORDER = (ASKING, RESEARCH, MANY, FOLLOWING, OUTPUT, GATEWAY, OTHER)


class Option(click.Option):
    """An option with a place in the help.

    Args:
        group: the heading that it stands under.
        in_line: a line of a --questions file may set it, too, as it may set those about asking and research.
    """

    def __init__(self, *args: Any, group: str = OTHER, in_line: bool = False, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.group = group
        self.in_line = in_line or group in (ASKING, RESEARCH)


option = partial(click.option, cls=Option)


class Command(click.Command):
    """A command whose help lists the options by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group that has options."""
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in _ORDER}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups[getattr(parameter, "group", OTHER)].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


class Options(NamedTuple):
    """A valid command line; each option is documented where `main` defines it.

    Attributes:
        api: the API to call, "responses" by default with --auto-tool-call.
        auto_tool_call: False for a command line that follows up on earlier work, which takes precedence.
        fields: further fields of the create call, nested: --effort, --schema, and those of -o, which win.
        schema_file: the path of --schema; "" in a line of a --questions file takes the option back.
        schema: the content of `schema_file`, once it was read (`with_schema`).
        search_tool: the tool of --web-search; None without that option.
        window: discount window of the background response or the research runs, also that of -o.
        stream: None without --stream and --no-stream.
        timeout: seconds for the whole command; infinite with --questions unless it is given.
        follows_up: the command line is about work submitted earlier, so it takes no prompt.
        service: what carries it out. The journal sends nothing; a relay may call the gateway as well.
    """

    prompt: str | None
    api: Literal["chat", "responses"]
    background: bool
    wait: bool
    retrieve: str | None
    cancel: str | None
    open_page: str | None
    previous_response_id: str | None
    continue_last: bool
    schema_file: str | None
    auto_tool_call: bool
    invocation: str | None
    list_work: bool
    forget: str | None
    deliverable_format: str | None
    questions: str | None
    out: str | None
    jobs: int
    retry_unknown: bool
    sort: bool
    fields: JsonObject
    search_tool: JsonObject | None
    files: tuple[str, ...]
    tags: tuple[str, ...]
    window: Window | None
    sources: bool
    stream: bool | None
    timeout: float
    model: str | None
    instructions: str | None
    json: bool
    verbose: bool
    follows_up: bool
    service: Literal["journal", "relay", "gateway", "questions"]
    schema: JsonObject | None = None


def read_options(ctx: click.Context) -> Options:
    """Return the options of a parsed command line.

    Raises:
        click.UsageError: options exclude each other, or one lacks what it needs.
    """
    if ctx.args:
        raise click.UsageError("the prompt is one argument: put quotes around it", ctx)
    values = dict(ctx.params)
    # An option that repeats its default is in conflict as well.
    given = {name for name in values if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    return _resolved(ctx, values, given)


def read_line(ctx: click.Context, prompt: str, line: JsonObject) -> Options:
    """Return the options of one line of a --questions file: those of the command line, with its own instead.

    Args:
        ctx: of the command line.
        prompt: of the line.
        line: its options by name, as in `{"model": "gpt-6-luna", "fields": {"temperature": 0}}`; null leaves one out.

    Raises:
        click.UsageError: an option is unknown, has an unusable value, or conflicts with another one.
    """
    values = {**ctx.params, **_MANY, "prompt": prompt}
    given = {name for name in values if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE} - {*_MANY}
    known = {one.name: one for one in ctx.command.params if isinstance(one, Option) and one.in_line and one.name}
    for name, value in line.items():
        if name not in known:
            names = ", ".join(["prompt", "id", *known])
            raise click.UsageError(
                f"{name!r} is not an option of a line ({names}); other fields of the call go into 'fields'"
            )
        if value is not None:
            read = _line_value(ctx, known[name], value)
            values[name] = merged(values[name], read) if name == "fields" else read
            if value or name == "fields":
                given.add(name)
            else:  # false or an empty list takes an option of the command line back
                given.discard(name)
    return _resolved(ctx, values, given)


def _line_value(ctx: click.Context, parameter: Option, value: object) -> Any:
    """Return a JSON value as Click would read it from the command line."""
    import json  # here, because `--help` needs no JSON

    name = parameter.name or ""
    if name == "fields":
        if not isinstance(value, dict):
            raise click.UsageError("fields must be an object")
        value = [f"{key}={json.dumps(field)}" for key, field in value.items()]
    if parameter.is_flag:
        wanted = "true or false" if not isinstance(value, bool) else ""
    elif parameter.multiple:
        wanted = "" if isinstance(value, list) and all(isinstance(one, str) for one in value) else "a list of texts"
    else:
        wanted = "" if isinstance(value, str) else "a text"
    if wanted:
        raise click.UsageError(f"{name} must be {wanted}")
    read = parameter.type_cast_value(ctx, value)
    return parameter.callback(ctx, parameter, read) if parameter.callback is not None else read


def _resolved(ctx: click.Context, values: JsonObject, given: set[str]) -> Options:
    """Return the options of these values, or raise UsageError if they make no sense together."""
    if values["auto_tool_call"] and "api" not in given:
        values["api"] = "responses"
    problem = _conflict(values, given)
    if problem:
        raise click.UsageError(problem, ctx)
    at_journal = values["list_work"] or values["forget"] is not None
    follows_up = bool(
        values["retrieve"] or values["cancel"] or values["invocation"] or values["open_page"] or at_journal
    )
    # Only a relay's ids and local ids begin like this; all others are responses of the gateway.
    at_relay = values["invocation"] or values["open_page"] or (values["cancel"] or "").startswith(("inv_", "local_"))
    at_relay = at_relay or (not follows_up and (values["auto_tool_call"] or values["target"] == "relay"))
    values["auto_tool_call"] = values["auto_tool_call"] and not follows_up
    values["fields"] = _with_effort(values["api"], values["fields"], values.pop("effort"))
    if values["background"] and not at_relay:
        values["fields"], values["window"] = _with_window(values["fields"], values["window"])
    values["search_tool"] = _search_tool(values["search_country"]) if values["web_search"] else None
    values["schema_file"] = values.pop("schema")
    for name in ("target", "web_search", "search_country"):
        del values[name]
    service: Any = "journal" if at_journal else "relay" if at_relay else "gateway"
    if values["questions"] is not None:
        service = "questions"
        # Many answers take longer than the default, which is meant for one.
        values["timeout"] = values["timeout"] if "timeout" in given else math.inf
    return Options(**values, follows_up=follows_up, service=service)


def _with_effort(api: str, fields: JsonObject, effort: str | None) -> JsonObject:
    if effort is None:
        return fields
    if api == "chat":
        # -o wins over --effort, as the more specific one.
        return {"reasoning_effort": effort, **fields}
    given = fields.get("reasoning", {})
    return {**fields, "reasoning": {"effort": effort, **given} if isinstance(given, dict) else given}


def _with_window(fields: JsonObject, window: Window | None) -> tuple[JsonObject, Window | None]:
    """Return the fields with --window, and the window in them. -o wins over --window, as the more specific one."""
    options = fields.get("background_options", {})
    if window is not None and isinstance(options, dict) and "completion_window" not in options:
        fields = with_window(fields, window)
    return fields, window_of(fields)


def _search_tool(country: str | None) -> JsonObject:
    # The older name: models that know only `web_search` refuse it before anything is paid for.
    tool: JsonObject = {"type": "web_search_preview"}
    return {**tool, "user_location": {"type": "approximate", "country": country}} if country else tool


# The options about many questions, as they are for a single one.
_MANY: JsonObject = {"questions": None, "out": None, "jobs": 1, "retry_unknown": False, "sort": False}
# Options that describe a new request.
_NEW_REQUEST = (
    *("prompt", "background", "web_search", "search_country", "target", "deliverable_format"),
    *("stream", "fields", "effort", "files", "previous_response_id", "continue_last", "instructions", "window"),
    *_MANY,
)
# The options that follow up on earlier work, each with the options that it excludes. --auto-tool-call is not among
# these: `make run-auto` always sets it, and the follow-up takes precedence.
_FOLLOW_UPS = {
    "retrieve": _NEW_REQUEST,
    "cancel": (*_NEW_REQUEST, "wait"),
    "invocation": (*_NEW_REQUEST, "wait", "model"),
    "open_page": (*_NEW_REQUEST, "wait", "model", "api", "json"),
    "list_work": (*_NEW_REQUEST, "wait", "model", "api"),
    "forget": (*_NEW_REQUEST, "wait", "model", "api"),
}
_IDS = ("retrieve", "cancel", "invocation", "open_page", "previous_response_id")
_RESPONSES_ONLY = ("background", "previous_response_id", "web_search", "auto_tool_call")
_NOT_WITH_RELAY = (
    *("auto_tool_call", "web_search", "previous_response_id", "continue_last", "model", "wait", "fields", "effort"),
    "files",
)


def _conflict(values: JsonObject, given: set[str]) -> str | None:
    """Return why a combination of options makes no sense; None if it does.

    Args:
        values: of all options.
        given: the names of those on the command line, even if they repeat the default.
    """
    if values["forget"] is not None and not values["forget"].strip():
        return "--forget is empty"
    for name in (name for name in (*_IDS, "model", "effort") if name in given):
        if not values[name].strip() or not values[name].isprintable():
            return f"{_flag(name)} is empty or holds control characters"
        if name in _IDS and not is_visible_ascii(values[name]):
            return f"{_flag(name)} is not an id"
    follow_ups = [name for name in _FOLLOW_UPS if name in given]
    if len(follow_ups) > 1:
        return f"{_flag(follow_ups[0])} and {_flag(follow_ups[1])} exclude each other"
    if "schema" in given and follow_ups and not (values["invocation"] or (values["retrieve"] and values["wait"])):
        return f"--schema goes with a prompt, --retrieve --wait or --invocation, not with {_flag(follow_ups[0])} alone"
    if follow_ups:
        return _excluded(follow_ups[0], given, _FOLLOW_UPS[follow_ups[0]])
    if values["questions"] is not None:
        if not values["questions"].strip() or (values["out"] is not None and not values["out"].strip()):
            return "--questions or --out is empty"
        if "sort" in given and values["out"] is None:
            return "--sort goes with --out"
        excluded = ("prompt", "json", "continue_last", *(["stream"] if values["stream"] else []))
        if problem := _excluded("questions", given, excluded):
            return problem
    elif names := [name for name in _MANY if name in given]:
        return f"{_flag(names[0])} goes with --questions"
    if "wait" in given and not values["background"]:
        return "--wait goes with --background or --retrieve"
    if "search_country" in given and not values["web_search"]:
        return "--search-country goes with --web-search"
    if values["window"] is not None:
        if not (values["background"] or values["auto_tool_call"] or values["target"] == "relay"):
            return "--window goes with --background, --target relay or --auto-tool-call"
        if values["stream"]:
            return "--window excludes --stream: the text comes in one piece at the end"
    if values["continue_last"] and "previous_response_id" in given:
        return "--continue and --previous-response-id exclude each other"
    if values["target"] == "relay":
        if "api" in given:
            return "--target relay does not go through an API: drop --api"
        problem = _excluded("target relay", given, _NOT_WITH_RELAY)
        return problem or (_excluded("stream", given, ("background", "json")) if values["stream"] else None)
    if "deliverable_format" in given:
        return "--deliverable-format goes with --target relay"
    if values["api"] == "chat" and (names := [name for name in _RESPONSES_ONLY if values[name]]):
        return f"{_flag(names[0])} needs --api responses"
    if values["auto_tool_call"] and (problem := _excluded("auto_tool_call", given, ("background", "files"))):
        return problem
    return _excluded("stream", given, ("json", "background", "auto_tool_call")) if values["stream"] else None


def _excluded(name: str, given: set[str], excluded: tuple[str, ...]) -> str | None:
    """Return the message for the first of the excluded options that is given next to `name`, if any is."""
    for other in excluded:
        if other in given:
            return f"{_flag(name)} takes no prompt" if other == "prompt" else f"{_flag(name)} excludes {_flag(other)}"
    return None


def _flag(name: str) -> str:
    names = {"fields": "-o", "files": "-f", "list_work": "--list", "continue_last": "--continue", "open_page": "--open"}
    return names.get(name) or "--" + name.replace("_", "-")


# Fields of a create call that the command sets itself, each with the option that sets it.
_RESERVED = {
    "model": "--model",
    "input": "PROMPT",
    "messages": "PROMPT",
    "instructions": "--instructions",
    "tools": "--web-search and --auto-tool-call",
    "stream": "--stream",
    "background": "--background",
    "previous_response_id": "--previous-response-id",
    "timeout": "--timeout",
    "num_retries": "the rule that nothing is paid for twice",
}


def parse_fields(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> JsonObject:
    """Return the fields of `-o KEY=VALUE`: dotted keys nest, a value is JSON or else text, the last of two wins."""
    fields: JsonObject = {}
    for one in given:
        key, equals, text = one.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path) or not key.isprintable():
            raise click.BadParameter(f"{one!r} is not KEY=VALUE")
        if path[0] in _RESERVED or path[0].startswith("extra_"):
            raise click.BadParameter(f"{path[0]} is set by {_RESERVED.get(path[0], 'the SDK')}, not by -o")
        inner = fields
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise click.BadParameter(f"{key}: {name} already has a value, so nothing can be nested in it")
        inner[path[-1]] = _parse_value(key, text)
    return fields


def merged(base: JsonObject, more: JsonObject) -> JsonObject:
    """Return `base` with the fields of `more`, which win; objects in both are merged."""
    both = {
        name: merged(base[name], value)
        for name, value in more.items()
        if isinstance(value, dict) and isinstance(base.get(name), dict)
    }
    return {**base, **more, **both}


def _parse_value(key: str, text: str) -> object:
    try:
        value = strict_json(text)
    except ValueError:
        value = text  # NaN and Infinity too, which JSON does not have
    if not can_be_sent(value):
        raise click.BadParameter(f"{key}: the value cannot be sent: an infinite number, or invalid UTF-8")
    return value


def parse_country(_ctx: click.Context, _param: click.Parameter, given: str | None) -> str | None:
    """Return a country code in capitals. The provider knows which codes exist (ISO 3166-1 alpha-2)."""
    country = None if given is None else given.strip().upper()
    if country is not None and not (len(country) == 2 and country.isascii() and country.isalpha()):
        raise click.BadParameter(f"{given!r} is not a country code of two letters, such as KR")
    return country


def parse_seconds(_ctx: click.Context, _param: click.Parameter, seconds: float) -> float:
    """Return a time limit that is a finite number above 0."""
    if not 0 < seconds < math.inf:
        raise click.BadParameter("must be a finite number above 0")
    return seconds
