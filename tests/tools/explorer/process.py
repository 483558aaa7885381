"""A relay process: its memory, and the decisions of its worker at each call of the ledger.

The worker is the real one. Its coroutines (claiming, keeping the lease, checking its runs, recovering orphans) run
until they call the ledger. The answers so far are kept and replayed to continue from there, so a state holds no running
code, and any number of futures can branch from it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, NamedTuple, cast

from sqlalchemy.engine import make_url

from litellm_openai_example.config import GatewaySettings
from litellm_openai_example.relay.engine.worker import Worker
from litellm_openai_example.relay.ledger.failures import LedgerUnavailable
from litellm_openai_example.relay.ledger.records import Record
from litellm_openai_example.relay.ledger.states import Ledger
from litellm_openai_example.relay.settings import Settings, Timings

from .store import LEASE, NOW, OLDEST, TICK, Call, Memory, Store

_SETTINGS = Settings(
    gateway=GatewaySettings("http://127.0.0.1:4000/v1", "sk-explorer"),
    database_url=make_url("sqlite://"),
    timings=Timings(lease=LEASE, retry=0.0),
)
NAMES = "abcdefgh"  # of the processes, in the order in which they start
_HEARTBEAT = ("_last", "_since", "_set_back")  # the times that the worker's lease remembers


class Job(NamedTuple):
    """A run in the hands of a process; see `jobs`."""

    stage: str
    record: Record
    submitted: bool = False  # no submission is in flight
    wish: bool = False  # a client has cancelled it
    call: Call | None = None


class View(NamedTuple):
    """The memory that the worker's decisions depend on.

    Attributes:
        beat: times of the last heartbeat, of the first one without a gap since, and of a set-back found.
        set_back: the ledger has forgotten runs that are not restored yet.
        sent: submitted runs, with the gateway's ids.
        runs: the runs in hand, and whether each is submitted.
    """

    beat: Memory
    set_back: bool
    sent: tuple[tuple[str, str | None], ...]
    runs: tuple[tuple[str, bool], ...]


class Thread(NamedTuple):
    """A coroutine of the worker, waiting for a call of the ledger.

    Attributes:
        views: the memory of the process at its start, and at each answer.
        answers: answers to its earlier calls.
    """

    kind: str
    views: tuple[View, ...]
    answers: tuple[Any, ...]
    call: Call


class Process(NamedTuple):
    """The whole memory of a process.

    Attributes:
        name: the owner of its lease.
        lease: its ledger's memory of the lease.
        beat, set_back, sent: see `View`. Its lease counts as held without a gap for as long as it takes to declare
            others dead, so that it may take over more than a real process.
        jobs: its jobs by the id of the run.
        thread: a check or a recovery in progress; the worker claims only between them.
    """

    name: str
    lease: Memory = Store.NEW
    beat: Memory = (OLDEST, OLDEST, None)
    set_back: bool = False
    sent: tuple[tuple[str, str | None], ...] = ()
    jobs: tuple[tuple[str, Job], ...] = ()
    thread: Thread | None = None

    @property
    def view(self) -> View:
        runs = tuple((run, job.submitted) for run, job in self.jobs)
        return View(self.beat, self.set_back, self.sent, runs)

    @property
    def may_send(self) -> bool:
        return NOW - self.beat[0] < 0.75 * LEASE  # type: ignore[no-any-return]

    def with_job(self, run: str, job: Job | None) -> Process:
        jobs = dict(self.jobs)
        jobs.pop(run, None)
        return self._replace(jobs=tuple(sorted((jobs | ({run: job} if job else {})).items(), key=lambda item: item[0])))

    def with_sent(self, run: str, upstream_id: str | None) -> Process:
        return self._replace(sent=tuple(sorted((dict(self.sent) | {run: upstream_id}).items())))

    def without_sent(self, run: str) -> Process:
        return self._replace(sent=tuple(item for item in self.sent if item[0] != run))

    def older(self, shift: float) -> Process:
        """Let time pass; the lease in the database has aged by `shift`."""
        last, _, set_back = (None if one is None else max(one - TICK, OLDEST) for one in self.beat)
        written, doubted, untold = self.lease
        return self._replace(
            beat=(last, OLDEST, None if set_back == OLDEST else set_back),
            lease=(
                None if written is None else written - shift,
                float("-inf") if doubted - TICK <= OLDEST else doubted - TICK,
                untold,
            ),
        )


class _Waiting(NamedTuple):
    """A call of the ledger that the worker awaits."""

    call: Call

    def __await__(self) -> Generator[Call, Any, Any]:
        answer = yield self.call
        if answer == "unavailable":
            raise LedgerUnavailable
        return dict(answer) if self.call.method == "get_many" else answer


class _Ledger:
    """The worker's ledger: each call waits for its answer."""

    def __init__(self, name: str) -> None:
        self.worker = name

    def __getattr__(self, method: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            args = tuple(tuple(one) if isinstance(one, list) else one for one in args)
            return await _Waiting(Call(method, args, tuple(sorted(options.items()))))

        return call


class _Submitted:
    """A job's flag: set while no submission is in flight."""

    def __init__(self, submitted: bool) -> None:
        self._submitted = submitted

    def is_set(self) -> bool:
        return self._submitted


class _Job:
    def __init__(self, submitted: bool) -> None:
        self.submit_done = _Submitted(submitted)


class _Worker(Worker):
    """The worker, which begins jobs without running them."""

    def __init__(self, name: str) -> None:
        super().__init__(cast("Ledger", _Ledger(name)), cast("Any", None), _SETTINGS)
        self.begun: list[Record] = []

    def _run(self, record: Record) -> None:
        self.begun.append(record)
        self.jobs[record.id] = cast("Any", _Job(record.upstream_id is not None))
        if record.upstream_id is not None:
            self._gate.memory.answered(record.id, record.upstream_id)

    def remember(self, view: View) -> None:
        for name, value in zip(_HEARTBEAT, view.beat, strict=True):
            setattr(self._lease, name, value)
        self._set_back = view.set_back
        self.jobs = {run: cast("Any", _Job(submitted)) for run, submitted in view.runs}
        memory = self._gate.memory
        for run in memory.all_sent():
            memory.not_executed(run)
        for run, upstream_id in view.sent:
            memory.sent(run)
            if upstream_id is not None:
                memory.answered(run, upstream_id)
        self.begun = []

    def begin(self, kind: str) -> Coroutine[Any, Any, None]:
        self._queued, self._next_check = True, 0.0  # as after a notification: due at once
        return {
            "beat": self._lease.beat,
            "claim": self._claim,
            "check": self._check,
            "recover": self._recover,
        }[kind]()

    async def _check(self) -> None:
        await self._say_again()
        await self._check_owned()

    def effect(self, thread: Thread | None) -> _Effect:
        """Return the memory of the process after a step of a coroutine."""
        memory = self._gate.memory
        last, _, set_back = (getattr(self._lease, name) for name in _HEARTBEAT)
        sent = tuple(sorted((run, memory.upstream_id(run)) for run in memory.all_sent()))
        return _Effect((last, OLDEST, set_back), self._set_back, sent, thread, self.begun)


class _Effect(NamedTuple):
    """A step of a coroutine: the new values of the process, and the runs that it begins."""

    beat: Memory
    set_back: bool
    sent: tuple[tuple[str, str | None], ...]
    thread: Thread | None
    begun: list[Record]


class Workers:
    """The workers of all processes, by their names."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._known: dict[Any, _Effect] = {}

    def begin(self, process: Process, kind: str) -> tuple[Process, list[Record]]:
        """Begin a coroutine; return the process with its first call, or without a thread if it makes none."""
        return self._advance(process, kind, (process.view,), ())

    def go_on(self, process: Process, answer: Any) -> tuple[Process, list[Record]]:
        """Answer the call of the process's thread; return the process, and the runs that it begins."""
        thread = process.thread
        assert thread is not None
        return self._advance(process, thread.kind, (*thread.views, process.view), (*thread.answers, answer))

    def _advance(
        self, process: Process, kind: str, views: tuple[View, ...], answers: tuple[Any, ...]
    ) -> tuple[Process, list[Record]]:
        key = process.name, kind, views, answers
        effect = self._known.get(key) or self._known.setdefault(key, self._replay(*key))
        beat, set_back, sent, thread, begun = effect
        return process._replace(beat=beat, set_back=set_back, sent=sent, thread=thread), begun

    def _replay(self, name: str, kind: str, views: tuple[View, ...], answers: tuple[Any, ...]) -> _Effect:
        worker = self._workers.get(name) or self._workers.setdefault(name, _Worker(name))
        coroutine = worker.begin(kind)
        thread: Thread | None = None
        try:
            worker.remember(views[0])
            call = coroutine.send(None)
            for view, answer in zip(views[1:], answers, strict=True):
                worker.remember(view)
                call = coroutine.send(answer)
            thread = _essence(Thread(kind, views, answers, call))
        except (StopIteration, LedgerUnavailable):
            pass
        finally:
            coroutine.close()
        return worker.effect(thread)


_MAY_CLAIM = View((NOW, NOW, None), False, (), ())
_MAY_DECLARE_DEAD = View((NOW, OLDEST, None), False, (), ())


def _essence(thread: Thread) -> Thread:
    """Drop the part of a thread's past that no later decision depends on: fewer states, the same futures.

    Claiming keeps nothing. Recovering keeps whether it may declare processes dead. Checking keeps the runs in doubt and
    its decisions about their records; it reads no clock.
    """
    kind, views, answers, call = thread
    if call.method == "claim":
        return Thread(kind, (_MAY_CLAIM,), (), call)
    if kind == "recover":
        may = dict(call.options)["may_declare_dead"]
        answers = ((False, True), (), ())[: len(answers)]
        return Thread(kind, (_MAY_DECLARE_DEAD if may else _MAY_CLAIM,) * len(views), answers, call)
    if kind == "check":
        views = tuple(view._replace(beat=_MAY_CLAIM.beat) for view in views)
        if call == Call("owned"):  # independent of earlier repeats
            return Thread(kind, (_MAY_CLAIM,), (), call)
        if call.method == "owned":
            return Thread(kind, (_MAY_CLAIM, _MAY_CLAIM), answers[-1:], call)
        if call.method == "get_many" and not views[0].set_back:
            return Thread(kind, (_MAY_CLAIM,) * 3, (call.args[0], ()), call)
    return thread._replace(views=views)
