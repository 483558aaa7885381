"""A part of `make explore`: the states of the ledger, and its conditions broken one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from litellm_openai_example.relay.log import log

from ..tools.explorer.mutants import MUTANTS, Mutant
from ..tools.explorer.search import search
from ..tools.explorer.state import Limits, State
from ..tools.explorer.store import NOW, Store
from ..tools.explorer.symmetry import Form, Forms
from ..tools.explorer.world import World

_FOUND = {name: mutant for name, mutant in MUTANTS.items() if mutant.equivalent is None}
_MOST = 12_000  # states in which each broken condition is found
_PART = 4_000
_ONE_RUN = Limits(faults=0, attempts=1, wishes=False)


@pytest.fixture(autouse=True)
def standing_clock() -> Iterator[None]:
    with patch.object(time, "monotonic", lambda: NOW), patch.object(log, "disabled", True):
        yield


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


@pytest.mark.parametrize(
    "limits",
    [
        _ONE_RUN,
        Limits(faults=2, attempts=2),
        Limits(faults=0, attempts=1, wishes=False, set_backs=1),
        Limits(runs=2, faults=1, attempts=1),
    ],
    ids=["all of one run", "faults", "set back", "two runs"],
)
def test_no_reachable_state_breaks_a_promise(store: Store, limits: Limits) -> None:
    report = search(store, limits, most=_PART)
    assert report.violation is None, report.history
    assert report.states >= _PART or (report.whole and limits is _ONE_RUN)


def test_names_of_processes_lose_no_state(store: Store) -> None:
    original, forms, reached = Forms.of, Forms(_ONE_RUN), set[Form]()

    def as_it_is(_: Forms, state: State) -> Form:
        reached.add(original(forms, state))
        return state

    by_form = search(store, _ONE_RUN)
    with patch.object(Forms, "of", as_it_is):
        by_name = search(store, _ONE_RUN)
    assert by_form.states == len(reached) < by_name.states
    assert by_form.ends.keys() == by_name.ends.keys()
    assert by_form.violation is by_name.violation is None


def test_runs_are_exchangeable(store: Store) -> None:
    limits = Limits(runs=2, faults=0, attempts=1, wishes=False)
    world, forms = World(store, limits), Forms(limits)
    after = {step.what: step.state for step in world.steps(world.start())}
    one, other = (after[f"the client starts run{number}"] for number in (0, 1))
    assert one != other
    assert forms.of(one) == forms.of(other) != forms.of(world.start())
    both = [{step.what: step.state for step in world.steps(state)} for state in (one, other)]
    assert len({forms.of(steps[f"{name}: claim: claim"]) for steps in both for name in "ab"}) == 1


@pytest.mark.parametrize("mutant", _FOUND.values(), ids=_FOUND)
def test_a_broken_condition_is_found(mutant: Mutant) -> None:
    broken = Store((mutant.pattern, mutant.replacement))
    assert search(broken, mutant.limits, most=_MOST).violation is not None
    assert broken.mutated
    broken.close()
