"""Every command line, snippet, link and generated block of the documents is one that holds."""

from __future__ import annotations

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
from litellm_openai_example.relay.__main__ import relay

from ..fakes.scripted import KEY, Answer, ScriptedServer, Seen, chat_body, reply, response_body, response_events, sse
from .blocks import DOCUMENTS, ROOT, fill

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
def test_what_is_generated_is_new(path: Path) -> None:
    """`make docs` writes it."""
    text = path.read_text()
    assert fill(text) == text


@pytest.mark.parametrize("path", DOCUMENTS, ids=_label)
def test_a_link_leads_somewhere(path: Path) -> None:
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
def test_what_is_named_in_a_sentence_exists(path: Path) -> None:
    text = _CODE.sub("", path.read_text())
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= _TARGETS
    known = {
        option for command in (ask, relay) for one in command.params for option in (*one.opts, *one.secondary_opts)
    }
    for options in re.findall(r"`(?:litellm-example |litellm-relay )?(--[a-z-]+)", text):
        assert options in known | {"--help", "--port", "--upgrade", "--compile", "--preload"}, options
    for file in re.findall(r"`((?:tests|docs|litellm_openai_example)/[\w./-]+)`", text):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize(("path", "code"), _SHELL, ids=_label)
def test_a_command_line_is_understood(path: Path, code: str) -> None:
    joined = code.replace("\\\n", " ")
    for line in joined.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line)
        for part in re.split(r" \| |; do |; done|&& ", line):
            _check(part.split(" <")[0].split(" >")[0].strip())


def _check(line: str) -> None:
    try:
        words = shlex.split(line)
    except ValueError:  # a part of a longer construct
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
        relay.make_context(program, arguments)
    if program == "litellm-example":
        context = ask.make_context(program, arguments)
        assert not context.args, line
        read_options(context)


@pytest.mark.parametrize(("path", "language", "code"), [one for one in _BLOCKS if one[1] in _PARSERS], ids=_label)
def test_a_configuration_can_be_read(path: Path, language: str, code: str) -> None:
    assert _PARSERS[language](code)


def test_a_wrong_line_is_found() -> None:
    for line in (
        "litellm-example --stram x",
        "litellm-example two words",
        "litellm-example --wait x",
        "make rum",
        "litellm-exampel x",
    ):
        with pytest.raises((AssertionError, click.UsageError)):
            _check(line)


def gateway_script(seen: Seen) -> Answer:
    """A gateway that follows "Reply with exactly: X", and lets a background response end at once."""
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
def test_a_snippet_runs_as_it_stands(path: Path, code: str, configured: ScriptedServer) -> None:
    configured.script = gateway_script
    ended = run("-c", code)
    if "relay" in code and "RelayError" not in code:
        assert ended.returncode == 1
        assert "RelayError" in ended.stderr
        assert not configured.posts  # without a relay nothing is asked, so nothing is paid
        return
    assert ended.returncode == 0, ended.stderr
    for said in re.findall(r"exactly: (\w+)", code):
        assert said in ended.stdout


def test_the_sdk_s_two_variables_are_enough(configured: ScriptedServer) -> None:
    configured.script = gateway_script
    code = next(code for _, code in _SHELL if "OPENAI_BASE_URL" in code)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(["sh", "-ec", code], capture_output=True, text=True, timeout=60, env=env)
    assert ended.stdout == "OK\n", ended.stderr
    assert configured.posts[0].headers["authorization"] == f"Bearer {KEY}"


def test_an_example_is_a_drop_in(configured: ScriptedServer) -> None:
    configured.script = gateway_script
    assert run(str(ROOT / "docs/examples/drop_in.py")).stdout == "OK\n"
    assert configured.posts[0].headers["authorization"] == f"Bearer {KEY}"


def test_an_example_picks_a_job_up_later(configured: ScriptedServer) -> None:
    configured.script = gateway_script
    example = str(ROOT / "docs/examples/background.py")
    submitted = run(example, "submit", "Reply with exactly: later").stdout.strip()
    assert submitted == response_body()["id"]
    assert run(example, "fetch", submitted).stdout == "later\n"
    assert run(example).returncode == 1
