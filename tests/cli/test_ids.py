"""The ids of an automatic call on a terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from litellm_openai_example.http_library import httpx

from ..fakes.scripted import ScriptedServer
from ..fakes.tool_calling import ARGUMENTS, FINAL, FakeRelay, Turns, calling
from ..tools.terminal import Terminal

NAMES = [
    *("response_id", "previous_response_id", "tool_call_id"),
    *("invocation_id", "invocation_token", "upstream_response_id"),
]


def printed(*options: str) -> str:
    command = [sys.executable, "-m", "litellm_openai_example", "--auto-tool-call", "--timeout", "200", *options, "Why?"]
    terminal = Terminal(command, Path.cwd(), dict(os.environ))
    assert terminal.end(240) == 0, terminal.printed
    return terminal.printed


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="needs a pseudo-terminal")
def test_verbose_prints_what_reads_the_run(configured: ScriptedServer, relay: FakeRelay) -> None:
    Turns(configured, calling(ARGUMENTS), FINAL)
    text = printed("--verbose")
    (line,) = re.findall(r"^\{.*\}", text, re.MULTILINE)
    ids = json.loads(line)
    assert list(ids) == NAMES
    assert (ids["invocation_id"], ids["invocation_token"], ids["tool_call_id"]) == ("inv_1", "tok_1", "call_1")
    # As the manual has it.
    url = f"{os.environ['RELAY_BASE_URL']}/api/v1/tool-invocations/{ids['invocation_id']}"
    answer = httpx.get(url, headers={"X-Invocation-Token": ids["invocation_token"]}, trust_env=False)
    assert answer.status_code == 200


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="needs a pseudo-terminal")
def test_a_terminal_shows_no_token_otherwise(configured: ScriptedServer, relay: FakeRelay) -> None:
    Turns(configured, calling(ARGUMENTS), FINAL)
    text = printed()
    assert "[research run inv_1: completed]" in text
    assert "tok_1" not in text


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="needs a pseudo-terminal")
def test_verbose_prints_the_ids_of_each_run(configured: ScriptedServer, relay: FakeRelay) -> None:
    Turns(configured, calling(ARGUMENTS, ARGUMENTS), FINAL)
    lines = [json.loads(line) for line in re.findall(r"^\{.*\}", printed("--verbose"), re.MULTILINE)]
    assert len(lines) == len({line["tool_call_id"] for line in lines}) == 2
    assert all(line["invocation_token"] for line in lines)
