"""An agent without any key: the gateway on this machine, its offline provider, a relay, and the SDK's own client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("mcp", reason="the extra [mcp] is not installed")

from mcp import Client

from ..fakes.scripted import free_port


def test_a_report_from_the_offline_gateway(tmp_path: Path, litellm_python: Path) -> None:
    theirs = ("LITELLM_", "RELAY_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    port = free_port()
    gateway = [sys.executable, "-m", "litellm_openai_example.gateway", "--reuse", "--"]
    relay = [sys.executable, "-m", "litellm_openai_example.relay", "--port", str(port)]
    env["XDG_STATE_HOME"] = str(tmp_path / "state")
    ids: list[str] = []

    async def start() -> None:
        async with Client(f"http://127.0.0.1:{port}/mcp") as client:
            for _ in range(2):
                ids.append((await _call(client, "deep_research", research_question="Why?"))["id"])

    async def read() -> None:
        async with Client(f"http://127.0.0.1:{port}/mcp") as client:
            told: dict[str, Any] = {}
            while told.get("status") != "completed":
                told = await _call(client, "research_status", id=ids[0], wait_seconds=20)
            told = await _call(client, "research_status", id=ids[0], include_report=True)
            assert "# Offline demo research" in told["report"]
            assert "https://example.com/offline-demo" in [page["url"] for page in told["sources"]]

    process = subprocess.Popen([*gateway, *relay], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any("listening on" in line for line in process.stderr)
        anyio.run(start)
        anyio.run(read)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert ids[0] == ids[1]


async def _call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    text = getattr(answer.content[0], "text", "")
    assert not answer.is_error, text
    told: dict[str, Any] = json.loads(text)
    return told
