"""State directories that are unusable, or hold files of other origin."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litellm_openai_example.cli import journal
from litellm_openai_example.state import state_dir

from ..conftest import RunCommand
from ..fakes.keyed_relay import TWO, KeyedRelay, held_start, listed, relay, typed_lines
from ..fakes.scripted import ScriptedServer
from ..fakes.tool_calling import FINAL, Turns, calling
from .running import R, polling

__all__ = ["relay"]


# No record can be written.
def _no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nothing")


def _a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))


def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "relative")


def _full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)


UNUSABLE = [_no_directory, _a_file, _no_home, _full_disk]


@pytest.mark.parametrize("unusable", UNUSABLE)
def test_an_unusable_state_directory_costs_no_answer(
    unusable: Callable[..., None],
    configured: ScriptedServer,
    relay: KeyedRelay,
    command: RunCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unusable(tmp_path, monkeypatch)
    relay.ended = False
    run = command("--target", "relay", "--background", "Why?")
    assert run.code == 0
    told, line = run.err.splitlines()
    assert "nothing can be kept" in told
    assert "RELAY_INVOCATION_TOKEN=tok_1" in line
    assert "--invocation inv_1" in line

    Turns(configured, calling(*TWO), FINAL)
    run = command("--auto-tool-call", "--timeout", "3", "Research food")
    assert run.code == 4
    assert run.err.count("nothing can be kept") == 1
    assert {line[-3] for line in typed_lines(run.err)} == {"inv_2", "inv_3"}

    relay.holds = held_start
    run = command("--target", "relay", "--timeout", "1", "Why?")
    assert run.code == 4
    assert "cannot be picked up" in run.err
    configured.script = polling("in_progress")
    run = command(*R, "--background", "Write")
    assert run.code == 0
    assert "--retrieve resp_1 --wait" in run.err


def test_a_read_only_directory_is_still_read(
    relay: KeyedRelay, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("--target", "relay", "--background", "Why?")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert "inv_1" in command("--list").out
    assert command("--invocation", "inv_1").out == "RESEARCHED\n"


def test_planted_records_are_harmless(relay: KeyedRelay, command: RunCommand, tmp_path: Path) -> None:
    command("--target", "relay", "--background", "Why?")
    (good,) = state_dir().glob("work-*")
    fields = json.loads(good.read_text())
    changes: list[dict[str, Any]] = [{"id": 1}, {"token": []}, {"created": "x"}, {"created": True}, {"x": 1}]
    for number, change in enumerate([*changes, {"conversation": "x"}, {"arguments": [1]}]):
        (state_dir() / f"work-{number}.json").write_text(json.dumps({**fields, **change}))
    (state_dir() / "work-copy.json").write_text(good.read_text())
    (state_dir() / "work-torn.json").write_text(good.read_text()[:50])
    (state_dir() / "work-deep.json").write_text("[" * 100_000)
    (state_dir() / "work-bytes.json").write_bytes(b"\xff\x00")
    (state_dir() / "work-directory.json").mkdir()
    (state_dir() / "work-link.json").symlink_to(good)
    (state_dir() / "work-loop.json").symlink_to("work-loop.json")
    os.mkfifo(state_dir() / "work-pipe.json")
    assert [entry["id"] for entry in listed(command)] == ["inv_1"]
    assert command("--invocation", "inv_1").out == "RESEARCHED\n"
    assert listed(command) == []


def test_records_of_the_previous_version_are_read(relay: KeyedRelay, command: RunCommand) -> None:
    command("--target", "relay", "--background", "Why?")
    (file,) = state_dir().glob("work-*")
    kept = json.loads(file.read_text())
    old = {name: kept[name] for name in ("kind", "id", "words", "created", "token", "relay", "conversation", "paid_by")}
    file.unlink()
    # The name is the first half of the SHA-256 of "inv_1".
    (state_dir() / "work-499ac94320e1ac631953104aad719c99.json").write_text(json.dumps(old))
    assert command("--invocation", "inv_1").out == "RESEARCHED\n"
    assert list(state_dir().iterdir()) == []


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root may give files away")
def test_a_record_of_another_user_is_not_followed(command: RunCommand) -> None:
    planted = journal.intent(journal.RESEARCH, "planted", "key", relay="http://127.0.0.1:1", arguments={})
    journal.write(planted)
    assert planted.id in command("--list").out
    folder = state_dir()
    for path in (folder, *folder.iterdir()):
        os.chown(path, 65534, 65534)
    assert planted.id not in command("--list").out
    answer = command("--invocation", planted.id)
    assert (answer.code, answer.out) == (2, "")
    assert "no record of" in answer.err
