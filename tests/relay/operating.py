"""The commands of an operator, as processes."""

from __future__ import annotations

import os
import subprocess
import sys


def operate(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `litellm-relay` on a ledger, without a gateway."""
    command = [sys.executable, "-m", "litellm_openai_example.relay", *arguments]
    env = {"RELAY_DATABASE_URL": url, "PATH": os.environ["PATH"]}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
