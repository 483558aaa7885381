"""Attached files: the content parts for each kind, and the refusals before anything is sent."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from litellm_openai_example import LiteLLMClient, attachments, file_part

from ..conftest import RunCommand
from ..fakes.scripted import KEY, ScriptedServer, chat_body, reply, response_body

R = ["--api", "responses"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PDF = b"%PDF-1.7\n\xe2\xe3\xcf\xd3\n"
PNG_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
PDF_URL = "data:application/pdf;base64," + base64.b64encode(PDF).decode()


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "notes 한.md").write_text("# Noodles\n", encoding="utf-8")
    (tmp_path / "picture").write_bytes(PNG)
    (tmp_path / "paper.pdf").write_bytes(PDF)
    return [str(tmp_path / name) for name in ("notes 한.md", "picture", "paper.pdf")]


def options(files: list[str]) -> list[str]:
    return [word for name in files for word in ("-f", name)]


def test_files_in_a_response(files: list[str], configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(response_body("OK")))
    assert command(*R, *options(files), "What is it?").code == 0
    parts = [
        {"type": "input_text", "text": "File: notes 한.md\n\n# Noodles\n"},
        {"type": "input_image", "image_url": PNG_URL, "detail": "auto"},
        {"type": "input_file", "filename": "paper.pdf", "file_data": PDF_URL},
        {"type": "input_text", "text": "What is it?"},
    ]
    assert configured.posts[0].json["input"] == [{"type": "message", "role": "user", "content": parts}]
    with LiteLLMClient(configured.url, KEY) as client:
        client.respond("What is it?", files=files)
    assert configured.posts[1].json["input"] == configured.posts[0].json["input"]
    assert [file_part(path) for path in files] == parts[:3]


def test_files_in_a_chat(files: list[str], configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(chat_body("OK")))
    assert command(*options(files), "What is it?").code == 0
    assert configured.posts[0].json["messages"][0]["content"] == [
        {"type": "text", "text": "File: notes 한.md\n\n# Noodles\n"},
        {"type": "image_url", "image_url": {"url": PNG_URL}},
        {"type": "file", "file": {"filename": "paper.pdf", "file_data": PDF_URL}},
        {"type": "text", "text": "What is it?"},
    ]


def test_an_unusable_file_is_refused(
    tmp_path: Path, configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "MAX_FILE", 1000)
    monkeypatch.setattr(attachments, "MAX_FILES", 1500)
    for name, content in {"huge": b"x" * 1001, "half": b"x" * 900, "empty": b" ", "binary": b"ab\x00\xff"}.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    refused = {
        ("missing",): "No such file",
        (".",): "directory",
        ("huge",): "larger than",
        ("half", "half"): "together",
        ("empty",): "is empty",
        ("binary",): "neither a text",
        ("pipe",): "not a regular file",
    }
    for names, why in refused.items():
        run = command(*options([str(tmp_path / name) for name in names]), "hi")
        assert (run.code, run.out) == (2, ""), names
        assert why in run.err, names
        assert run.err.count("\n") == 1, names
    good = str(tmp_path / "half")
    for arguments in (["--target", "relay"], ["--auto-tool-call"], ["--retrieve", "resp_1"]):
        prompt = [] if "--retrieve" in arguments else ["hi"]
        assert command(*arguments, "-f", good, *prompt).code == 2
    assert configured.seen == []
