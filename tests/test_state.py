"""The state directory: where it is, who may read it, and what is said when it cannot be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litellm_openai_example import ConfigurationError
from litellm_openai_example.state import state_dir, write_private


def test_it_is_made_for_the_user_alone(tmp_path: Path) -> None:
    path = state_dir({"XDG_STATE_HOME": str(tmp_path / "deep" / "down")})
    assert path == tmp_path / "deep" / "down" / "litellm-openai-example"
    assert path.stat().st_mode & 0o777 == 0o700
    path.chmod(0o755)
    assert state_dir({"XDG_STATE_HOME": str(tmp_path / "deep" / "down")}).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("xdg", [{}, {"XDG_STATE_HOME": "relative"}, {"XDG_STATE_HOME": ""}])
def test_the_home_directory_is_the_default(xdg: dict[str, str], tmp_path: Path) -> None:
    assert state_dir({"HOME": str(tmp_path), **xdg}) == tmp_path / ".local/state/litellm-openai-example"


def test_it_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    for base in ("/proc/nothing", str(file), str(file / "below"), "/a\0b"):
        with pytest.raises(ConfigurationError, match="state directory") as raised:
            state_dir({"XDG_STATE_HOME": base})
        assert "\n" not in str(raised.value)
    (tmp_path / "litellm-openai-example").touch()
    with pytest.raises(ConfigurationError, match="state directory"):
        state_dir({"XDG_STATE_HOME": str(tmp_path)})
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        state_dir({"XDG_STATE_HOME": str(tmp_path / "read-only")})


def test_there_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    for env in ({}, {"HOME": "relative"}):
        with pytest.raises(ConfigurationError, match="XDG_STATE_HOME"):
            state_dir(env)


def test_a_file_is_for_the_user_alone(tmp_path: Path) -> None:
    write_private(tmp_path / "note", "한국")
    assert (tmp_path / "note").read_text(encoding="utf-8") == "한국"
    assert (tmp_path / "note").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["note"]
