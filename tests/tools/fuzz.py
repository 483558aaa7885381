"""`make fuzz`: run the randomised tests with fresh seeds for a given time.

Stops at the first failure and prints the seed that reproduces it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time

import psutil

from .ending import Ending

_PATIENCE = 20.0  # seconds for the tests to end after Ctrl-C


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="no pass begins later (default: %(default).0f)")
    parser.add_argument("--seed", type=int, help="make one pass, with this seed")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    passes = 0
    while passes == 0 or (arguments.seed is None and time.monotonic() < until):
        seed = arguments.seed or random.randrange(1, 10**9)
        command = [sys.executable, "-m", "pytest", "-m", "fuzz", "-q", "-x", f"--hypothesis-seed={seed}"]
        print(f"seed {seed}", flush=True)
        if code := _run(command, {**os.environ, "FUZZ_SEED": str(seed)}):
            print(f"FAILED; make fuzz ARGS='--seed {seed}' repeats it", flush=True)
            return code
        passes += 1
    print(f"{passes} passes, nothing found", flush=True)
    return 0


def _run(command: list[str], env: dict[str, str]) -> int:
    """Run the tests. On a signal, send a single Ctrl-C, so that they clean up; a second one would interrupt that."""

    def interrupt() -> None:
        tests.send_signal(signal.SIGINT)
        psutil.wait_procs([psutil.Process(tests.pid)], _PATIENCE)

    with subprocess.Popen(command, env=env, start_new_session=True) as tests, Ending(interrupt):
        return tests.wait()


if __name__ == "__main__":
    sys.exit(main())
