"""`llm` from PyPI, the other command on the official SDK, in a separate environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litellm-openai-example" / "bench-llm"
_MODELS = """\
- {{model_id: bench-chat, model_name: gpt-4o, api_base: "{base_url}"}}
- {{model_id: bench-responses, model_name: gpt-4o, api_base: "{base_url}", responses: true}}
"""


def install_llm(base_url: str) -> Path | None:
    """Install `llm` with the models `bench-chat` and `bench-responses`, and return the command; None if that fails."""
    command = _ROOT / "bin" / "llm"
    uv = os.environ.get("UV") or shutil.which("uv") or ".uv/bin/uv"
    try:
        if not command.exists():
            subprocess.run([uv, "venv", "--quiet", "--clear", str(_ROOT)], check=True)
            install = ["pip", "install", "--quiet", "--compile-bytecode", "--python", str(_ROOT / "bin/python"), "llm"]
            subprocess.run([uv, *install], check=True)
        (_ROOT / "home").mkdir(exist_ok=True)
        (_ROOT / "home" / "extra-openai-models.yaml").write_text(_MODELS.format(base_url=base_url))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"llm: left out, it cannot be installed ({error})", file=sys.stderr)
        return None
    return command


def llm_versions() -> str:
    """Return its version and its SDK's; empty if it is not installed."""
    script = "from importlib.metadata import version as v; print('llm', v('llm'), 'openai', v('openai'))"
    try:
        return subprocess.run([_ROOT / "bin/python", "-c", script], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
