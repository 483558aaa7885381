"""The user's directories for this program, readable by the user alone: state that has to last, and a cache."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .config import ConfigurationError

_APP = "litellm-openai-example"


def state_dir(env: Mapping[str, str] = os.environ) -> Path:
    """The directory for this program's state, made on demand, of mode 0700.

    It lies in `XDG_STATE_HOME`, else in `.local/state` of the home directory (XDG Base Directory Specification, which
    also has relative paths ignored).

    Raises:
        ConfigurationError: it cannot be made or written to; the message is one line that names the place.
    """
    return _private_dir(env, "state", "XDG_STATE_HOME", ".local/state")


def cache_dir(env: Mapping[str, str] = os.environ) -> Path:
    """The directory for what can be made again: in `XDG_CACHE_HOME`, else in `.cache` of the home directory.

    Raises:
        ConfigurationError: as for `state_dir`.
    """
    return _private_dir(env, "cache", "XDG_CACHE_HOME", ".cache")


def state_path(env: Mapping[str, str] = os.environ) -> Path:
    """The same directory, for reading: nothing is made, and it may be missing or read-only.

    Raises:
        ConfigurationError: there is no home directory.
    """
    return _path(env, "state", "XDG_STATE_HOME", ".local/state")


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file of mode 0600 in one step: a reader sees all of it or nothing. Raises OSError.

    It is on the disk, and so is its name, when this returns.

    Args:
        replace: False leaves a file that is there already, so that of two writers the first wins.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # its mode is 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
        sync_directory(path.parent)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError; does nothing on Windows, which opens no directories."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def kept_secret(path: Path, prefix: str = "") -> str:
    """The secret in this file, generated once, then reused. Raises OSError."""
    with suppress(FileNotFoundError):
        kept = path.read_text().strip()
        if kept:
            return kept
        path.unlink()
    write_private(path, prefix + secrets.token_urlsafe(32), replace=False)
    return path.read_text().strip()


def _private_dir(env: Mapping[str, str], what: str, variable: str, fallback: str) -> Path:
    path = _path(env, what, variable, fallback)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != 0o700:
            path.chmod(0o700)
    except OSError as error:
        why = error.strerror or type(error).__name__
    except ValueError:  # a null byte in the path
        why = "it is not a path"
    else:
        if os.access(path, os.W_OK | os.X_OK):
            return path
        why = "it cannot be written to"
    place = str(path).encode("utf-8", "backslashreplace").decode()
    raise ConfigurationError(f"the {what} directory {place!r} cannot be used: {why}; set {variable} to another one")


def _path(env: Mapping[str, str], what: str, variable: str, fallback: str) -> Path:
    given = env.get(variable, "")
    return (Path(given) if os.path.isabs(given) else _home(env, what, variable) / fallback) / _APP


def _home(env: Mapping[str, str], what: str, variable: str) -> Path:
    try:
        home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    except RuntimeError:  # no HOME, and a user id without a passwd entry
        home = Path()
    if not home.is_absolute():
        raise ConfigurationError(
            f"there is no home directory for the {what} directory: set HOME or {variable} to a directory that can be"
            " written"
        )
    return home
