"""What a gateway of ours leaves on disk: its key, its salt, and where it runs. Readable by the user alone."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

APP = "litellm-openai-example"


def state_dir(env: Mapping[str, str] = os.environ) -> Path:
    """The user's state directory for this program; made with mode 0700."""
    return _private_dir(_base(env, "XDG_STATE_HOME", "LOCALAPPDATA", ".local/state") / APP)


def cache_dir(env: Mapping[str, str] = os.environ) -> Path:
    """The user's cache directory for this program, for what can be made again."""
    return _private_dir(_base(env, "XDG_CACHE_HOME", "LOCALAPPDATA", ".cache") / APP)


def secret(name: str, make: Any = lambda: "sk-" + secrets.token_urlsafe(32)) -> str:
    """A secret that is drawn once and kept: the gateway's master key, or the salt of its response ids.

    A changed salt or key would make every response id that was handed out unusable.
    """
    path = state_dir() / name
    try:
        kept = path.read_text().strip()
        if kept:
            return kept
    except FileNotFoundError:
        pass
    write_private(path, make(), replace=False)
    return path.read_text().strip()


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file of mode 0600 in one step: a reader sees all of it or nothing.

    Args:
        replace: False leaves a file that is there already, so that of two writers the first wins.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # its mode is 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        if replace:
            os.replace(temporary, path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def record_running(running: Mapping[str, Any]) -> None:
    """Note where a gateway runs, for `running`."""
    write_private(state_dir() / "gateway.json", json.dumps(running))


def running() -> dict[str, Any] | None:
    """What the last gateway noted, if it reads well; whether it still answers is for the caller to find out."""
    try:
        noted = json.loads((state_dir() / "gateway.json").read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(noted, dict) and isinstance(noted.get("base_url"), str) and isinstance(noted.get("pid"), int)
    return noted if known else None


def forget_running(pid: int) -> None:
    """Remove the note, if it is still that of the gateway with this pid."""
    noted = running()
    if noted is not None and noted["pid"] == pid:
        with suppress(FileNotFoundError):
            (state_dir() / "gateway.json").unlink()


def _base(env: Mapping[str, str], variable: str, windows: str, fallback: str) -> Path:
    given = env.get(variable, "")
    if os.path.isabs(given):  # the XDG specification has relative ones ignored
        return Path(given)
    if sys.platform == "win32" and env.get(windows):
        return Path(env[windows])
    return Path.home() / fallback


def _private_dir(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
