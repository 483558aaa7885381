"""The user's state directory: what has to outlive a process, readable by the user alone."""

from __future__ import annotations

import os
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
    path = _base(env) / _APP
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise _unusable(path, error.strerror or type(error).__name__) from None
    except ValueError:  # a null byte in the path
        raise _unusable(path, "it is not a path") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise _unusable(path, "it cannot be written to")
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 in one step: a reader sees all of it or nothing. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # its mode is 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _base(env: Mapping[str, str]) -> Path:
    given = env.get("XDG_STATE_HOME", "")
    if os.path.isabs(given):
        return Path(given)
    try:
        home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    except RuntimeError:  # no HOME, and a user id without a passwd entry
        home = Path()
    if not home.is_absolute():
        raise ConfigurationError(
            "there is no home directory to keep state in: set HOME or XDG_STATE_HOME to a directory that can be written"
        )
    return home / ".local/state"


def _unusable(path: Path, why: str) -> ConfigurationError:
    place = str(path).encode("utf-8", "backslashreplace").decode()
    return ConfigurationError(f"the state directory {place!r} cannot be used: {why}; set XDG_STATE_HOME to another one")
