"""A state of everything that the explorer knows, and a step to the next one."""

from __future__ import annotations

from typing import Any, NamedTuple

from litellm_openai_example.relay.ledger.schema import ACTIVE

from .process import Process
from .store import ID, STATE, Content, Row


class Limits(NamedTuple):
    """How far a search goes.

    Attributes:
        runs: accepted in all.
        faults: deaths, stops, lost answers, failed commits and refusals in all.
        set_backs: how often the ledger may be set back, to any state since the acceptance in which a run was unsent.
        attempts: how often a run may be claimed.
        threads: how many processes check or recover at a time; any number claims.
        wishes: whether clients cancel.
    """

    runs: int = 1
    faults: int = 2
    set_backs: int = 0
    attempts: int = 2
    threads: int = 1
    wishes: bool = True


class Forgot(NamedTuple):
    """A set-back of the ledger to before a run was sent.

    Attributes:
        senders: who had sent it, or was about to.
        aware: who can tell by the own lease that the ledger is older.
        ticks: of the clock since then; two are a lease, in which a sender that is not hindered says what it has sent.
    """

    senders: frozenset[str]
    aware: frozenset[str]
    ticks: int = 0


class Run(NamedTuple):
    """What is true of a run outside the ledger.

    Attributes:
        client: what its client knows: nothing, that the answer was lost, that it was accepted.
        posts: how often the gateway has executed it.
        sender: who has sent it last.
        wish: that a wish to stop was taken.
        forgot: that the ledger was set back to before it was sent.
        excused: it was sent again, and that could not be known.
    """

    client: str = "new"
    posts: int = 0
    sender: str | None = None
    wish: bool = False
    forgot: Forgot | None = None
    excused: bool = False


class State(NamedTuple):
    """A state of everything. `born` counts processes; `saved` is what the ledger may be set back to."""

    content: Content
    processes: tuple[Process, ...]
    runs: tuple[Run, ...]
    faults: int
    set_backs: int
    born: int
    saved: Content | None = None

    def with_process(self, process: Process) -> State:
        return self._replace(processes=tuple(process if p.name == process.name else p for p in self.processes))

    def without(self, name: str) -> State:
        return self._replace(processes=tuple(p for p in self.processes if p.name != name))

    def with_run(self, number: int, **values: Any) -> State:
        runs = list(self.runs)
        runs[number] = runs[number]._replace(**values)
        return self._replace(runs=tuple(runs))


class Step(NamedTuple):
    """What happens, whether it is a fault, what comes of it, and whose call of the ledger it was."""

    what: str
    fault: bool
    state: State
    by: str | None = None


def run_id(number: int) -> str:
    return f"run{number}"


def rows(content: Content) -> dict[str, Row]:
    return {row[ID]: row for row in content.rows}


def is_over(state: State) -> bool:
    """Have all runs ended?"""
    known = state.content.rows
    return len(known) == len(state.runs) and all(row[STATE] not in ("queued", *ACTIVE) for row in known)
