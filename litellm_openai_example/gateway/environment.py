"""The environment that LiteLLM runs in: its own, because it needs another major version of the SDK than we do."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from .state import cache_dir

REQUIREMENTS = "requirements.txt"
_DONE = ".complete"


class GatewayUnavailable(Exception):
    """The gateway cannot be installed or started; the message is for the user."""


def ensure(tell: Callable[[str], None]) -> Path:
    """The Python of the gateway's environment, which is made on first use (716 MB on disk).

    Its name is made from the pinned requirements and the Python version, so that a new release gets a new one.

    Raises:
        GatewayUnavailable: uv is missing, or the installation failed.
    """
    requirements = resources.files(__package__).joinpath(REQUIREMENTS)
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    root = cache_dir() / f"gateway-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"
    python = root / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if (root / _DONE).exists() and python.exists():
        return python
    with _only_one(root.with_suffix(".lock")):
        if not ((root / _DONE).exists() and python.exists()):
            with resources.as_file(requirements) as file:
                _install(root, python, file, tell)
    return python


def find_uv() -> str:
    """The uv program: the one that runs us, the one on PATH, or the Python package's.

    Raises:
        GatewayUnavailable: there is none.
    """
    given = os.environ.get("UV", "")
    if given and shutil.which(given):
        return given
    found = shutil.which("uv")
    if found:
        return found
    beside = shutil.which("uv", path=str(Path(sys.executable).parent))
    if beside:
        return beside
    raise GatewayUnavailable("the gateway needs uv to install LiteLLM: pip install uv")


def _install(root: Path, python: Path, requirements: Path, tell: Callable[[str], None]) -> None:
    uv = find_uv()
    tell(f"installing LiteLLM into {root} (once, about 700 MB)")
    shutil.rmtree(root, ignore_errors=True)
    quiet = [] if sys.stderr is not None and sys.stderr.isatty() else ["--quiet"]
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(root)])
    # Bytecode now, or each of the proxy's starts would compile some thousand modules.
    _run([uv, "pip", "install", *quiet, "--python", str(python), "--require-hashes", "--compile-bytecode",
          "--requirements", str(requirements)])  # fmt: skip
    (root / _DONE).touch()


def _run(command: list[str]) -> None:
    """Run uv; its progress goes to stderr, as ours does."""
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        subprocess.run(command, check=True, env=env, stdin=subprocess.DEVNULL, stdout=2)
    except (OSError, subprocess.CalledProcessError) as error:
        raise GatewayUnavailable(f"LiteLLM could not be installed: {error}") from None


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Let one process at a time install; another that starts meanwhile waits and finds the work done."""
    with lock.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
