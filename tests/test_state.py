"""The state directory: its place, its modes, and the errors if it cannot be used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from litellm_openai_example import ConfigurationError
from litellm_openai_example.state import kept_secret, state_dir, write_private


def test_the_state_directory_is_private(tmp_path: Path) -> None:
    path = state_dir({"XDG_STATE_HOME": str(tmp_path / "deep" / "down")})
    assert path == tmp_path / "deep" / "down" / "litellm-openai-example"
    assert path.stat().st_mode & 0o777 == 0o700
    path.chmod(0o755)
    assert state_dir({"XDG_STATE_HOME": str(tmp_path / "deep" / "down")}).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("xdg", [{}, {"XDG_STATE_HOME": "relative"}, {"XDG_STATE_HOME": ""}])
def test_the_home_directory_is_the_default(xdg: dict[str, str], tmp_path: Path) -> None:
    assert state_dir({"HOME": str(tmp_path), **xdg}) == tmp_path / ".local/state/litellm-openai-example"


def test_an_unusable_directory_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_missing_home_directory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    for env in ({}, {"HOME": "relative"}):
        with pytest.raises(ConfigurationError, match="XDG_STATE_HOME"):
            state_dir(env)


def test_a_file_is_private(tmp_path: Path) -> None:
    write_private(tmp_path / "note", "한국")
    assert (tmp_path / "note").read_text(encoding="utf-8") == "한국"
    assert (tmp_path / "note").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["note"]


# Directories and files planted by another user

NOBODY = 65534
as_root = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root may give files away")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a directory for `XDG_STATE_HOME` that contains the program's."""
    (tmp_path / "litellm-openai-example").mkdir(mode=0o700)
    return tmp_path


def refusal(base: Path) -> str:
    with pytest.raises(ConfigurationError, match="state directory") as raised:
        state_dir({"XDG_STATE_HOME": str(base)})
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("set XDG_STATE_HOME to another one")
    return str(raised.value)


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_a_directory_of_another_user_is_refused(base: Path, mode: int) -> None:
    folder = base / "litellm-openai-example"
    folder.chmod(mode)
    os.chown(folder, NOBODY, NOBODY)
    assert "it belongs to the user nobody" in refusal(base)
    assert folder.stat().st_mode & 0o777 == mode


@as_root
def test_an_unknown_user_is_named_by_id(base: Path) -> None:
    os.chown(base / "litellm-openai-example", 123456, 123456)
    assert "it belongs to the user id 123456" in refusal(base)


@pytest.mark.parametrize("to", ["elsewhere", "/tmp", "nowhere"])
def test_a_symbolic_link_is_refused(tmp_path: Path, to: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "litellm-openai-example").symlink_to(tmp_path / to, target_is_directory=True)
    assert "cannot be used: " in refusal(tmp_path)
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 != 0o700


def test_a_link_above_the_directory_is_followed(base: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(base, target_is_directory=True)
    assert state_dir({"XDG_STATE_HOME": str(tmp_path / "link")}).is_dir()


@as_root
def test_a_directory_holding_another_users_file_is_refused(base: Path) -> None:
    folder = base / "litellm-openai-example"
    folder.chmod(0o777)
    (folder / "relay.sqlite3").touch()
    os.chown(folder / "relay.sqlite3", NOBODY, NOBODY)
    for _ in range(2):  # the first call makes the directory private, which must not make the file trusted
        assert "'relay.sqlite3' in it belongs to the user nobody" in refusal(base)
    (folder / "relay.sqlite3").unlink()
    assert state_dir({"XDG_STATE_HOME": str(base)}) == folder


def plant_link(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("sk-planted")
    other.chmod(0o600)
    path.symlink_to(other)


def plant_pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def plant_open_file(path: Path) -> None:
    path.write_text("sk-planted")
    path.chmod(0o666)


def plant_readable_file(path: Path) -> None:
    path.write_text("sk-planted")
    path.chmod(0o644)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes, links or pipes")
@pytest.mark.parametrize(
    ("plant", "why"),
    [(plant_link, "is a symbolic link"), (plant_pipe, "is not a regular file"), (Path.mkdir, "is not a regular file"),
     (plant_open_file, "its mode 0666"), (plant_readable_file, "its mode 0644")],
)  # fmt: skip
def test_a_secret_exposed_to_others_is_refused(base: Path, plant: Callable[[Path], None], why: str) -> None:
    path = state_dir({"XDG_STATE_HOME": str(base)}) / "master-key"
    plant(path)
    with pytest.raises(ConfigurationError, match=why) as raised:
        kept_secret(path)
    assert "\n" not in str(raised.value)
    assert "sk-planted" not in str(raised.value)


@as_root
def test_a_secret_of_another_user_is_refused(base: Path) -> None:
    path = base / "litellm-openai-example" / "master-key"
    path.write_text("sk-planted")
    path.chmod(0o600)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match="it belongs to the user nobody; remove it"):
        kept_secret(path)


def test_a_secret_is_generated_once(base: Path) -> None:
    path = state_dir({"XDG_STATE_HOME": str(base)}) / "salt"
    assert kept_secret(path, "sk-") == kept_secret(path, "sk-") == path.read_text()
    path.write_text("")
    assert kept_secret(path)


def test_a_dangling_link_is_refused(base: Path, tmp_path: Path) -> None:
    path = state_dir({"XDG_STATE_HOME": str(base)}) / "salt"
    path.symlink_to(tmp_path / "made-by-us")
    with pytest.raises(ConfigurationError, match="is a symbolic link"):
        kept_secret(path)
    assert not (tmp_path / "made-by-us").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_a_file_system_without_modes_is_accepted(base: Path) -> None:
    folder = base / "litellm-openai-example"
    (folder / "salt").write_text("kept")
    (folder / "salt").chmod(0o777)
    folder.chmod(0o777)  # as it would stay in spite of chmod
    assert kept_secret(folder / "salt") == "kept"
