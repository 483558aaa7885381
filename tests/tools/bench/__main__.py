"""`make bench`: every comparison in one run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from ..ending import Ending
from .client_bench import COMMAND, first_piece, library, one_shot
from .growth import growth
from .ledger_growth import ledger_growth, ledger_table
from .llm import llm_versions
from .measure import machine, raise_file_limit, stub
from .node import node_versions
from .picture import draw
from .relay_bench import accept, burst, run_cost, start, submits
from .report import compare, comparison_table, growth_table, number_table, numbers, told_table
from .sdk2 import sdk2_version
from .streams import stream_growth, stream_table
from .told import told

T = TypeVar("T")
_BEGIN, _END = "<!-- bench -->", "<!-- /bench -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=12, help="counted runs of each command")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for the raw numbers")
    parser.add_argument("--publish", action="store_true", help="put tables and picture into docs/")
    arguments = parser.parse_args()
    raise_file_limit()
    arguments.out.mkdir(exist_ok=True)
    with stub() as url:
        figures = {
            **_step("commands", lambda: one_shot(url, arguments.runs)),
            **_step("first pieces", lambda: first_piece(url, arguments.runs)),
            **_step("library", lambda: library(url)),
        }
        streams = _step("streams, up to 100,000 pieces", lambda: stream_growth(url, COMMAND))
    started = _step("relay: start", start)
    figures |= {one.name: one for one in _step("relay: accept", accept)}
    figures |= {one.name: one for one in _step("relay: burst", burst)}
    figures["submits: relay"] = _step("relay: submits", submits)
    ends = _step("relay: how soon an end is told of, in virtual time", told)
    figures["run: relay"] = _step("relay: cost of a run", run_cost)
    grown = _step("relay: growth, up to 1,000 jobs and waiters", growth)
    ledgers = _step("ledger: growth, up to 100,000 runs", ledger_growth)

    comparisons, found = compare(figures), numbers(figures, started, grown)
    names = ("openai", "click", "fastapi", "sqlalchemy")
    others = filter(None, [sdk2_version(), llm_versions(), node_versions()])
    versions = ", ".join([*(f"{name} {version(name)}" for name in names), *others])
    when = datetime.now(UTC)
    caption = f"{when:%Y-%m-%d}, {machine()}, {versions}"
    tables = [
        comparison_table(comparisons),
        number_table(found),
        told_table(ends),
        growth_table(grown),
        ledger_table(ledgers),
        stream_table(streams),
    ]
    text, picture = "\n\n".join([f"Measured on {caption}.", *tables]), draw(comparisons, caption)
    print(text)

    raw = {
        "when": when.isoformat(),
        "machine": machine(),
        "versions": versions,
        "figures": {name: asdict(one) for name, one in (figures | streams).items()},
        "start": asdict(started),
        "told": [asdict(one) for one in ends],
        "growth": asdict(grown),
        "ledgers": [asdict(one) for one in ledgers],
    }
    (arguments.out / f"{when:%Y%m%dT%H%M%SZ}.json").write_text(json.dumps(raw, indent=1))
    (arguments.out / "bench.md").write_text(text + "\n")
    (arguments.out / "bench.svg").write_text(picture)
    if arguments.publish:
        _publish(text, picture)


def _step(name: str, measure: Callable[[], T]) -> T:
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
    return measure()


def _publish(text: str, picture: str) -> None:
    Path("docs/bench.svg").write_text(picture)
    document = Path("docs/bench.md")
    before, _, rest = document.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    document.write_text(f"{before}{_BEGIN}\n![Time against others](bench.svg)\n\n{text}\n{_END}{after}")


if __name__ == "__main__":
    with Ending():
        main()
