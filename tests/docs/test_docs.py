"""The documents: generated blocks, links, names, command lines, snippets, configurations and the map of the code."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from litellm_openai_example.cli.main import command as ask
from litellm_openai_example.cli.options import read_options
from litellm_openai_example.gateway.__main__ import gateway
from litellm_openai_example.relay.__main__ import relay

from ..fakes.scripted import KEY, Answer, ScriptedServer, Seen, chat_body, reply, response_body, response_events, sse
from ..tools.docs.blocks import DOCUMENTS, ROOT, fill

_CODE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
_BLOCKS = [(path, *found) for path in DOCUMENTS for found in _CODE.findall(path.read_text())]
_PYTHON = [(path, code) for path, language, code in _BLOCKS if language == "python"]
_SHELL = [(path, code) for path, language, code in _BLOCKS if language == "sh"]
_PARSERS = {"json": json.loads, "toml": tomllib.loads}
_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
_PROGRAMS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def _label(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value).strip().splitlines()[-1][:50]


@pytest.mark.parametrize("path", DOCUMENTS, ids=_label)
def test_generated_blocks_are_current(path: Path) -> None:
    """`make docs` regenerates them."""
    text = path.read_text()
    assert fill(text) == text


@pytest.mark.parametrize("path", DOCUMENTS, ids=_label)
def test_links_have_targets(path: Path) -> None:
    text = _CODE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in _anchors(file.read_text()), f"{path.name}: {target}"


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=_label)
def test_targets_options_and_files_in_sentences_exist(path: Path) -> None:
    text = _CODE.sub("", path.read_text())
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= _TARGETS
    known = {
        option
        for command in (ask, *relay.commands.values(), gateway)
        for one in command.params
        for option in (*one.opts, *one.secondary_opts)
    }
    for options in re.findall(r"`(?:litellm-example |litellm-relay (?:[a-z]+ )?)?(--[a-z-]+)", text):
        assert options in known | {"--help", "--upgrade", "--compile", "--preload"}, options
    for file in re.findall(r"`((?:tests|docs|litellm_openai_example)/[\w./-]+)`", text):
        assert (ROOT / file).exists(), file


def _mapped() -> set[str]:
    """Return the paths in the maps of docs/contributing.md: names stand below their folder, before two spaces."""
    paths: set[str] = set()
    text = (ROOT / "docs/contributing.md").read_text()
    for block in re.findall(r"```text\n((?:litellm_openai_example|tests)/\n.*?)```", text, re.DOTALL):
        folders: list[str] = []
        for line in block.splitlines():
            depth = (len(line) - len(line.lstrip())) // 2
            names = line.strip().partition("  ")[0].split(" ")
            folders[depth:] = [names[0]]
            paths |= {"".join([*folders[:depth], name]) for name in names}
    return paths


def _existing() -> set[str]:
    """Return the packages, the top modules of the package, and the folders of the tests."""
    package, tests = ROOT / "litellm_openai_example", ROOT / "tests"
    folders = {path.parent for path in package.rglob("__init__.py")} | {tests}
    folders |= {path for path in tests.iterdir() if any(path.glob("*.py"))}
    modules = [path for path in package.glob("*.py") if path.name != "__init__.py"]
    names = [f"{path.relative_to(ROOT).as_posix()}/" for path in folders]
    return {*names, *(path.relative_to(ROOT).as_posix() for path in modules)}


def test_the_map_of_the_code_is_true_and_complete() -> None:
    assert _mapped() == _existing()


@pytest.mark.parametrize(("path", "code"), _SHELL, ids=_label)
def test_a_command_line_is_valid(path: Path, code: str) -> None:
    joined = code.replace("\\\n", " ")
    for line in joined.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line)
        for part in re.split(r" \| |; do |; done|&& ", line):
            _check(part.split(" <")[0].split(" >")[0].strip())


def _check(line: str) -> None:
    try:
        words = shlex.split(line)
    except ValueError:  # part of a longer construct
        return
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    if words[:2] == ["uv", "run"]:
        words = words[2:]
    program, arguments = (words[0], words[1:]) if words else ("", [])
    if words[:2] == ["python", "-m"] and words[2] in ("litellm_openai_example", "litellm_openai_example.relay"):
        program, arguments = ("litellm-relay" if words[2].endswith("relay") else "litellm-example"), words[3:]
    if program == "make":
        assert {word for word in arguments if "=" not in word} <= _TARGETS, line
        given = next((word.removeprefix("ARGS=") for word in arguments if word.startswith("ARGS=")), "")
        if words[1] in ("run", "run-auto"):
            program, arguments = "litellm-example", [*shlex.split(given), "a prompt"]
    if program.startswith("litellm-"):
        assert program in _PROGRAMS, line
    if program == "litellm-relay":
        name = arguments.pop(0) if arguments[:1] and arguments[0] in relay.commands else "serve"
        relay.commands[name].make_context(program, arguments)
    if program == "litellm-example":
        context = ask.make_context(program, arguments)
        assert not context.args, line
        read_options(context)


@pytest.mark.parametrize(("path", "language", "code"), [one for one in _BLOCKS if one[1] in _PARSERS], ids=_label)
def test_a_configuration_is_valid(path: Path, language: str, code: str) -> None:
    assert _PARSERS[language](code)


def test_invalid_command_lines_are_detected() -> None:
    for line in (
        "litellm-example --stram x",
        "litellm-example two words",
        "litellm-example --wait x",
        "make rum",
        "litellm-exampel x",
        "litellm-relay lst",
        "litellm-relay drain --queued",
        "litellm-relay serve --prot 1",
    ):
        with pytest.raises((AssertionError, click.UsageError)):
            _check(line)


def gateway_script(seen: Seen) -> Answer:
    """Follow "Reply with exactly: X", and complete a background response at once."""
    if seen.method == "GET":
        return reply(response_body("later"))
    body = seen.json
    asked = body.get("input") or body["messages"][-1]["content"]
    text = asked.rpartition("exactly: ")[2]
    if "chat" in seen.path:
        if body.get("stream"):
            end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
            return sse({"choices": [{"delta": {"content": text}}]}, end)
        return reply(chat_body(text))
    if body.get("stream"):
        return sse(*response_events(text), {"type": "response.completed", "response": response_body(text)})
    background = body.get("background")
    return reply(response_body(None if background else text, "queued" if background else "completed"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("path", "code"), _PYTHON, ids=_label)
def test_a_snippet_runs(path: Path, code: str, configured: ScriptedServer) -> None:
    configured.script = gateway_script
    ended = run("-c", code)
    if "relay" in code and "RelayError" not in code:
        assert ended.returncode == 1
        assert "RelayError" in ended.stderr
        assert not configured.posts  # without a relay nothing is sent, so nothing is billed
        return
    assert ended.returncode == 0, ended.stderr
    for said in re.findall(r"exactly: (\w+)", code):
        assert said in ended.stdout


def test_the_two_variables_of_the_sdk_are_enough(configured: ScriptedServer) -> None:
    configured.script = gateway_script
    code = next(code for _, code in _SHELL if "OPENAI_BASE_URL" in code)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(["sh", "-ec", code], capture_output=True, text=True, timeout=60, env=env)
    assert ended.stdout == "OK\n", ended.stderr
    assert configured.posts[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_drop_in_example(configured: ScriptedServer) -> None:
    configured.script = gateway_script
    assert run(str(ROOT / "docs/examples/drop_in.py")).stdout == "OK\n"
    assert configured.posts[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_background_example(configured: ScriptedServer) -> None:
    configured.script = gateway_script
    example = str(ROOT / "docs/examples/background.py")
    submitted = run(example, "submit", "Reply with exactly: later").stdout.strip()
    assert submitted == response_body()["id"]
    assert run(example, "fetch", submitted).stdout == "later\n"
    assert run(example).returncode == 1


def test_the_spreadsheet_example(configured: ScriptedServer, tmp_path: Path) -> None:
    def script(seen: Seen) -> Answer:
        asked = seen.json["messages"][-1]["content"]
        return reply({"error": {"message": "no"}}, 400) if "tofu" in asked else reply(chat_body(f"=1+{asked}, 두부"))

    configured.script = script
    example = str(ROOT / "docs/examples/spreadsheet.py")
    sheet, questions, answers = (tmp_path / name for name in ("a.csv", "questions.jsonl", "answers.jsonl"))
    sheet.write_bytes('\ufeffname,price\r\n"noodles, cold",3\r\ntofu,2\r\n'.encode())
    questions.write_text(run(example, "questions", str(sheet)).stdout)
    asking = [sys.executable, "-m", "litellm_openai_example", "--questions", str(questions), "--out", str(answers)]
    assert subprocess.run(asking, capture_output=True, timeout=60).returncode == 3
    head, first, second = csv.reader(run(example, "answers", str(sheet), str(answers)).stdout.splitlines())
    assert head == ["name", "price", "answer", "sources", "cost", "status", "error"]
    assert first[:3] == ["noodles, cold", "3", "'=1+Describe noodles, cold in one sentence., 두부"]
    assert (second[0], second[5]) == ("tofu", "not_executed")
    assert run(example).returncode == 1
