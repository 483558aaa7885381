"""A file of questions and the rows of its answers, for the tests of --questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Run, RunCommand
from ..fakes.scripted import Answer, Seen, chat_body, reply


class Files:
    """The file of questions and the rows of its answers."""

    def __init__(self, folder: Path, command: RunCommand) -> None:
        self.questions, self.out = folder / "questions.jsonl", folder / "answers.jsonl"
        self.command = command

    def write(self, *lines: object) -> None:
        """Write the questions: objects, or texts as they are."""
        if all(isinstance(line, str) and line[:1] not in ("{", "[") for line in lines):
            self.questions = self.questions.with_suffix(".txt")
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        self.questions.write_text(text + "\n")

    def ask(self, *arguments: str) -> Run:
        return self.command(*self.arguments, *arguments)

    @property
    def arguments(self) -> list[str]:
        return ["--questions", str(self.questions), "--out", str(self.out)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_bytes().splitlines()]

    @property
    def by_id(self) -> dict[object, dict[str, Any]]:
        found = {row["id"]: row for row in self.rows}
        assert len(found) == len(self.rows)
        return found


@pytest.fixture
def files(tmp_path: Path, command: RunCommand) -> Files:
    return Files(tmp_path, command)


def asked(seen: Seen) -> str:
    """Return the prompt of a call."""
    body = seen.json
    given = body["messages"][-1]["content"] if "messages" in body else body["input"]
    return str(given)


def echo(seen: Seen) -> Answer:
    """Answer a chat completion with its prompt."""
    return reply(chat_body(asked(seen)), **{"x-litellm-response-cost": "0.25"})
