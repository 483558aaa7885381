"""`make soak`: load, faults and kill -9 on both databases at once; then every accepted run is reconciled.

Ends with 1 if a run was lost, paid twice, stuck or answered wrongly.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ...fakes.postgresql import PostgreSQL
from ..ending import Ending
from .burst import burst
from .run import Soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of load (default: %(default).0f)")
    parser.add_argument("--kill-every", type=float, help="seconds (default: 60, or a fifth of a shorter run)")
    parser.add_argument("--kills", type=int, default=20, help="in bursts of starts, afterwards (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=5.0, help="runs started per second (default: %(default).0f)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of all that is left to chance")
    arguments = parser.parse_args()
    kill_every = arguments.kill_every or min(60.0, arguments.seconds / 5)
    _tell(
        f"{arguments.seconds:.0f} s with a kill -9 every {kill_every:.0f} s, then {arguments.kills} in bursts; "
        f"--seed {arguments.seed}"
    )

    with Ending() as ending:
        directory = ending.directory
        postgresql = PostgreSQL(directory)
        try:

            def on(name: str, url: Callable[[str], str]) -> bool:
                under_load = Soak(url("load"), arguments.seed, arguments.rate)
                found = under_load.run(arguments.seconds, kill_every)
                kills = f"{len(under_load.kills)} kills under load, slowest start {under_load.slowest_start:.1f} s"
                _tell(f"{name}, {kills}: {found}")
                if not arguments.kills:
                    return found.clean
                bursts = burst(url("burst"), arguments.kills, arguments.seed)
                _tell(f"{name}, in bursts: {bursts}")
                return found.clean and bursts.clean

            with ThreadPoolExecutor(2) as both:
                sqlite = both.submit(on, "SQLite", lambda kind: f"sqlite+aiosqlite:///{directory}/{kind}.sqlite3")
                clean = on("PostgreSQL", lambda _: postgresql.new_database())
                clean = sqlite.result() and clean
        finally:
            postgresql.stop()
    _tell("nothing lost, nothing doubled, nothing stuck" if clean else "FAILED")
    return 0 if clean else 1


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
