"""--schema: the JSON schema of the answer, for the request, and the check of the answer on arrival.

A gateway may drop the format without a word. The check covers what decides about the form of an answer: the keywords of
OpenAI's strict mode, without `pattern` and `format`. Other keywords go to the provider alone, and stderr names them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from ..console import NOT_AS_ASKED
from ..errors import one_line
from ..json_object import JsonObject, can_be_sent, strict_json, within_depth
from .options import Options
from .output import notice

_MAX_BYTES = 1024 * 1024
_NAME = re.compile(r"[^a-zA-Z0-9_-]+")  # characters that the API refuses in the name of a schema
_LONGEST_NAME = 64

_TYPES: dict[str, Callable[[object], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: _is_number(value),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),  # type: ignore[attr-defined]
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
# Limits, each with the type that it applies to, its test, and the words for a value that breaks it.
_LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool], str]] = {
    "minimum": ("number", lambda value, limit: value >= limit, "is less than"),
    "maximum": ("number", lambda value, limit: value <= limit, "is greater than"),
    "exclusiveMinimum": ("number", lambda value, limit: value > limit, "is not greater than"),
    "exclusiveMaximum": ("number", lambda value, limit: value < limit, "is not less than"),
    "minLength": ("string", lambda value, limit: len(value) >= limit, "is shorter than"),
    "maxLength": ("string", lambda value, limit: len(value) <= limit, "is longer than"),
    "minItems": ("array", lambda value, limit: len(value) >= limit, "has fewer items than"),
    "maxItems": ("array", lambda value, limit: len(value) <= limit, "has more items than"),
}
_CHOICES = ("anyOf", "allOf")  # lists of schemas
_NAMED = ("properties", "$defs", "definitions")  # schemas by name
_NOTES = frozenset({"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"})
_CHECKED = {"type", "enum", "const", "required", "items", "additionalProperties", "$ref", *_LIMITS, *_CHOICES, *_NAMED}


def read_schema(path: str) -> JsonObject:
    """Return the schema in a file. Raise click.UsageError if the file cannot be read, or has none."""
    try:
        return _read(path)
    except ValueError as error:
        raise click.BadParameter(one_line(str(error)), param_hint="'--schema'") from None


def with_schema(options: Options, schema: JsonObject) -> Options:
    """Return the options with a schema, and with the format of the answer among the fields.

    Raises:
        click.UsageError: -o sets the format as well.
    """
    api = "responses" if options.service == "relay" else options.api
    return options._replace(schema=schema, fields=_with_format(api, schema, options.fields))


def _read(path: str) -> JsonObject:
    """Return the schema in a file. Raise ValueError if the file cannot be read, or has none."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError(f"{path!r} is not a regular file")  # opening a pipe could block
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path!r}: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path!r} is larger than {_MAX_BYTES // 2**20} MB")
    try:
        schema = strict_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path!r} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ValueError(f"{path!r} is not a JSON object")
    if not can_be_sent(schema) or within_depth(schema) is not schema:
        raise ValueError(f"{path!r} cannot be sent: an infinite number, invalid Unicode, or nested too deeply")
    for fault in _faults(schema, schema, "the schema"):
        raise ValueError(f"{path!r} is not a JSON schema: {fault}")
    return schema


def _with_format(api: str, schema: JsonObject, fields: JsonObject) -> JsonObject:
    """Return the fields of a create call with the format of its answer; raise UsageError if -o sets that as well."""
    name = _NAME.sub("_", str(schema.get("title") or "")).strip("_")[:_LONGEST_NAME] or "answer"
    form = {"name": name, "strict": True, "schema": schema}
    if api == "chat":
        if "response_format" in fields:
            raise click.UsageError("--schema excludes -o response_format")
        return {**fields, "response_format": {"type": "json_schema", "json_schema": form}}
    text = fields.get("text", {})
    if not isinstance(text, dict) or "format" in text:
        raise click.UsageError("--schema excludes -o text.format")
    return {**fields, "text": {**text, "format": {"type": "json_schema", **form}}}


def check_answer(schema: JsonObject, text: str) -> int:
    """Return the exit code for a printed answer: 3, and the reason on stderr, unless it is JSON of the schema."""
    unchecked: dict[str, None] = {}
    problem = problem_of(schema, text, unchecked)
    if problem:
        notice(f"Error: {problem}. The gateway may have dropped it")
        return NOT_AS_ASKED
    notice_unchecked(unchecked)
    return 0


def problem_of(schema: JsonObject, text: str, unchecked: dict[str, None]) -> str:
    """Return why an answer is not JSON of a schema; "" if it is. `unchecked` gets the keywords that are not checked."""
    try:
        problem = next(_problems(strict_json(text), schema, schema, "the answer", unchecked), None)
    except ValueError:
        problem = "the answer is not JSON"
    except RecursionError:
        problem = "the answer or the schema is nested too deeply"
    return "" if problem is None else f"the answer does not follow the schema: {one_line(problem)}"


def notice_unchecked(unchecked: Iterable[str]) -> None:
    """Name the keywords that were not checked, if there are any."""
    if names := one_line(", ".join(unchecked)):
        notice(f"[not checked: {names}]")


def _problems(value: object, schema: object, root: JsonObject, where: str, unchecked: dict[str, None]) -> Iterator[str]:
    """Yield why a value does not follow a schema.

    Args:
        value: a part of the answer, at `where`.
        schema: of that part, a part of `root`.
        root: the whole schema.
        where: the place of the value, for people.
        unchecked: gets the keywords that are not checked.
    """
    if not isinstance(schema, dict):
        if schema is False:
            yield f"{where} should not be there"
        return
    unchecked.update(dict.fromkeys(name for name in schema if name not in _CHECKED and name not in _NOTES))
    if "$ref" in schema:
        yield from _problems(value, _referred(root, schema["$ref"]), root, where, unchecked)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_TYPES[kind](value) for kind in kinds):
        yield f"{where} is not of the type {' or '.join(kinds)}"
    if "enum" in schema and not any(_equal(value, one) for one in schema["enum"]):
        yield f"{where} is none of the listed values"
    if "const" in schema and not _equal(value, schema["const"]):
        yield f"{where} is not the one value that is allowed"
    for name, (kind, holds, words) in _LIMITS.items():
        if name in schema and _TYPES[kind](value) and not holds(value, schema[name]):
            yield f"{where} {words} {schema[name]}"
    for one in schema.get("allOf", []):
        yield from _problems(value, one, root, where, unchecked)
    if "anyOf" in schema and all(
        next(_problems(value, one, root, where, unchecked), None) is not None for one in schema["anyOf"]
    ):
        yield f"{where} follows none of the alternatives"
    if isinstance(value, dict):
        yield from _problems_of_object(value, schema, root, where, unchecked)
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from _problems(item, schema["items"], root, f"{where}[{number}]", unchecked)


def _problems_of_object(
    value: JsonObject, schema: JsonObject, root: JsonObject, where: str, unchecked: dict[str, None]
) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{where} lacks {name}"
    for name, part in value.items():
        one = known[name] if name in known else schema.get("additionalProperties", True)
        yield from _problems(part, one, root, f"{where}.{name}", unchecked)


def _faults(schema: object, root: JsonObject, where: str) -> Iterator[str]:
    """Yield what is wrong with the checked keywords of a schema."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield f"{where} is neither an object nor true or false"
        return
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in _TYPES:
            yield f"{where}: {json.dumps(kind)} is not a type of JSON"
    for name in ("enum", "required", *_CHOICES):
        if name in schema and not (isinstance(schema[name], list) and (schema[name] or name == "required")):
            yield f"{where}: {name} is not a list with values"
    if not all(isinstance(name, str) for name in schema.get("required", [])):
        yield f"{where}: required lists something other than names"
    for name in _LIMITS:
        if name in schema and not _is_number(schema[name]):
            yield f"{where}: {name} is not a number"
    for name in _NAMED:
        if not isinstance(schema.get(name, {}), dict):
            yield f"{where}: {name} is not an object"
            return
    if "$ref" in schema:
        yield from _faults_of_reference(schema, root, where)
    parts = [(f"{name}.{key}", part) for name in _NAMED for key, part in schema.get(name, {}).items()]
    parts += [(f"{name}.{number}", part) for name in _CHOICES for number, part in enumerate(schema.get(name, []))]
    parts += [(name, schema[name]) for name in ("items", "additionalProperties") if name in schema]
    for name, part in parts:
        yield from _faults(part, root, f"{where}.{name}")


def _faults_of_reference(schema: JsonObject, root: JsonObject, where: str) -> Iterator[str]:
    seen: list[object] = []
    part: object = schema
    while isinstance(part, dict) and "$ref" in part:
        if part["$ref"] in seen:
            yield f"{where}: $ref leads back to itself"
            return
        seen.append(part["$ref"])
        part = _referred(root, part["$ref"])
    if not isinstance(part, dict | bool):
        yield f"{where}: there is no schema at {json.dumps(seen[-1])} in the file"


def _referred(root: JsonObject, reference: object) -> object:
    """Return the part of a schema that a JSON pointer (RFC 6901) behind `#` names; None if there is none."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    part: object = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list):
            part = part[int(name)] if name.isascii() and name.isdigit() and int(name) < len(part) else None
        else:
            part = part.get(name) if isinstance(part, dict) else None
    return part


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(one: object, other: object) -> bool:
    """Return True if two JSON values are equal; true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
