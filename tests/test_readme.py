"""The README: its help text is the command's, and its snippets run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .fakes.scripted import KEY, Answer, ScriptedServer, Seen, chat_body, reply, response_body, response_events, sse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```(python|sh)\n(.*?)```", README, re.DOTALL)


def gateway_script(seen: Seen) -> Answer:
    """A gateway that follows "Reply with exactly: X"."""
    if seen.method == "GET":
        return reply(response_body("later"))
    body = seen.json
    asked = body.get("input") or body["messages"][-1]["content"]
    text = asked.rpartition("exactly: ")[2]
    if "chat" in seen.path:
        return reply(chat_body(text))
    if body.get("stream"):
        return sse(*response_events(text), {"type": "response.completed", "response": response_body(text)})
    return reply(
        response_body(None if body.get("background") else text, "queued" if body.get("background") else "completed")
    )


def python_snippets() -> list[str]:
    return [code for language, code in SNIPPETS if language == "python"]


@pytest.mark.parametrize("code", python_snippets(), ids=lambda code: code.splitlines()[0][:60])
def test_a_python_snippet_runs_as_it_stands(code: str, configured: ScriptedServer) -> None:
    configured.script = gateway_script
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    for said in re.findall(r"exactly: (\w+)", code):
        assert said in run.stdout
    assert configured.seen or "no relay" in run.stdout


def test_the_two_variables_are_enough(configured: ScriptedServer) -> None:
    configured.script = gateway_script
    code = next(code for _, code in SNIPPETS if "OPENAI_BASE_URL" in code)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", "-ec", code], capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}
    )
    assert run.stdout == "OK\n", run.stderr
    assert configured.posts[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_help_text_is_that_of_the_command() -> None:
    """`python -m tests.test_readme` writes it anew."""
    assert help_block() in README


def help_block() -> str:
    command = [sys.executable, "-m", "litellm_openai_example", "--help"]
    env = {**os.environ, "COLUMNS": "80"}
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=True).stdout.rstrip()
    return f"<!-- help -->\n```text\n{text}\n```\n<!-- /help -->"


if __name__ == "__main__":
    block = re.sub(r"<!-- help -->.*<!-- /help -->", lambda _: help_block(), README, flags=re.DOTALL)
    (ROOT / "README.md").write_text(block)
