"""Files through the real LiteLLM proxy: the provider sees the parts that were sent."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path

import pytest

from ..conftest import RunCommand
from ..fakes.upstream import UpstreamControl
from .running import Gateway

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_the_provider_sees_each_part(
    api: str,
    gateway: Gateway,
    upstream: UpstreamControl,
    command: RunCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LITELLM_BASE_URL", gateway.base_url)
    monkeypatch.setenv("LITELLM_API_KEY", gateway.api_key)
    for name, content in (("notes.md", "# 짜장면\n".encode()), ("dot.png", PNG), ("paper.pdf", PDF)):
        (tmp_path / name).write_bytes(content)
    options = [word for name in ("notes.md", "dot.png", "paper.pdf") for word in ("-f", str(tmp_path / name))]
    prompt = f"Reply with exactly: OK {uuid.uuid4().hex}"
    run = command("--api", api, "--model", "gpt-4o-mini", *options, prompt)
    assert run.code == 0, run.err
    (body,) = [one.body for one in upstream.requests("gpt-4o-mini") if one.method == "POST" and prompt in str(one.body)]
    assert body is not None
    sent = str(body)
    assert "# 짜장면" in sent
    assert base64.b64encode(PNG).decode() in sent
    assert base64.b64encode(PDF).decode() in sent
    content = body["input"][0]["content"] if api == "responses" else body["messages"][0]["content"]
    kinds = [part["type"] for part in content]
    expected = ["input_text", "input_image", "input_file", "input_text"]
    assert kinds == (expected if api == "responses" else ["text", "image_url", "file", "text"])
