"""A part of `make explore`: the states of the ledger, and its conditions broken one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from litellm_openai_example.relay.log import log

from ..tools.explorer.mutants import MUTANTS, Mutant
from ..tools.explorer.search import search
from ..tools.explorer.state import Limits
from ..tools.explorer.store import NOW, Store

_FOUND = {name: mutant for name, mutant in MUTANTS.items() if mutant.equivalent is None}
_MOST = 12_000  # states in which each broken condition is found
_PART = 4_000


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
        Limits(faults=0, attempts=1, wishes=False),
        Limits(faults=2, attempts=2),
        Limits(faults=0, attempts=1, wishes=False, set_backs=1),
        Limits(runs=2, faults=1, attempts=1),
    ],
    ids=["all of one run", "faults", "set back", "two runs"],
)
def test_no_reachable_state_breaks_a_promise(store: Store, limits: Limits) -> None:
    report = search(store, limits, most=_PART)
    assert report.violation is None, report.history
    assert report.states >= _PART


@pytest.mark.parametrize("mutant", _FOUND.values(), ids=_FOUND)
def test_a_broken_condition_is_found(mutant: Mutant) -> None:
    broken = Store((mutant.pattern, mutant.replacement))
    assert search(broken, mutant.limits, most=_MOST).violation is not None
    assert broken.mutated
    broken.close()
