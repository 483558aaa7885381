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

from .client_bench import first_piece, library, one_shot
from .growth import growth
from .llm import llm_versions
from .measure import machine, raise_file_limit, stub
from .picture import draw
from .relay_bench import accept, burst, start
from .report import compare, comparison_table, growth_table, number_table, numbers

T = TypeVar("T")
_BEGIN, _END = "<!-- bench -->", "<!-- /bench -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=12, help="counted runs of each command")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for the raw numbers")
    parser.add_argument("--publish", action="store_true", help="put tables and picture into README.md and docs/")
    arguments = parser.parse_args()
    raise_file_limit()
    with stub() as url:
        figures = {
            **_step("commands", lambda: one_shot(url, arguments.runs)),
            **_step("first pieces", lambda: first_piece(url, arguments.runs)),
            **_step("library", lambda: library(url)),
        }
    started = _step("relay: start", start)
    for name, pair in (("relay: accept", accept), ("relay: burst", burst)):
        figures |= {one.name: one for one in _step(name, pair)}
    grown = _step("relay: growth, up to 1,000 jobs and waiters", growth)

    comparisons, found = compare(figures), numbers(figures, started, grown)
    names = ("openai", "click", "fastapi", "sqlalchemy")
    versions = ", ".join([*(f"{name} {version(name)}" for name in names), *filter(None, [llm_versions()])])
    when = datetime.now(UTC)
    caption = f"{when:%Y-%m-%d}, {machine()}, {versions}"
    tables = [comparison_table(comparisons), number_table(found), growth_table(grown)]
    text, picture = "\n\n".join([f"Measured on {caption}.", *tables]), draw(comparisons, caption)
    print(text)

    raw = {
        "when": when.isoformat(),
        "machine": machine(),
        "versions": versions,
        "figures": {name: {"seconds": one.seconds, "megabytes": one.megabytes} for name, one in figures.items()},
        "start": asdict(started),
        "growth": asdict(grown),
    }
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / f"{when:%Y%m%dT%H%M%SZ}.json").write_text(json.dumps(raw, indent=1))
    (arguments.out / "bench.md").write_text(text + "\n")
    (arguments.out / "bench.svg").write_text(picture)
    if arguments.publish:
        _publish(text, picture)


def _step(name: str, measure: Callable[[], T]) -> T:
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
    return measure()


def _publish(text: str, picture: str) -> None:
    Path("docs").mkdir(exist_ok=True)
    Path("docs/bench.svg").write_text(picture)
    readme = Path("README.md")
    before, _, rest = readme.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    readme.write_text(f"{before}{_BEGIN}\n![Time against others](docs/bench.svg)\n\n{text}\n{_END}{after}")


if __name__ == "__main__":
    main()
