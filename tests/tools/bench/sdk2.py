"""The project on the newest openai 2, in a separate environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_PROJECT = Path(__file__).parents[3]
_ROOT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litellm-openai-example" / "bench-sdk2"


def install_sdk2() -> Path | None:
    """Return the folder with `litellm-example` and `python`; None if it cannot be installed."""
    uv = os.environ.get("UV") or shutil.which("uv") or ".uv/bin/uv"
    python = _ROOT / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(_ROOT)], check=True)
        options = ["--quiet", "--compile-bytecode", "--upgrade", "--python", str(python)]
        install = [uv, "pip", "install", *options, "--editable", str(_PROJECT), "openai==2.*"]
        subprocess.run(install, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"openai 2: left out, it cannot be installed ({error})", file=sys.stderr)
        return None
    return python.parent


def sdk2_version() -> str:
    """Return its version, empty if it is not installed."""
    script = "from importlib.metadata import version as v; print('openai', v('openai'))"
    try:
        return subprocess.run([_ROOT / "bin/python", "-c", script], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
