"""The user's state and cache directories for this program, and private files in them.

On a shared machine another user may have planted a directory, a file or a symbolic link in their place. Such a thing is
refused, never used: a user who planted a key knows it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .config import ConfigurationError

_APP = "litellm-openai-example"


def state_dir(env: Mapping[str, str] = os.environ) -> Path:
    """Return the directory for this program's state, of mode 0700, created on demand.

    It is in `XDG_STATE_HOME`, or else in `.local/state` of the home directory. As the XDG Base Directory Specification
    demands, a relative path is ignored.

    Raises:
        ConfigurationError: it cannot be created or written to, or belongs to another user; the message is one line that
            names the directory.
    """
    return _private_dir(env, "state", "XDG_STATE_HOME", ".local/state")


def cache_dir(env: Mapping[str, str] = os.environ) -> Path:
    """Return the directory for replaceable files: in `XDG_CACHE_HOME`, or else in `.cache` of the home directory.

    Raises:
        ConfigurationError: as for `state_dir`.
    """
    return _private_dir(env, "cache", "XDG_CACHE_HOME", ".cache")


def state_path(env: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the state directory, which may be missing or read-only; create nothing.

    Raises:
        ConfigurationError: the home directory is unknown.
    """
    return _path(env, "state", "XDG_STATE_HOME", ".local/state")


def file_name(kind: str, key: str) -> str:
    """Return the name of a file of this kind; a key may be too long for one, and have characters that a name cannot."""
    return f"{kind}-{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:32]}.json"


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file of mode 0600 in one step, so that a reader sees all of it or nothing. Raises OSError.

    The file and its name are durable when this returns.

    Args:
        path: the file.
        text: its content.
        replace: False leaves an existing file as it is, so that the first of two writers wins.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # its mode is 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # Before the file gets its name: after a power cut, the name could stand for an empty file.
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            # A link, unlike a replacement, fails if the name is taken.
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
    """Return the secret in a file; generate it on first use.

    Raises:
        ConfigurationError: the file is not private to this user.
        OSError: it cannot be read or written.
    """
    with suppress(FileNotFoundError):
        if kept := read_private(path).strip():
            return kept
        path.unlink()
    # Read back: if another process was first, its secret is the one that counts.
    write_private(path, prefix + secrets.token_urlsafe(32), replace=False)
    return read_private(path).strip()


def read_private(path: Path) -> str:
    """Return the text of a file that only this user can have written.

    Raises:
        ConfigurationError: it is not a regular file of this user, or other users may read or write it.
        OSError: it cannot be read.
        ValueError: it is not UTF-8.
    """
    with os.fdopen(open_private(path), encoding="utf-8") as file:
        return file.read()


def open_private(path: Path) -> int:
    """Return a descriptor for reading a file of this user; raise as `read_private` does."""
    if path.is_symlink():  # checked first, because systems report O_NOFOLLOW at a link differently
        raise _not_ours(path, "it is a symbolic link")
    # Windows lacks the flags. Without O_NONBLOCK, opening a planted FIFO would block.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _not_ours(path, "it is not a regular file")
        if (owner := other_owner(found)) is not None:
            raise _not_ours(path, f"it belongs to {owner}")
        if _keeps_modes(path.parent) and found.st_mode & 0o077:
            raise _not_ours(path, f"its mode {stat.S_IMODE(found.st_mode):04o} gives other users access")
    except BaseException:
        os.close(handle)
        raise
    return handle


def _not_ours(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"the file {_shown(path)} is not trusted: {why}; remove it")


def other_owner(found: os.stat_result) -> str | None:
    """Return the name of an owner other than this user and root; None on Windows, which has no user ids."""
    if not hasattr(os, "geteuid") or found.st_uid in (0, os.geteuid()):
        return None
    import pwd

    with suppress(KeyError):
        return f"the user {pwd.getpwuid(found.st_uid).pw_name}"
    return f"the user id {found.st_uid}"


def _keeps_modes(folder: Path) -> bool:
    """Return False on a file system without modes (FAT, WSL's drives), where even a private directory is open."""
    return hasattr(os, "geteuid") and folder.stat().st_mode & 0o077 == 0


def _private_dir(env: Mapping[str, str], what: str, variable: str, fallback: str) -> Path:
    path = _path(env, what, variable, fallback)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = _doubt(path)
    except OSError as error:
        why = error.strerror or type(error).__name__
    except ValueError:  # a null byte in the path
        why = "it is not a path"
    if why is None:
        return path
    raise ConfigurationError(
        f"the {what} directory {_shown(path)} cannot be used: {why}; set {variable} to another one"
    )


def _doubt(folder: Path) -> str | None:
    """Make a directory private; return the reason if it cannot be trusted. Raises OSError."""
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        return "it is a symbolic link"
    if (owner := other_owner(found)) is not None:
        return f"it belongs to {owner}"
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    with os.scandir(folder) as entries:  # after the chmod, since which nobody else can add one
        for entry in entries:
            with suppress(FileNotFoundError):  # another process of this user removed it meanwhile
                if (owner := other_owner(entry.stat(follow_symlinks=False))) is not None:
                    return f"{_shown(Path(entry.name))} in it belongs to {owner}"
    return None if os.access(folder, os.W_OK | os.X_OK) else "it cannot be written to"


def _shown(path: Path) -> str:
    return repr(str(path).encode("utf-8", "backslashreplace").decode())


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
            f"no home directory for the {what} directory: set HOME or {variable} to a writable directory"
        )
    return home
