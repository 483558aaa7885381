"""The manual's code, line by line, against the real LiteLLM proxy, the relay and the offline provider.

Only the module's name differs, and the way in which the manual's relay is started.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..fakes.scripted import free_port
from .running import Gateway, Relay

PYTHON = "python -m litellm_openai_example"
EXACTLY = '"Reply with exactly: OK"'
DETAILED = '"짜장면의 역사를 상세히 조사해줘"'
ORIGIN = '"짜장면의 역사와 기원에 대해 상세히 조사해줘"'
NAMES = ("response_id", "previous_response_id", "tool_call_id", "invocation_id", "invocation_token")


@pytest.fixture(scope="module")
def relay(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """The manual's terminal A: a relay with default settings."""
    running = Relay(gateway, tmp_path_factory.mktemp("relay"), model="")
    yield running
    running.stop()


class Terminal:
    """A shell in which the gateway's address and key are set."""

    def __init__(self, gateway: Gateway) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {"LITELLM_BASE_URL": gateway.base_url, "LITELLM_API_KEY": gateway.api_key}
        self.env = {**os.environ, **settings, "PATH": path}

    def type(self, line: str, stdin: int = subprocess.DEVNULL, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line], env={**self.env, **env}, stdin=stdin, capture_output=True, text=True, timeout=120
        )


@pytest.fixture
def terminal(gateway: Gateway) -> Terminal:
    return Terminal(gateway)


@pytest.mark.parametrize("api", ["", "--api chat", "--api responses"])
def test_foreground_calls(api: str, terminal: Terminal) -> None:
    run = terminal.type(f"{PYTHON} {api} {EXACTLY}")
    assert (run.returncode, run.stdout, run.stderr) == (0, "OK\n", "")


def test_a_background_submit(terminal: Terminal) -> None:
    run = terminal.type(f"{PYTHON} --api responses --background {EXACTLY}")
    assert (run.returncode, run.stderr) == (0, "")
    submitted = json.loads(run.stdout)
    assert submitted["status"] in ("queued", "in_progress")
    run = terminal.type(f"{PYTHON} --retrieve {submitted['id']} --wait")
    assert (run.returncode, run.stdout) == (0, "OK\n")


@pytest.mark.parametrize("api", ["", "--api responses"])
def test_a_longer_timeout(api: str, terminal: Terminal) -> None:
    run = terminal.type(f"{PYTHON} {api} --timeout 300 {DETAILED}")
    assert (run.returncode, run.stderr) == (0, "")
    assert DETAILED.strip('"') in run.stdout


def test_web_search(terminal: Terminal) -> None:
    run = terminal.type(
        "LITELLM_MODEL=gpt-4o \\\n"
        f"{PYTHON} \\\n  --api responses \\\n  --web-search \\\n  --timeout 60 \\\n"
        '  "짜장면이 처음 만들어진 연도를 한 줄로"'
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "example.com" in run.stdout


def automatic(terminal: Terminal, relay: Relay, prompt: str, options: str = "") -> subprocess.CompletedProcess[str]:
    return terminal.type(
        f"LITELLM_MODEL=gpt-4o \\\nRELAY_BASE_URL={relay.url} \\\n"
        f"{PYTHON} \\\n  --auto-tool-call \\\n  --timeout 300 {options} \\\n  {prompt}"
    )


def test_automatic_tool_calling(terminal: Terminal, relay: Relay) -> None:
    run = automatic(terminal, relay, ORIGIN)
    assert run.returncode == 0, run.stderr
    assert ORIGIN.strip('"') in run.stdout
    lines = run.stderr.splitlines()
    assert lines[-2] == "[deep_research was called automatically]"
    ids = json.loads(lines[-1])
    assert list(ids) == [*NAMES, "upstream_response_id"]
    assert all(ids.values())

    place = f"{relay.url}/api/v1/tool-invocations/{ids['invocation_id']}"
    token = f"-H 'X-Invocation-Token: {ids['invocation_token']}'"
    for path in ("", "/wait"):
        run = terminal.type(f"curl -fsS --noproxy '*' {token} {place}{path}")
        assert json.loads(run.stdout)["status"] == "completed"
    run = terminal.type(f"curl -fsSN --noproxy '*' {token} {place}/events")
    assert "event: completed" in run.stdout
    for path in ("", "/wait", "/events"):
        run = terminal.type(f"curl -sS --noproxy '*' -o /dev/null -w '%{{http_code}}' {place}{path}")
        assert run.stdout == "403"


def test_a_simple_question_is_answered_directly(terminal: Terminal, relay: Relay) -> None:
    run = automatic(terminal, relay, EXACTLY)
    assert (run.returncode, run.stdout, run.stderr) == (0, "OK\n", "")


@pytest.mark.parametrize(
    "options",
    [
        "--web-search",
        "--api chat --web-search",
        "--auto-tool-call --target relay",
        "--api chat --auto-tool-call",
        "--auto-tool-call --background",
        "--background",
    ],
)
def test_refused_command_lines_of_the_manual(options: str, terminal: Terminal) -> None:
    run = terminal.type(f"{PYTHON} {options} {EXACTLY}")
    assert (run.returncode, run.stdout) == (2, "")
    assert "Error: " in run.stderr


def test_automatic_tool_calling_needs_the_relay(terminal: Terminal) -> None:
    run = terminal.type(f"{PYTHON} --auto-tool-call {EXACTLY}", RELAY_BASE_URL=f"http://127.0.0.1:{free_port()}")
    assert (run.returncode, run.stdout) == (1, "")
    assert "relay" in run.stderr


SEARCH = """
from litellm_openai_example.client import LiteLLMClient

client = LiteLLMClient(base_url, api_key, model="gpt-4o")
result = client.create_response(
    "짜장면의 역사를 웹 검색으로 정리해줘",
    tools=[{"type": "web_search_preview"}],
)
print(result)
"""

TOOLS = """
from litellm_openai_example.client import LiteLLMClient

client = LiteLLMClient(base_url, api_key, model="gpt-4o")
result = client.create_response_with_tool_calling(
    "짜장면의 역사와 기원에 대해 상세히 조사해줘",
    relay_base_url="RELAY",
)
print(result.final_text)
if result.tool_called:
    print("[deep_research가 자동으로 호출됐습니다]", file=sys.stderr)
    print(result.response_id, result.tool_call_id, result.invocation_id, result.invocation_token, file=sys.stderr)
"""


def python(terminal: Terminal, code: str) -> subprocess.CompletedProcess[str]:
    before = "import os, sys\nbase_url, api_key = os.environ['LITELLM_BASE_URL'], os.environ['LITELLM_API_KEY']\n"
    return subprocess.run(
        [sys.executable, "-c", before + code], env=terminal.env, capture_output=True, text=True, timeout=120
    )


def test_web_search_in_code(terminal: Terminal) -> None:
    run = python(terminal, SEARCH)
    assert (run.returncode, run.stderr) == (0, "")
    assert "짜장면의 역사를 웹 검색으로 정리해줘" in run.stdout
    assert "example.com" in run.stdout


def test_tool_calling_in_code(terminal: Terminal, relay: Relay) -> None:
    run = python(terminal, TOOLS.replace("RELAY", relay.url))
    assert run.returncode == 0, run.stderr
    assert ORIGIN.strip('"') in run.stdout
    said, ids = run.stderr.splitlines()
    assert said == "[deep_research가 자동으로 호출됐습니다]"
    assert re.fullmatch(r"\S+ \S+ inv_\S+ \S+", ids)


def test_a_loop_over_lines_calls_once_per_line(terminal: Terminal) -> None:
    run = terminal.type(f"""printf '%s\\n' 하나 둘 | while read -r word; do
        {PYTHON} "Reply with exactly: $word" </dev/null
    done""")
    assert (run.returncode, run.stdout, run.stderr) == (0, "하나\n둘\n", "")
