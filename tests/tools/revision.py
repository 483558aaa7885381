"""Another revision of this project, installed in a separate environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def checkout(revision: str, folder: Path) -> Path:
    """Check out `revision`, install it from its lock file, and return the folder of its commands.

    Args:
        revision: any name of a commit that git accepts.
        folder: directory that keeps checkouts between runs.
    """
    commit = subprocess.run(
        ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    tree = (folder / f"revision-{commit[:12]}").resolve()
    binaries = tree / ".venv" / "bin"
    if not (binaries / "litellm-relay").exists():
        print(f"installing {commit[:12]} ...", file=sys.stderr)
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", ".", str(tree)], check=True)
        subprocess.run(["git", "checkout", "--quiet", commit], cwd=tree, check=True)
        env = {
            name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
        }
        uv = os.environ.get("UV") or shutil.which("uv") or str(Path(".uv/bin/uv").resolve())
        sync = [uv, "sync", "--quiet", "--locked", "--no-default-groups", "--extra", "relay", "--compile-bytecode"]
        subprocess.run(sync, cwd=tree, env=env, check=True)
    return binaries
