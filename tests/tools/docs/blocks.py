"""The generated parts of the documents: help texts, and the public names with their docstrings.

A block is between `<!-- NAME -->` and `<!-- /NAME -->`; `make docs` regenerates them all.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import FunctionType

import litellm_openai_example

ROOT = Path(__file__).parents[3]
_INNER = re.compile("_operation$|^refused$|^request$|^send$")  # public for our own modules alone
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def fill(text: str) -> str:
    """Return a text with each known block regenerated; unknown marks stay."""
    for name, make in _BLOCKS.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        if begin and end:
            text = f"{before}{begin}{make()}{end}{after}"
    return text


def _help(*command: str) -> Callable[[], str]:
    def text() -> str:
        env = {**os.environ, "COLUMNS": "80"}
        for name in ("LITELLM_BASE_URL", "LITELLM_API_KEY", "LITELLM_MODEL"):
            env.pop(name, None)
        program = [str(Path(sys.executable).parent / command[0]), *command[1:], "--help"]
        shown = subprocess.run(program, capture_output=True, text=True, timeout=60, env=env, check=True).stdout
        return f"```text\n{shown.rstrip()}\n```"

    return text


def _names() -> str:
    parts = []
    for name in litellm_openai_example.__all__:
        value = getattr(litellm_openai_example, name)
        parts.append(f"### {name}\n\n{_described(name, value)}")
        if inspect.isclass(value):
            parts += [_described(f"{name}.{key}", method) for key, method in _methods(name, value)]
    return "\n\n".join(parts)


def _methods(name: str, value: type) -> list[tuple[str, object]]:
    # The asynchronous twins have the same methods, and the SDK documents its own.
    if name.startswith("Async"):
        return []
    found: dict[str, object] = {}
    for owner in reversed(value.__mro__):
        if owner.__module__.startswith(litellm_openai_example.__name__):
            found |= {key: getattr(value, key) for key in vars(owner) if key[0] != "_"}
    return sorted((key, one) for key, one in found.items() if callable(one) and not _INNER.search(key))


def _described(name: str, value: object) -> str:
    text = inspect.getdoc(value) or ""
    if isinstance(value, type) and issubclass(value, Enum):
        text += "\n\n" + textwrap.fill(", ".join(member.name for member in value), 100)
        return f"```text\n{name}\n\n{text}\n```"
    return f"```text\n{name}{_signature(value)}\n\n{text}\n```"


def _signature(value: object) -> str:
    """Return the signature as in the code; the text of `inspect` varies with Python."""
    try:
        found = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    taken = [one for one in found.parameters.values() if one.name != "self"]
    if inspect.isclass(value) and not _has_constructor(value):
        return ""
    parts, named = [], False
    for one in taken:
        if one.kind is one.KEYWORD_ONLY and not named:
            parts.append("*")
            named = True
        named = named or one.kind is one.VAR_POSITIONAL
        parts.append(_parameter(one))
    returns = "" if inspect.isclass(value) else f" -> {_written(found.return_annotation)}"
    line = f"({', '.join(parts)}){returns}"
    return line if len(line) <= 80 else "(" + "".join(f"\n    {part}," for part in parts) + f"\n){returns}"


def _has_constructor(value: type) -> bool:
    """Return True if a class defines its constructor, or inherits it from a private base, which is not documented."""
    owner = next(one for one in value.__mro__ if "__init__" in vars(one))
    return isinstance(vars(owner)["__init__"], FunctionType) and (owner is value or owner.__name__.startswith("_"))


def _parameter(one: inspect.Parameter) -> str:
    stars = "*" if one.kind is one.VAR_POSITIONAL else "**" if one.kind is one.VAR_KEYWORD else ""
    default = "" if one.default is one.empty else f" = {one.default!r}"
    default = default if len(default) < 60 and "<" not in default and "(" not in default else " = ..."
    return f"{stars}{one.name}: {_written(one.annotation)}{default}"


# Internal names in signatures, with the types that the documents show instead.
_ALIASES = {"JsonObject": "dict[str, Any]", "Path_": "str | os.PathLike[str]"}


def _written(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return re.sub(rf"\b({'|'.join(_ALIASES)})\b", lambda found: _ALIASES[found[0]], text)


_BLOCKS: dict[str, Callable[[], str]] = {
    "help": _help("litellm-example"),
    "help-relay": _help("litellm-relay"),
    "help-relay-serve": _help("litellm-relay", "serve"),
    "help-relay-mcp": _help("litellm-relay-mcp"),
    "names": _names,
}
