"""Automatic tool calling for tests: a model that calls deep_research, a relay that answers, and both clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from litellm_openai_example import AsyncLiteLLMClient, LiteLLMClient, ToolCallingResult

from .scripted import KEY, Answer, Json, ScriptedServer, Seen, reply, response_body

ARGUMENTS = json.dumps({"research_question": "Why noodles?"})
AUTO = ["--api", "responses", "--auto-tool-call"]
INVOCATIONS = "/api/v1/tool-invocations"


def calling(*arguments: str, response_id: str = "resp_1", name: str = "deep_research", mark: str = "fc_") -> Answer:
    """Return a response that calls functions. LiteLLM's bridge marks their items with `fc_call_`."""
    calls = [
        {"type": "function_call", "id": f"{mark}{n}", "call_id": f"call_{n}", "name": name, "arguments": text}
        for n, text in enumerate(arguments, 1)
    ]
    return reply(response_body(None, id=response_id, output=calls))


def view(status: str = "completed", text: str | None = "RESEARCHED", **fields: object) -> Json:
    times = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:01Z"}
    known = {"mode": "background", "deliverable_format": "markdown_brief", "upstream_response_id": "up_1"}
    base = {"invocation_id": "inv_1", "tool_name": "deep_research", "status": status, "output_text": text}
    return {**base, **known, **times, "invocation_token": "tok_1", **fields}


class FakeRelay:
    """A relay that answers starts with `accepts` and waits with `ends`."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.accepts = reply(view("running", None), 202)
        self.ends = reply(view())
        server.script = self.answer

    def answer(self, seen: Seen) -> Answer:
        if seen.path == "/readyz":
            return reply({"status": "ready"})
        return self.accepts if seen.method == "POST" else self.ends

    @property
    def starts(self) -> list[Seen]:
        return [seen for seen in self.server.posts if seen.path == INVOCATIONS]


class Turns:
    """A gateway with scripted answers to creates; `bridged` refuses to retrieve a response."""

    def __init__(self, server: ScriptedServer, *answers: Answer, bridged: bool = False) -> None:
        self._left = list(answers)
        self._bridged = bridged
        server.script = self.answer

    def answer(self, seen: Seen) -> Answer:
        if seen.method == "GET" and self._bridged:
            return reply({"error": {"message": "GET responses is not supported for custom"}}, 500)
        if seen.method == "GET":
            return reply(response_body(None))
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


Ask = Callable[..., ToolCallingResult]


def ask_sync(server: ScriptedServer, prompt: str = "Research noodles", **options: Any) -> ToolCallingResult:
    with LiteLLMClient(server.url, KEY) as client:
        return client.create_response_with_tool_calling(prompt, **options)


def ask_async(server: ScriptedServer, prompt: str = "Research noodles", **options: Any) -> ToolCallingResult:
    async def ask() -> ToolCallingResult:
        async with AsyncLiteLLMClient(server.url, KEY) as client:
            return await client.create_response_with_tool_calling(prompt, **options)

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])
FINAL = reply(response_body("The answer", id="resp_2"))
