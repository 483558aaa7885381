"""Responses outlive the offline provider that created them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from litellm_openai_example.gateway.offline import storage
from litellm_openai_example.gateway.offline.provider import OfflineProvider

from ...fakes.scripted import eventually

Start = Callable[[], openai.OpenAI]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "offline"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start further providers on the same folder, as each command does."""
    with ExitStack() as stack:

        def another() -> openai.OpenAI:
            provider = stack.enter_context(OfflineProvider(folder=folder, background_seconds=0.6))
            client = openai.OpenAI(base_url=provider.base_url, api_key=provider.api_key, max_retries=0)
            return stack.enter_context(client)

        yield another


def ask(client: openai.OpenAI, text: str = "Reply with exactly: kept", **more: Any) -> Any:
    return client.responses.create(model="m", input=text, **more)


def test_the_next_provider_completes_a_background_response(start: Start, folder: Path) -> None:
    made = ask(start(), background=True)
    later = start()
    assert eventually(lambda: later.responses.retrieve(made.id).output_text == "kept")
    (file,) = folder.iterdir()
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_conversation_continues_at_the_next_provider(start: Start) -> None:
    made = ask(start(), "My name is Mina.")
    answer = ask(start(), "What did I say?", previous_response_id=made.id)
    assert "Before that you said: My name is Mina." in answer.output_text


def test_cancelled_deleted_and_unstored_responses_stay_so(start: Start, folder: Path) -> None:
    client = start()
    cancelled, deleted = ask(client, background=True), ask(client)
    client.responses.cancel(cancelled.id)
    client.responses.delete(deleted.id)
    unkept = ask(client, store=False)
    later = start()
    assert later.responses.retrieve(cancelled.id).status == "cancelled"
    for gone in (deleted, unkept):
        with pytest.raises(openai.NotFoundError):
            later.responses.retrieve(gone.id)
    assert len(list(folder.iterdir())) == 1


def test_old_and_surplus_files_are_removed(start: Start, folder: Path) -> None:
    client = start()
    first = ask(client).id
    for number in range(250):
        (folder / f"resp_{number:032x}.json").touch()
        os.utime(folder / f"resp_{number:032x}.json", (0, time.time() - 3600 - number))
    os.utime(folder / f"{first}.json", (0, time.time() - 4 * 24 * 3600))
    last = ask(client).id
    left = {file.stem for file in folder.iterdir()}
    assert len(left) == 200
    assert last in left
    assert first not in left
    assert f"resp_{249:032x}" not in left  # the oldest of the surplus
    ask(client, "x" * 600_000)  # too large for a file, and not an error
    assert {file.stem for file in folder.iterdir()} == left


def test_ids_are_not_paths_and_files_are_not_trusted(start: Start, folder: Path) -> None:
    made = ask(start())
    (folder.parent / "outside.json").write_text((folder / f"{made.id}.json").read_text())
    (folder / f"resp_{'0' * 32}.json").write_text('{"whole": 1}')
    provider = storage.Responses(folder)
    assert provider.find("../outside") is None
    assert provider.find(f"resp_{'0' * 32}") is None
    assert provider.find(made.id) is not None


def test_an_unwritable_directory_does_not_cost_an_answer(start: Start, folder: Path) -> None:
    folder.write_text("not a directory")
    client = start()
    assert client.responses.retrieve(ask(client).id).output_text == "kept"
