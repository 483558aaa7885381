"""Tables of the measurements, with comparisons and goals."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from .growth import EVERY, PARTS, Growth, Step
from .measure import Figures
from .relay_bench import Start
from .told import MOST_GETS, ROUND_TRIP, Told

# (subject, ours, theirs, highest ratio allowed)
COMPARISONS = [
    ("one-shot chat", "chat: litellm-example", "chat: bare SDK", 0.48),
    ("one-shot chat, openai 2", "chat, openai 2: litellm-example", "chat, openai 2: bare SDK", None),
    ("one-shot responses", "responses: litellm-example", "responses: bare SDK", 0.72),
    ("one-shot responses stream", "responses stream: litellm-example", "responses stream: bare SDK", 0.45),
    ("one-shot responses stream", "responses stream: litellm-example", "responses stream: llm", 0.42),
    ("one-shot responses", "responses: litellm-example", "responses: llm", 0.65),
    ("one-shot chat", "chat: litellm-example", "chat: llm", 0.65),
    ("`make run`, beside a gateway that runs", "chat: make run", "chat: litellm-example", None),
    ("one-shot chat", "chat: litellm-example", "chat: Node SDK", None),
    ("one-shot responses", "responses: litellm-example", "responses: Node SDK", None),
    ("one-shot responses stream", "responses stream: litellm-example", "responses stream: Node SDK", None),
    ("one-shot responses", "responses: litellm-example", "responses: urllib", None),
    ("one-shot responses", "responses: litellm-example", "responses: curl", None),
    ("`--help`", "help: litellm-example", "help: hello-world Click", 1.2),
    ("library, sync, 500 calls", "sync: create_response", "sync: typed SDK", 0.8),
    ("library, async, 500 calls", "async: create_response", "async: typed SDK", 0.8),
    ("drop-in, sync, 500 calls", "sync: drop-in", "sync: typed SDK", 1.05),
    ("drop-in, async, 500 calls", "async: drop-in", "async: typed SDK", 1.05),
    ("relay: one durable POST, 32 clients", "accept: relay", "accept: stub", None),
    ("relay: 200 research runs of 5 s at once", "burst: relay", "burst: stub", None),
]


@dataclass(frozen=True)
class Comparison:
    """Two medians in seconds, the median and quartiles of the ratios of pairs, and the goal, if any."""

    what: str
    with_: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    goal: float | None

    @property
    def met(self) -> bool:
        return self.goal is None or self.ratio <= self.goal


@dataclass(frozen=True)
class Figure:
    """One number; the goal is its maximum, or with `least` its minimum."""

    what: str
    value: float
    unit: str
    goal: float
    least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.least else self.value <= self.goal


def compare(figures: dict[str, Figures]) -> list[Comparison]:
    """Return the `COMPARISONS` with both sides measured."""
    return [
        Comparison(
            what,
            theirs.partition(": ")[2],
            figures[ours].median,
            figures[theirs].median,
            *figures[ours].ratio(figures[theirs]),
            goal,
        )
        for what, ours, theirs, goal in COMPARISONS
        if ours in figures and theirs in figures
    ]


def numbers(figures: dict[str, Figures], start: Start, growth: Growth) -> list[Figure]:
    """Return the absolute figures that have a goal."""
    ours = [one.peak for name, one in figures.items() if name == "chat: litellm-example"]
    first = max(one.median for name, one in figures.items() if name.startswith("first piece"))
    one, many = growth.waiters[0], growth.waiters[-1]
    last = growth.jobs[-1]
    waiting = (growth.both.kilobytes - last.kilobytes) / growth.both.size
    return [
        Figure("peak memory of the command, chat", max(ours), "MB", 50),
        Figure("first piece of a stream on stdout after", first * 1000, "ms", 5),
        Figure("relay: ready after", statistics.median(start.ready), "s", 1.5),
        Figure("relay: resident memory, idle", max(start.megabytes), "MB", 85),
        Figure("relay: processor time, idle", statistics.mean(start.cpu), "%", 1),
        Figure("relay: durable POSTs, 32 clients", 1 / figures["accept: relay"].median, "per s", 300, least=True),
        Figure("relay: processor time of a run of 5 s", figures["run: relay"].median * 1000, "ms", 15),
        Figure("relay: GETs for a run of 5 s", max(figures["run: relay"].megabytes), "", 6),
        Figure("relay: 300 runs submitted, each accepted after 1 s", figures["submits: relay"].median, "s", 5),
        Figure("relay: 200 research runs of 5 s at once, all answered after", figures["burst: relay"].median, "s", 6.5),
        *(
            Figure(
                f"1,000 waiters on 1,000 jobs: another client's {name}, p50", statistics.median(times) * 1000, "ms", 50
            )
            for name, times in growth.others.items()
        ),
        Figure("1,000 waiters on 1,000 jobs: memory per waiter", waiting, "KB", 60),
        Figure("1,000 waiters on 1,000 jobs: GETs per job and interval", gets_each(growth.both), "", 1.01),
        Figure("1,000 waiters on one job: GETs, as a multiple of one waiter's", many.gets / one.gets, "x", 1.34),
    ]


def told_table(ends: list[Told]) -> str:
    """Return a table of the delay with which the end of a run is reported, by its length."""
    lines = [
        "| a run of | told late by: median | at most | goal (and a round trip) | GETs | goal | processor time |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in ends:
        most = MOST_GETS.get(one.seconds)
        gets = "-" if most is None else f"{most}{'' if one.gets <= most else ' (missed)'}"
        late = f"{one.allowed:.1f} s{'' if max(one.late) <= one.allowed + ROUND_TRIP else ' (missed)'}"
        found_late = f"{statistics.median(one.late):.2f} s | {max(one.late):.2f} s"
        lines.append(f"| {one.seconds:g} s | {found_late} | {late} | {one.gets:.1f} | {gets} | {_time(one.cpu)} |")
    return "\n".join(lines)


def gets_each(step: Step) -> float:
    """Return the polls of the upstream for each job in one interval."""
    return step.gets / step.size / PARTS


def comparison_table(comparisons: list[Comparison]) -> str:
    lines = ["| what | compared with | ours | theirs | ratio (middle half) | goal |", "|---|---|---|---|---|---|"]
    for one in comparisons:
        goal = "-" if one.goal is None else f"{one.goal:.2f}{'' if one.met else ' (missed)'}"
        lines.append(
            f"| {one.what} | {one.with_} | {_time(one.ours)} | {_time(one.theirs)} "
            f"| {one.ratio:.2f} ({one.low:.2f} to {one.high:.2f}) | {goal} |"
        )
    return "\n".join(lines)


def number_table(found: list[Figure]) -> str:
    lines = ["| what | figure | goal |", "|---|---|---|"]
    for one in found:
        goal = f"at {'least' if one.least else 'most'} {one.goal:,.4g}{'' if one.met else ' (missed)'}"
        lines.append(f"| {one.what} | {_short(one.value)} {one.unit} | {goal} |")
    return "\n".join(lines)


def growth_table(growth: Growth) -> str:
    """Return the cost of one more, relative to the first."""
    lines = [
        f"| one more, of | processor ms per s (± noise) | memory | GETs in {EVERY:.0f} s |",
        "|---|---|---|---|",
    ]
    for name, steps in (("running jobs", growth.jobs), ("waiters of one job", growth.waiters)):
        one, *others = steps
        for step in others:
            cpu = f"{step.cpu_each(one):.3f} (± {step.noise_each(one):.3f})"
            gets = gets_each(step) if steps is growth.jobs else (step.gets - one.gets) / (step.size - 1) / PARTS
            lines.append(f"| {step.size:,} {name} | {cpu} | {step.kilobytes_each(one):.0f} KB | {gets:.2f} |")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.{0 if seconds >= 0.1 else 2}f} ms"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
