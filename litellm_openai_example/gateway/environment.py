"""LiteLLM's virtual environment, which keeps its hundred pinned packages apart from the user's."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import IO

from ..state import cache_dir
from .children import GatewayUnavailable, death_signal
from .progress import Show, progress

REQUIREMENTS = "requirements.txt"
_DONE = ".complete"
# `Downloading numpy (16.1MiB)` and ` Downloaded numpy`, as uv writes them to a file.
_STARTED = re.compile(rb"^Downloading (\S+) \((\d+(?:\.\d+)?)(KiB|MiB|GiB)\)$", re.MULTILINE)
_FINISHED = re.compile(rb"^ Downloaded (\S+)$", re.MULTILINE)
_UNITS = {b"KiB": 2**10, b"MiB": 2**20, b"GiB": 2**30}
_DOWNLOAD_LINE = re.compile(r"^ ?Download(ing|ed) .*\n", re.MULTILINE)


def ensure(tell: Callable[[str], None]) -> Path:
    """Return the Python of LiteLLM's environment, which is installed on first use (about 470 MB on disk).

    The environment is named after the pinned requirements and the Python version, so changed pins get a new one.

    Args:
        tell: called with a line for each step that takes a while.

    Raises:
        GatewayUnavailable: uv is missing, or the installation failed.
        ConfigurationError: the cache directory cannot be created or written to.
    """
    requirements = resources.files(__package__).joinpath(REQUIREMENTS)
    root = location(requirements.read_bytes())
    python = root / "bin" / "python"
    if _complete(root, python):
        return python
    lock_file = root.with_name(root.name + ".lock")
    with only_one(lock_file, lambda: tell("waiting for another process that installs LiteLLM")) as lock:
        if not _complete(root, python):
            with resources.as_file(requirements) as file:
                _install(root, python, file, lock, tell)
    return python


def location(requirements: bytes) -> Path:
    """Return the path of the environment with these requirements."""
    digest = hashlib.sha256(requirements).hexdigest()[:12]
    return cache_dir() / f"gateway-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"


def installation() -> tuple[str, int]:
    """Return what identifies the installed environment: its path, and when it was completed; 0 if it is missing.

    Raises:
        ConfigurationError: as for `ensure`.
    """
    root = location(resources.files(__package__).joinpath(REQUIREMENTS).read_bytes())
    with suppress(OSError):
        return str(root), (root / _DONE).stat().st_mtime_ns
    return str(root), 0


def find_uv() -> str:
    """Return the path of uv: the one that runs this process (`UV`), the one on PATH, or the Python package's.

    Raises:
        GatewayUnavailable: uv is not installed.
    """
    for name in (os.environ.get("UV"), "uv"):
        if name and (found := shutil.which(name)):
            return found
    with suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin  # type: ignore[import-not-found]

        return str(find_uv_bin())
    raise GatewayUnavailable("the gateway needs uv to install LiteLLM: pip install uv")


def _complete(root: Path, python: Path) -> bool:
    return (root / _DONE).exists() and python.exists()


def _install(root: Path, python: Path, requirements: Path, lock: int, tell: Callable[[str], None]) -> None:
    uv = find_uv()
    (root / _DONE).unlink(missing_ok=True)  # first: an interrupted removal must not leave the mark behind
    shutil.rmtree(root, ignore_errors=True)
    with progress("installing LiteLLM (once, about 470 MB on disk)", tell) as show:
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(root)], lock, show)
        # Not --quiet: the lines about downloads are counted. --no-deps: the pins are complete, and leave out
        # dependencies that a gateway never imports (excluded.in).
        _run([uv, "pip", "install", "--python", str(python), "--require-hashes", "--no-deps",
              "--requirements", str(requirements)], lock, show)  # fmt: skip
    # uv leaves bytecode to the first start, which would then compile thousands of modules.
    with progress("compiling LiteLLM's bytecode", tell, expected=20) as show, suppress(GatewayUnavailable):
        _run([str(python), "-I", "-m", "compileall", "-qq", "-j", "0", str(root / "lib")], lock, show)
    (root / _DONE).touch()


def _run(command: list[str], lock: int, show: Show) -> None:
    """Run a step of the installation, and quote its output in the error if it fails.

    The step inherits the lock: if it outlives this process, no other may write into the directory yet.
    """
    env = {**_certificates(), **os.environ}
    env.pop("VIRTUAL_ENV", None)
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=(lock,),
                preexec_fn=death_signal(),
            )
        except OSError as error:
            raise GatewayUnavailable(f"LiteLLM could not be installed: {command[0]}: {error.strerror}") from None
        try:
            while process.returncode is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                show(int(time.monotonic() - started), megabytes_fetched(_content(said)))
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.returncode:
            text = _DOWNLOAD_LINE.sub("", _content(said).decode(errors="replace")).strip()
            what = " ".join(command[1:3]) if command[1] == "pip" else command[1]
            failed = f"LiteLLM could not be installed: uv {what} ended with {process.returncode}"
            raise GatewayUnavailable(f"{failed}:\n{text}" if text else failed)


def megabytes_fetched(output: bytes) -> int:
    """Return the megabytes (10^6 bytes) of the downloads that uv reports as finished; it reports those over 1 MiB."""
    sizes = {name: float(size) * _UNITS[unit] for name, size, unit in _STARTED.findall(output)}
    return round(sum(sizes.get(name, 0.0) for name in _FINISHED.findall(output)) / 1e6)


def _content(file: IO[bytes]) -> bytes:
    """Return the output of a child process so far, without moving the file position that it shares with this one."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)


def _certificates() -> dict[str, str]:
    """Return the setting that makes uv trust this machine's certificates, as pip does; empty if it has no store."""
    # A company's proxy signs its connections with a certificate of that store.
    store = ssl.get_default_verify_paths()
    return {"UV_SYSTEM_CERTS": "1"} if store.cafile or store.capath else {}


@contextmanager
def only_one(lock: Path, wait: Callable[[], object]) -> Iterator[int]:
    """Let one process at a time run the block; yield the descriptor that holds the lock.

    Args:
        lock: the file to lock, which is created if it is missing.
        wait: called if another process is in the block, before this one waits for it.
    """
    with open(lock, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
