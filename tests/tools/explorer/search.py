"""Breadth-first search of all reachable states, and the invariants of each."""

from __future__ import annotations

import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from litellm_openai_example.relay.ledger.schema import ACTIVE

from .state import Limits, State, Step, is_over, rows, run_id
from .store import ATTEMPTS, CODE, OWNER, STATE, UNSENT, UPSTREAM, WISH, Content, Row, Store, is_live
from .symmetry import Form, Forms
from .world import World

_ENDED = ("completed", "incomplete", "failed", "cancelled")


@dataclass
class Report:
    """The findings of a search.

    Attributes:
        states, steps: numbers visited.
        seconds: processor time.
        ends: count of each combination of terminal states, over the states in which all runs have ended.
        excused: states in which a run was sent again after the ledger had been set back.
        violation: the broken invariant; None if all hold.
        history: the shortest way there. From one step to the next, processes and runs may exchange names.
        whole: True if every state was visited.
    """

    states: int = 0
    steps: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    excused: int = 0
    violation: str | None = None
    history: list[str] = field(default_factory=list)
    whole: bool = True

    def __str__(self) -> str:
        found = "nothing is violated" if self.violation is None else f"VIOLATED: {self.violation}"
        part = "" if self.whole or self.violation else " (not all: a limit was reached)"
        return f"{self.states:,} states, {self.steps:,} steps, {self.seconds:.0f} s of a processor{part}: {found}"


def search(store: Store, limits: Limits, *, most: int | None = None) -> Report:
    """Visit all states within `limits`, but at most `most`; stop at the first violation."""
    return _Search(World(store, limits), most).run()


class _Search:
    def __init__(self, world: World, most: int | None) -> None:
        self._world = world
        self._most = most
        self._report = Report()
        self._forms = Forms(world.limits)
        self._numbers: dict[Form, int] = {}
        self._before: list[tuple[int, str]] = []  # the predecessor and the step of each state's first visit
        self._edges = array("l")  # pairs of states, for steps without a fault
        self._final: list[int] = []

    def run(self) -> Report:
        """Search and return the report."""
        began, report = time.process_time(), self._report
        start = self._world.start()
        waiting = deque([(start, self._add(self._forms.of(start), 0, ""))])
        while waiting and report.violation is None:
            state, number = waiting.popleft()
            if is_over(state) or self._is_cut(state):
                self._final.append(number)
            if is_over(state):
                report.ends[", ".join(_end(row) for row in state.content.rows)] += 1
                report.excused += any(run.excused for run in state.runs)
            cut = self._most is not None and len(self._numbers) >= self._most
            for step in self._world.steps(state):
                report.steps += 1
                form = self._forms.of(step.state)
                known = self._numbers.get(form)
                if known is None and cut:
                    report.whole = False
                    continue
                if known is None:
                    known = self._add(form, number, step.what)
                    waiting.append((step.state, known))
                if not step.fault and known != number:
                    self._edges.extend((number, known))
                violation = next(violations(state, step, self._world.limits), None)
                if violation is not None:
                    report.violation, report.history = violation, [*self._history(number), step.what]
                    break
        if report.violation is None and report.whole:
            self._look_for_stuck()
        report.states, report.seconds = len(self._numbers), time.process_time() - began
        return report

    def _add(self, form: Form, before: int, what: str) -> int:
        number = self._numbers[form] = len(self._numbers)
        self._before.append((before, what))
        return number

    def _history(self, number: int) -> list[str]:
        history: list[str] = []
        while number:
            number, what = self._before[number]
            history.append(what)
        return history[::-1]

    def _is_cut(self, state: State) -> bool:
        """Is a queued run stuck only because of the limit of attempts?"""
        return any(
            row[STATE] == "queued" and row[ATTEMPTS] >= self._world.limits.attempts for row in state.content.rows
        )

    def _look_for_stuck(self) -> None:
        """Check that an end is reachable from every state without a further fault."""
        sources: dict[int, list[int]] = {}
        edges = iter(self._edges)
        for source, target in zip(edges, edges, strict=True):
            sources.setdefault(target, []).append(source)
        ending, waiting = set(self._final), list(self._final)
        while waiting:
            for source in sources.get(waiting.pop(), ()):
                if source not in ending:
                    ending.add(source)
                    waiting.append(source)
        for number in range(len(self._before)):
            if number not in ending:
                self._report.violation, self._report.history = "stuck", self._history(number)
                return


def violations(before: State, step: Step, limits: Limits) -> Iterator[str]:
    """Yield the invariants that a step breaks."""
    state, earlier = step.state, rows(before.content)
    if len(state.content.rows) > len(state.runs):
        yield "two runs for one key"
    for number, run in enumerate(state.runs):
        name = run_id(number)
        row = rows(state.content).get(name)
        if row is None:
            continue
        trusted = run.forgot is None
        if run.posts > 1 and not run.excused:
            yield f"{name} was sent twice"
        if trusted and run.posts and (row[STATE] == "queued" or row[UNSENT]):
            yield f"{name} is {row[STATE]}, and was sent"
        if row[STATE] == "completed" and run.posts == 0:
            yield f"{name} is completed, and was not sent"
        if trusted and row[STATE] == "cancelled" and row[UPSTREAM] is None and run.posts:
            yield f"{name} is cancelled without an id, and was sent"
        if run.wish and row[STATE] in ("queued", *ACTIVE) and not row[WISH]:
            yield f"the wish to stop {name} is lost"
        if name in earlier and before.set_backs == state.set_backs:
            yield from _changed(before.content, earlier[name], row, step, before.set_backs < limits.set_backs)


def _changed(content: Content, before: Row, row: Row, step: Step, doubted: bool) -> Iterator[str]:
    if before[STATE] in _ENDED and (row[STATE], row[CODE]) != (before[STATE], before[CODE]):
        yield f"an end changed: {_end(before)} to {_end(row)}"
    taken = (before[STATE], before[OWNER]) != (row[STATE], row[OWNER]) and before[STATE] in ACTIVE
    others = before[OWNER] is not None and step.by != before[OWNER]
    if taken and not doubted and others and is_live(content, before[OWNER]):
        yield f"a run was taken from a living process ({before[STATE]} to {row[STATE]})"


def _end(row: Row) -> str:
    return f"{row[STATE]} ({row[CODE]})" if row[CODE] else str(row[STATE])
