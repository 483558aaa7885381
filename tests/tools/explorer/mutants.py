"""The ledger with one condition broken: the search finds the mutant, or shows that no promise depends on the condition.

A mutant edits the text of statements on their way to the database, so it is independent of the ledger's code; a mutant
that matches no statement is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .search import Report, search
from .state import Limits
from .store import Store

_OWN = r"relay_invocations\.owner = \?"
_ACTIVE = r"relay_invocations\.state IN \('submitting', 'awaiting', 'running'\)"
_ONE = Limits(faults=1, attempts=1, wishes=False)
_AGAIN = Limits(faults=0, attempts=2, wishes=False)
_WISHED = Limits(faults=0, attempts=1, wishes=True)


class Mutant(NamedTuple):
    """A broken condition.

    Attributes:
        pattern, replacement: the change to the text of statements.
        limits: limits of the search for it.
        equivalent: why no promise depends on the condition; None if the mutant must be found.
    """

    pattern: str
    replacement: str
    limits: Limits = _ONE
    equivalent: str | None = None


MUTANTS = {
    "any lease will do, also one that is over": Mutant(
        r"EXISTS \(SELECT relay_workers\.id(\s+FROM relay_workers\s+WHERE relay_workers\.id = \?)",
        r"EXISTS (SELECT 1 UNION SELECT relay_workers.id\1",
        _AGAIN,
        equivalent="a process whose lease is over may be taken for dead, and then the owner's condition stops it",
    ),
    "any process may change a run": Mutant(rf"(relay_invocations\.id = \? AND \(?){_OWN}", r"\1? IS NOT NULL", _AGAIN),
    "the intent is not written": Mutant(r"SET unsent=\? WHERE", "SET unsent=coalesce(?, unsent) WHERE"),
    "attempts are not counted": Mutant(
        r"attempts \+ \?\)",
        "attempts + 0 * ?)",
        _AGAIN,
        equivalent="a late requeue by the owner can only meet its own next claim, which is not sent yet",
    ),
    "a wish to stop is not kept": Mutant(r"SET cancel_requested=\?", "SET cancel_requested=(0 AND ?)", _WISHED),
    "the living are taken for dead": Mutant(r"(SELECT relay_workers\.id), (.+) AS alive", r"\1, NOT (\2) AS alive"),
    "a cancel does not look whether the run is queued": Mutant(
        r"(relay_invocations\.id = \? AND )relay_invocations\.state = \?", r"\1? IS NOT NULL", _WISHED
    ),
    "what was sent goes back to the queue": Mutant(r"relay_invocations\.unsent IS 1", "1"),
    "an end is written over": Mutant(
        rf"\({_OWN} AND {_ACTIVE} OR relay_invocations\.state = 'queued'\)", "(? IS NOT NULL)"
    ),
}


def hunt(most: int | None = None) -> Iterator[tuple[str, Mutant, Report]]:
    """Search for each mutant; yield its name and the report."""
    for name, mutant in MUTANTS.items():
        store = Store((mutant.pattern, mutant.replacement))
        report = search(store, mutant.limits, most=most)
        store.close()
        if not store.mutated:
            raise LookupError(f"no statement was broken by: {name}")
        yield name, mutant, report


def is_as_expected(mutant: Mutant, report: Report) -> bool:
    """Was the mutant found, or else shown to be equivalent?"""
    if mutant.equivalent is None:
        return report.violation is not None
    return report.violation is None and report.whole
