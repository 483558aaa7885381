"""Run a command beside eight busy loops, as on a loaded machine: `python -m tests.tools.loaded COMMAND...`.

The loops end with the command, however it ends; the exit code is the command's.
"""

from __future__ import annotations

import subprocess
import sys

from .guard import stand_guard

_LOOPS = 8


def main(command: list[str]) -> int:
    stand_guard()
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(_LOOPS)]
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        for loop in busy:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
