"""A state of the whole model, and a step to the next one."""

from __future__ import annotations

from typing import Any, NamedTuple

from litellm_openai_example.relay.ledger.schema import ACTIVE

from .process import Process
from .store import ID, STATE, Content, Row


class Limits(NamedTuple):
    """The limits of a search.

    Attributes:
        runs: total of accepted runs.
        faults: total of deaths, stops, lost answers, failed commits and refusals.
        set_backs: total of set-backs, each to any state since the acceptance in which a run was unsent.
        attempts: claims of one run.
        threads: processes that check or recover at the same time; any number claims.
        wishes: clients may cancel.
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
        senders: processes that had sent the run or were about to.
        aware: processes whose lease shows that the ledger is older.
        ticks: clock ticks since then; two are a lease, within which an unhindered sender reports what it has sent.
    """

    senders: frozenset[str]
    aware: frozenset[str]
    ticks: int = 0


class Run(NamedTuple):
    """The truth about a run, outside the ledger.

    Attributes:
        client: its client's knowledge: none, the answer was lost, or the run was accepted.
        posts: number of executions by the gateway.
        sender: the process that sent it last.
        wish: a request to stop was accepted.
        forgot: the set-back of the ledger to before it was sent, if any.
        excused: it was sent again by a process that could not know.
    """

    client: str = "new"
    posts: int = 0
    sender: str | None = None
    wish: bool = False
    forgot: Forgot | None = None
    excused: bool = False


class State(NamedTuple):
    """A state of the whole model. `born` counts processes; `saved` is the content that a set-back restores."""

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
    """A step: its name, whether it is a fault, the next state, and the process whose ledger call it was."""

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
