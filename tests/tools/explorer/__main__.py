"""`make explore`: visit all states of the ledger within limits, then break its conditions one by one."""

from __future__ import annotations

import argparse
import time
from unittest.mock import patch

from litellm_openai_example.relay.log import log

from .mutants import hunt, is_as_expected
from .search import search
from .state import Limits
from .store import NOW, Store

SEARCHES = {
    "one run, a fault at any point": Limits(faults=1, attempts=1, wishes=False),
    "one run, cancelled at any point": Limits(faults=0, attempts=1),
    "two runs": Limits(runs=2, faults=0, attempts=1, wishes=False),
    "one run, and the ledger is set back": Limits(faults=0, attempts=1, wishes=False, set_backs=1),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.explorer", description=__doc__)
    parser.add_argument("--most", type=int, default=400_000, help="states of each search (default: %(default)d)")
    parser.add_argument("--no-mutants", action="store_true", help="do not break anything")
    arguments = parser.parse_args()
    log.disabled = True
    failed = 0
    with patch.object(time, "monotonic", lambda: NOW):
        for name, limits in SEARCHES.items():
            store = Store()
            report = search(store, limits, most=arguments.most)
            store.close()
            failed += report.violation is not None
            print(f"{name}: {report}", *report.history, sep="\n    ", flush=True)
        for name, mutant, report in () if arguments.no_mutants else hunt():
            expected = is_as_expected(mutant, report)
            failed += not expected
            verdict = "found" if report.violation else f"equivalent: {mutant.equivalent}"
            print(f"{name}: {verdict if expected else 'NOT AS EXPECTED'}; {report}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
