"""`make simulate [SEEDS=200] [SEED=n]`: run seeds in parallel processes; print the history of a failing one."""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from .mutants import hunt
from .world import Result, simulate

_PROCESSES = 2
_PART = 50  # seeds of one process


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many (default: %(default)d)")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay one seed, and print its history")
    parser.add_argument("--processes", type=int, default=_PROCESSES, help="side by side (default: %(default)d)")
    parser.add_argument("--mutants", action="store_true", help="break guards of the product, and find each")
    parser.add_argument("--quiet", action="store_true", help="do not print histories")
    parser.add_argument("--digests", action="store_true", help="print a digest of each history")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of texts belongs to a seed
        return _in_processes(arguments)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    if arguments.mutants:
        return int(hunt(seeds) > 0)
    return run([arguments.seed] if arguments.seed else seeds, arguments)


def _in_processes(arguments: argparse.Namespace) -> int:
    """Split the seeds among parallel processes.

    A process killed in the simulation may leave a greenlet that is never collected: about 2 MB a seed, freed only
    when the real process exits.
    """
    command = [sys.executable, "-m", "tests.tools.simulation", *sys.argv[1:]]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    if arguments.seed or arguments.mutants:
        return subprocess.call(command, env=env)
    parts = [
        [*command, "--first", f"{first}", "--seeds", f"{min(_PART, arguments.first + arguments.seeds - first)}"]
        for first in range(arguments.first, arguments.first + arguments.seeds, _PART)
    ]
    with ThreadPoolExecutor(max(1, arguments.processes)) as side_by_side:
        return max(side_by_side.map(lambda part: subprocess.call(part, env=env), parts))


def run(seeds: range | list[int], arguments: argparse.Namespace) -> int:
    """Run the seeds; return 1 if any of them has findings, otherwise 0."""
    gc.collect()
    gc.freeze()  # the collector need not walk the imports after each seed
    found, excused, virtual, begun, busy = 0, Counter[str](), 0.0, time.perf_counter(), time.process_time()
    for seed in seeds:
        result = simulate(seed)
        excused += result.excused
        virtual += float(result.history[-1].split()[0]) if result.history else 0.0
        if arguments.digests:
            print(seed, hashlib.sha256("\n".join(result.history).encode()).hexdigest(), flush=True)
        if arguments.seed or (result.findings and not arguments.quiet):
            print("\n".join(result.history))
        if result.findings:
            found += 1
            _tell(result)
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    took = f"{virtual / 3600:.1f} virtual hours in {seconds:.1f} s, {busy:.1f} s of a processor"
    print(f"seeds {seeds[0]} to {seeds[-1]}: {took}: {found} failed", flush=True)
    for what, times in sorted(excused.items()):
        print(f"  excused {times} times: {what}")
    return 1 if found else 0


def _tell(result: Result) -> None:
    for finding in result.findings:
        print(f"seed {result.seed}: {finding}")
    print(f"seed {result.seed} FAILED; make simulate SEED={result.seed} replays it", flush=True)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # skip the clean-up of tasks that dead processes have left
