"""Imports: the cost of each start, and the permitted directions between modules."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .fakes.scripted import KEY, ScriptedServer, chat_body, reply, response_body, response_events, sse

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "litellm_openai_example"

_RUN = """
import sys
bare = set(sys.modules)  # a distribution's Python may import more at its start
import json
from litellm_openai_example.cli import main
try:
    main.main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(json.dumps([code, sorted(set(sys.modules) - bare)]), file=sys.stderr)
"""


def modules_after(*arguments: str, **env: str) -> tuple[int, set[str]]:
    """Run the command once; return its exit code and the modules that it imported beyond Python's own."""
    command = [sys.executable, "-c", _RUN, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    code, modules = json.loads(result.stderr.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--timeout", "0", "hi"], ["--wait", "hi"], [" "]])
def test_nothing_heavy_is_imported_without_a_call(arguments: list[str]) -> None:
    code, modules = modules_after(*arguments)
    assert code in (0, 2)
    assert not modules & {"openai", "pydantic", "httpx2", "anyio", "asyncio", "dataclasses"}
    assert len(modules) < 150


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_call_stays_lean(api: str, stream: bool, gateway: ScriptedServer) -> None:
    whole = chat_body("OK") if api == "chat" else response_body("OK")
    gateway.answers(
        sse(*response_events("OK"), {"type": "response.completed", "response": whole}) if stream else reply(whole)
    )
    if stream and api == "chat":
        gateway.answers(sse({"choices": [{"delta": {"content": "OK"}, "finish_reason": "stop"}]}))
    env = {"LITELLM_BASE_URL": gateway.url, "LITELLM_API_KEY": KEY}
    code, modules = modules_after("--api", api, "--stream" if stream else "--no-stream", "hi", **env)
    assert code == 0
    assert not [name for name in modules if name.startswith(("fastapi", "sqlalchemy", "uvicorn"))]
    types = [name for name in modules if name.startswith("openai.types.")]
    assert len(types) < (120 if api == "chat" else 360)
    assert len(modules) < 1000


def test_the_relay_starts_without_most_of_the_sdk_types() -> None:
    # It ends when it binds, which comes after all imports.
    run = """
import sys
from litellm_openai_example.relay import __main__
try:
    __main__.main()
finally:
    print(sum(name.startswith("openai.types.") for name in sys.modules), "fastapi" in sys.modules)
"""
    env = {
        **os.environ,
        "LITELLM_BASE_URL": "http://127.0.0.1:9",
        "LITELLM_API_KEY": KEY,
        "RELAY_DATABASE_URL": "sqlite://",
    }
    command = [sys.executable, "-c", run, "--host", "not an address"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    types, served = done.stdout.split()
    assert done.returncode == 2, done.stderr
    assert served == "True"
    assert int(types) < 120


def test_no_model_of_a_response_is_built(gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from openai import BaseModel

    from litellm_openai_example import LiteLLMClient

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pydantic model was built")

    with LiteLLMClient(gateway.url, KEY) as client:
        gateway.answers(reply(response_body("OK")))
        client.create_response("hi")  # once before: the SDK builds its own options from models, of another base
        monkeypatch.setattr(BaseModel, "construct", refuse)
        monkeypatch.setattr(BaseModel, "model_construct", refuse)
        assert client.create_response("hi") == "OK"
        gateway.answers(
            sse(*response_events("O", "K"), {"type": "response.completed", "response": response_body("OK")})
        )
        assert list(client.stream_response("hi")) == ["O", "K"]


def imports_of(path: Path) -> set[str]:
    """Return the modules that a file imports: the package's by their path below it, those of others as `/NAME`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parent
            for _ in range(node.level - 1):
                base = base.parent
            base = base.joinpath(*(node.module or "").split("."))
            for alias in node.names:
                submodule = base / f"{alias.name}.py"
                target = submodule if submodule.is_file() else base
                found.add(".".join(target.relative_to(PACKAGE).with_suffix("").parts) or "__init__")
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {f"/{name.partition('.')[0]}" for name in names}
    return found


def all_imports() -> dict[str, set[str]]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): imports_of(path)
        for path in PACKAGE.rglob("*.py")
    }


def circle(known: dict[str, set[str]]) -> list[str]:
    """Return a circle of imports; None if there is none."""
    done: set[str] = set()

    def follow(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(known.get(name, ())):
            if found := follow(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(known) if (found := follow(name, []))), [])


def test_imports_form_no_circle() -> None:
    """Imports inside functions, or for types alone, count too."""
    assert circle({"a": {"b"}, "b": {"c", "/os"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    known = all_imports()
    assert "cli.main" in known["__main__"]
    assert "cli.ask" in known["cli.main"]
    assert circle(known) == []


# The layers. A module may import its own folder's modules, and those of earlier layers in its line.
_GROUND = (
    "json_object",
    "window",
    "config",
    "console",
    "payer",
    "late_types",
    "state",
    "http_library",
    "errors",
    "error_table",
    "diagnosis",
)
_CLIENT = (*_GROUND, "transport", "sdk", "calls", "research", "attachments", "many", "client", "cli", "__main__")
_RELAY = (
    *(*_GROUND, "transport", "sdk", "calls", "research.arguments", "research.contract"),
    *(
        "relay.metrics",
        "relay.log",
        "relay.tasks",
        "relay.settings",
        "relay.ledger",
        "relay.engine",
    ),
    *(
        "relay.http.responses",
        "relay.service",
        "research",
        "mcp",
        "relay.http",
        "relay.process",
        "relay.report",
        "relay.operations",
        "relay.__main__",
    ),
)
_GATEWAY = ("json_object", "config", "console", "state", "gateway")
_MCP = ("json_object", "window", "config", "console", "payer", "state", "errors", "research", "mcp")


def place(name: str, line: tuple[str, ...]) -> int | None:
    """Return the place of a module in a line of layers; None if it has none."""
    return next((n for n, room in enumerate(line) if name == room or name.startswith(room + ".")), None)


def arrows_back(known: dict[str, set[str]], line: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the imports by modules of a line that name a later layer, or a module without a place in the line."""
    found = []
    for name, imported in known.items():
        own = place(name, line)
        if own is None:
            continue
        for other in imported:
            there = place(other, line)
            if not other.startswith("/") and (there is None or there > own):
                found.append((name, other))
    return found


def test_layers_import_downwards_only() -> None:
    assert arrows_back({"calls.x": {"cli.main", "errors", "/os", "calls.y"}}, _CLIENT) == [("calls.x", "cli.main")]
    assert arrows_back({"gateway.proxy": {"errors"}}, _GATEWAY) == [("gateway.proxy", "errors")]
    known = all_imports()
    lines = {"relay": _RELAY, "gateway": _GATEWAY, "mcp": _MCP}
    for name, imported in known.items():
        line = lines.get(name.partition(".")[0], _CLIENT)
        assert arrows_back({name: imported}, line) == []
        assert place(name, line) is not None or name in ("__init__", "relay"), f"{name} has no place"


def test_modules_below_the_sdk_do_not_import_it() -> None:
    known = all_imports()
    for name in ("json_object", "config", "state", "late_types"):
        assert not known[name] & {"/openai", "/httpx2", "/pydantic"}
    for name, imported in known.items():
        if name.startswith("gateway"):
            assert not imported & {"/openai", "/httpx2"}, name


def test_one_module_imports_the_http_library() -> None:
    for name, imported in all_imports().items():
        libraries = {one for one in imported if one.startswith("/http") and one.endswith(("x", "x2"))}
        assert libraries == ({"/httpx2"} if name == "http_library" else set()), name


def test_no_private_name_of_another_package_is_imported() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
                assert not [part for part in (node.module or "").split(".") if part.startswith("_")], path
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], path


def names_imported_by(path: Path) -> set[str]:
    """Return each word of each import: `from .calls import test_sse` gives `calls` and `test_sse`."""
    words: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            dotted = [alias.name for alias in node.names]
            dotted += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            words.update(word for name in dotted for word in name.split("."))
    return words


def test_no_test_module_is_imported() -> None:
    """Shared helpers belong in a conftest, among the fakes, or in a module that is not a test."""
    imported = {word: path for path in TESTS.rglob("*.py") for word in names_imported_by(path)}
    assert "conftest" in imported
    assert {word: path for word, path in imported.items() if word.startswith("test_")} == {}


def test_the_bench_needs_no_test_tools() -> None:
    """The bench runs in an environment like a user's: see `bench` in pyproject.toml."""
    hidden = "import sys; sys.modules.update(pytest=None, pytest_httpserver=None, hypothesis=None)"
    run = f"{hidden}; import tests.tools.bench.__main__"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=60, check=False)
    assert not done.returncode, done.stderr
