"""Symmetry: states that differ only in which process or run has which name are one state to a search.

Names decide nothing, so whatever follows one of these states follows the others too, with the names exchanged. A state
is known by its form: the least of its renamings, written with a number for each of its parts.

Calls and answers inside an unfinished check or recovery keep their order when they are renamed, so a worker that goes
through two runs in the order of their ids is not taken for one that goes through them in the other order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations
from typing import Any

from litellm_openai_example.relay.ledger.records import Record

from .process import NAMES, Process
from .state import Limits, State, run_id

Form = tuple[Any, ...]


class Forms:
    """The forms of states, for one search."""

    def __init__(self, limits: Limits) -> None:
        self._runs = limits.runs
        self._parts: list[Any] = []
        self._numbers: dict[Any, int] = {}
        self._renamings: dict[int, list[_Renaming]] = {}  # by the number of processes that ever were

    def of(self, state: State) -> Form:
        """Return the form of a state."""
        kept = state.saved or ()
        same = self._number((state.faults, state.set_backs, state.born, bool(kept)))
        runs = self._all(state.runs)
        groups = [self._all(group) for group in (state.processes, *state.content, *kept)]
        if state.born not in self._renamings:
            self._renamings[state.born] = list(self._all_renamings(state.born))
        return min((same, *one.form(runs, groups)) for one in self._renamings[state.born])

    def _all_renamings(self, born: int) -> Iterable[_Renaming]:
        for names in permutations(NAMES[:born]):
            for runs in permutations(range(self._runs)):
                yield _Renaming(self, names, runs)

    def _all(self, parts: Iterable[Any]) -> list[int]:
        return [self._number(part) for part in parts]

    def _number(self, part: Any) -> int:
        number = self._numbers.get(part)
        if number is None:
            number = self._numbers[part] = len(self._parts)
            self._parts.append(part)
        return number

    def renamed(self, number: int, names: dict[Any, Any]) -> int:
        """Return the number of a part under other names."""
        return self._number(_rename(self._parts[number], names))


class _Renaming:
    """An exchange of names.

    Args:
        names: the new names of the processes.
        runs: the old numbers of the runs, in their new order.
    """

    def __init__(self, forms: Forms, names: tuple[str, ...], runs: tuple[int, ...]) -> None:
        self._forms = forms
        self._runs = runs
        self._names: dict[Any, Any] = dict(zip(NAMES, names, strict=False))
        for new, old in enumerate(runs):
            for name in ("{}", "{}again", "resp_{}"):
                self._names[name.format(run_id(old))] = name.format(run_id(new))
            self._names[f"key{old}"] = f"key{new}"
        self._known: dict[int, int] = {}

    def form(self, runs: list[int], groups: list[list[int]]) -> Form:
        renamed = self._renamed
        return (
            tuple([renamed(runs[number]) for number in self._runs]),
            *[tuple(sorted([renamed(part) for part in group])) for group in groups],
        )

    def _renamed(self, number: int) -> int:
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = self._forms.renamed(number, self._names)
        return known


def _rename(part: Any, names: dict[Any, Any]) -> Any:
    if isinstance(part, Record):
        owner, upstream_id = names.get(part.owner), names.get(part.upstream_id)
        return replace(part, id=names[part.id], owner=owner, upstream_id=upstream_id)
    if isinstance(part, frozenset):
        return frozenset(names.get(one, one) for one in part)
    if not isinstance(part, tuple):
        return names.get(part, part)
    values = [_rename(one, names) for one in part]
    if isinstance(part, Process):
        process = Process(*values)
        return process._replace(jobs=tuple(sorted(process.jobs, key=_run)), sent=tuple(sorted(process.sent, key=_run)))
    return part._make(values) if hasattr(part, "_make") else tuple(values)


def _run(entry: tuple[str, Any]) -> str:
    return entry[0]
