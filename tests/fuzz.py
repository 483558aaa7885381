"""`make fuzz`: the tests that draw their inputs, with fresh seeds, for as long as one says.

Stops at the first failure, with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="no pass begins later (default: %(default).0f)")
    parser.add_argument("--seed", type=int, help="make one pass, with this seed")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    passes = 0
    while passes == 0 or (arguments.seed is None and time.monotonic() < until):
        seed = arguments.seed or random.randrange(1, 10**9)
        command = [sys.executable, "-m", "pytest", "-m", "fuzz", "-q", "-x", f"--hypothesis-seed={seed}"]
        print(f"seed {seed}", flush=True)
        if code := subprocess.run(command, env={**os.environ, "FUZZ_SEED": str(seed)}).returncode:
            print(f"FAILED; make fuzz ARGS='--seed {seed}' repeats it", flush=True)
            return code
        passes += 1
    print(f"{passes} passes, nothing found", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
