"""What the offline provider has answered outlives it."""

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
from litellm_openai_example.gateway.offline.server import OfflineProvider

from ..fakes.scripted import eventually

Start = Callable[[], openai.OpenAI]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "offline"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start a provider on the same folder, as the next command does."""
    with ExitStack() as stack:

        def another() -> openai.OpenAI:
            provider = stack.enter_context(OfflineProvider(folder=folder, background_seconds=0.6))
            client = openai.OpenAI(base_url=provider.base_url, api_key=provider.api_key, max_retries=0)
            return stack.enter_context(client)

        yield another


def ask(client: openai.OpenAI, text: str = "Reply with exactly: kept", **more: Any) -> Any:
    return client.responses.create(model="m", input=text, **more)


def test_the_next_provider_finishes_what_this_one_began(start: Start, folder: Path) -> None:
    made = ask(start(), background=True)
    later = start()
    assert eventually(lambda: later.responses.retrieve(made.id).output_text == "kept")
    (file,) = folder.iterdir()
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_conversation_goes_on(start: Start) -> None:
    made = ask(start(), "My name is Mina.")
    answer = ask(start(), "What did I say?", previous_response_id=made.id)
    assert "Before that you said: My name is Mina." in answer.output_text


def test_what_was_cancelled_deleted_or_not_to_be_stored_stays_so(start: Start, folder: Path) -> None:
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


def test_few_and_young_files(start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_MOST_KEPT", 3)
    client = start()
    made = [ask(client) for _ in range(5)]
    assert len(list(folder.iterdir())) == 3
    aged = folder / f"{made[-1].id}.json"
    os.utime(aged, (0, time.time() - 4 * 24 * 3600))
    ask(client, "x" * 600_000)  # too large to be kept for long, and no reason to fail
    ask(client)
    assert len(list(folder.iterdir())) == 3
    assert not aged.exists()


def test_an_id_is_no_path_and_a_file_is_not_trusted(start: Start, folder: Path) -> None:
    made = ask(start())
    (folder.parent / "outside.json").write_text((folder / f"{made.id}.json").read_text())
    (folder / f"resp_{'0' * 32}.json").write_text('{"whole": 1}')
    provider = storage.Responses(folder)
    assert provider.find("../outside") is None
    assert provider.find(f"resp_{'0' * 32}") is None
    assert provider.find(made.id) is not None


def test_a_folder_that_cannot_be_written(start: Start, folder: Path) -> None:
    folder.write_text("not a directory")
    client = start()
    assert client.responses.retrieve(ask(client).id).output_text == "kept"
