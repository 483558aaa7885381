"""What is imported when, and who may know whom."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .scripted import KEY, ScriptedServer, chat_body, reply, response_body, response_events, sse

PACKAGE = Path(__file__).parent.parent / "litellm_openai_example"

_RUN = """
import json, sys
from litellm_openai_example import cli
code = cli._main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def modules_after(*arguments: str, **env: str) -> tuple[int, set[str]]:
    """The exit code of one run of the command, and all that it imported."""
    command = [sys.executable, "-c", _RUN, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    code, modules = json.loads(result.stderr.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--timeout", "0", "hi"], ["--wait", "hi"], [" "]])
def test_nothing_heavy_is_imported_without_a_call(arguments: list[str]) -> None:
    code, modules = modules_after(*arguments)
    assert code in (0, 2)
    assert not modules & {"openai", "pydantic", "httpx2", "anyio", "asyncio", "dataclasses"}
    assert len(modules) < 180


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
    """The modules of the package that a file imports, by their path below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parent
            for _ in range(node.level - 1):
                base = base.parent
            prefix = ".".join(base.relative_to(PACKAGE).parts)
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join(part for part in (prefix, name) if part) for name in names}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {f"/{name.partition('.')[0]}" for name in names}
    return found


def all_imports() -> dict[str, set[str]]:
    return {
        str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): imports_of(path)
        for path in PACKAGE.rglob("*.py")
    }


def circle(known: dict[str, set[str]]) -> list[str]:
    """A way from a module back to itself, if there is one."""
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


def test_there_is_no_circle() -> None:
    """Not even with imports inside functions, or for types alone."""
    assert circle({"a": {"b"}, "b": {"c", "/os"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    known = all_imports()
    assert "cli" in known["__main__"]
    assert "commands" in known["quick_import"]
    assert circle(known) == []


def test_the_arrows_go_one_way() -> None:
    known = all_imports()
    assert {module for module in known["state"] if not module.startswith("/")} == {"config"}
    for name in ("config", "deadline"):
        assert not {module for module in known[name] if not module.startswith("/")}
        assert not known[name] & {"/openai", "/httpx2", "/pydantic"}
    for name in (
        "sending",
        "sdk",
        "errors",
        "explain",
        "events",
        "network",
        "steps",
        "operations",
        "streams",
        "client",
        "tool_calling",
    ):
        assert not known[name] & {"cli", "commands", "output", "session", "options"}
    for name, imported in known.items():
        if name.startswith("gateway"):
            assert not [m for m in imported - {"config", "state"} if not m.startswith(("/", "gateway"))], name
            assert not imported & {"/openai", "/httpx2"}
        if name.startswith("relay.server"):
            assert not imported & {"client", "cli", "commands", "relay.client"}, name


def test_no_private_name_of_another_package_is_imported() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
                assert not [part for part in (node.module or "").split(".") if part.startswith("_")], path
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], path
