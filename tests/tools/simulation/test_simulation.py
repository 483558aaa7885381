"""Seeds of the simulation have no findings, and replay in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SEEDS = 200
_CHUNK = 10
_SECONDS = 900  # six of the processor's for a chunk; its share may be small beside busy loops


def _simulate(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.tools.simulation", "--processes", "1", *arguments]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=env, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    return done.stdout


@pytest.mark.timeout(_SECONDS)
@pytest.mark.parametrize("first", range(1, _SEEDS + 1, _CHUNK))
def test_seeds_are_clean(first: int) -> None:
    assert "0 failed" in _simulate("--first", str(first), "--seeds", str(_CHUNK))


@pytest.mark.timeout(_SECONDS)
def test_a_seed_replays_in_every_process_and_after_any_other_seed() -> None:
    alone, after_others = _simulate("--digests", "--seed", "9"), _simulate("--digests", "--first", "5", "--seeds", "5")
    digest = next(line for line in alone.splitlines() if line.startswith("9 "))
    assert digest in after_others.splitlines()
