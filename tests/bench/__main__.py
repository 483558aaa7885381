"""`make bench`: every comparison in one run."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .client_bench import library, one_shot
from .measure import Figures, machine, stub

# (what, ours, compared with, ratio that it should not exceed)
COMPARISONS = [
    ("one-shot chat", "chat: litellm-example", "chat: bare SDK", 0.85),
    ("one-shot responses", "responses: litellm-example", "responses: bare SDK", 0.78),
    ("one-shot responses stream", "responses stream: litellm-example", "responses stream: bare SDK", 0.50),
    ("one-shot responses", "responses: litellm-example", "responses: llm", 0.45),
    ("one-shot responses", "responses: litellm-example", "responses: urllib", None),
    ("one-shot responses", "responses: litellm-example", "responses: curl", None),
    ("--help", "help: litellm-example", "help: hello-world Click", 1.3),
    ("library, sync, 500 calls", "sync: create_response", "sync: typed SDK", 0.9),
    ("library, async, 500 calls", "async: create_response", "async: typed SDK", 0.9),
]


def table(figures: dict[str, Figures]) -> str:
    """The comparisons as Markdown."""
    lines = [
        "| what | compared with | ours | theirs | ratio (middle half) | goal |",
        "|---|---|---|---|---|---|",
    ]
    for what, ours, theirs, goal in COMPARISONS:
        if ours in figures and theirs in figures:
            ratio, low, high = figures[ours].ratio(figures[theirs])
            times = f"{figures[ours].median * 1000:.2f} ms | {figures[theirs].median * 1000:.2f} ms"
            limit = "-" if goal is None else f"at most {goal:.2f}"
            name = theirs.partition(": ")[2]
            lines.append(f"| {what} | {name} | {times} | {ratio:.2f} ({low:.2f} to {high:.2f}) | {limit} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="counted runs of each command")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for the raw numbers")
    arguments = parser.parse_args()
    with stub() as url:
        figures = {**one_shot(url, arguments.runs), **library(url)}
    versions = f"openai {version('openai')}, click {version('click')}"
    when = datetime.now(UTC)
    print(f"{when:%Y-%m-%d}, {machine()}, {versions}\n\n{table(figures)}\n")
    peak = max(figures[name].peak for name in figures if name.endswith("litellm-example"))
    print(f"peak memory of the command: {peak:.0f} MB")
    arguments.out.mkdir(exist_ok=True)
    raw = {name: {"seconds": f.seconds, "megabytes": f.megabytes} for name, f in figures.items()}
    document = {"when": when.isoformat(), "machine": machine(), "versions": versions, "figures": raw}
    (arguments.out / f"{when:%Y%m%dT%H%M%SZ}.json").write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
