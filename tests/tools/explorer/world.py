"""The possible next steps of a state: of the client, the processes and their jobs, the clock and the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from litellm_openai_example.relay.ledger.records import NewInvocation, Outcome, Record
from litellm_openai_example.relay.ledger.schema import ACTIVE, IN_FLIGHT
from litellm_openai_example.relay.ledger.states import CANCELLED, INDETERMINATE

from .process import NAMES, Job, Process, Workers
from .state import Forgot, Limits, Run, State, Step, is_over, rows, run_id
from .store import (
    ATTEMPTS,
    ID,
    NOW,
    OWNER,
    STATE,
    UNSENT,
    WISH,
    Call,
    Row,
    Store,
    expires_at,
    older,
    older_copy,
)

COMPLETED = Outcome("completed", None, "The report.")
REFUSED = Outcome("failed", "gateway_rejected_request")
_DOOR = "door"  # the process that clients reach: it owns nothing
_LOST = "unavailable"


class World:
    """The steps of all states within limits."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self.limits = limits
        self._store = store
        self._workers = Workers()

    def start(self) -> State:
        limits = self.limits
        state = State(Store.EMPTY, (), (Run(),) * limits.runs, limits.faults, limits.set_backs, 0)
        return self._started(self._started(state))

    def _started(self, state: State) -> State:
        """Return the state with one more process, which holds a lease."""
        process = Process(NAMES[state.born])
        born = state._replace(processes=(*state.processes, process), born=state.born + 1)
        return next(self._beat(born, process)).state

    def steps(self, state: State) -> Iterator[Step]:
        """Yield all possible next steps."""
        over = is_over(state)
        for number in range(len(state.runs)):
            yield from self._client(state, number)
        for process in state.processes:
            yield from self._jobs(state, process)
            yield from self._thread(state, process, over)
            if not over:
                yield from self._beat(state, process)
                yield from self._leave(state, process)
        if not over:
            yield Step("the clock moves", False, _older(state))
            if len(state.processes) < 2:
                yield Step(f"{NAMES[state.born]} starts", False, self._started(state))
        yield from self._set_back(state)

    # Calls of the ledger and their possible results

    def _call(
        self, state: State, process: Process, call: Call, *, reads: bool = False
    ) -> Iterator[tuple[str, bool, Any, State, Process]]:
        """Make a call: it is answered, it fails, or its answer is lost and the repeat succeeds or fails."""
        name = process.name
        done = self._store.call(name, process.lease, state.content, call)
        yield "", False, done.answer, state._replace(content=done.content), process._replace(lease=done.memory)
        if state.faults == 0 or reads:
            return
        less = state._replace(faults=state.faults - 1)
        yield ", which fails", True, _LOST, less, process
        lost = self._store.call(name, process.lease, state.content, call, loses=True)
        # Losing the answer to a call without changes equals its failure.
        if lost.content == state.content:
            return
        yield (
            ", whose answer is lost",
            True,
            _LOST,
            less._replace(content=lost.content),
            process._replace(lease=lost.memory),
        )
        again = self._store.call(name, lost.memory, lost.content, call)
        if again.answer != done.answer or again.content != done.content:
            after = less._replace(content=again.content)
            yield (
                ", done twice for the answer was lost",
                True,
                again.answer,
                after,
                process._replace(lease=again.memory),
            )

    # The client

    def _client(self, state: State, number: int) -> Iterator[Step]:
        run, name = state.runs[number], run_id(number)
        door = Process(_DOOR)
        if run.client != "accepted":
            # A repeat under the same key comes with another id, and must find the first.
            new = NewInvocation(
                id=name if run.client == "new" else f"{name}again",
                idempotency_hash=f"key{number}",
                fingerprint="",
                mode="background",
                deliverable_format="markdown_brief",
                arguments="{}",
            )
            for how, fault, answer, after, _ in self._call(state, door, Call("accept", (new,))):
                client = (
                    "accepted" if isinstance(answer, Record) else "unsure" if how != ", which fails" else run.client
                )
                yield Step(f"the client starts {name}{how}", fault, after.with_run(number, client=client), _DOOR)
        elif self.limits.wishes and not run.wish and rows(state.content)[name][STATE] in ("queued", *ACTIVE):
            for how, fault, answer, after, _ in self._call(state, door, Call("request_cancel", (name,))):
                taken = after.with_run(number, wish=answer is None)
                yield Step(f"the client cancels {name}{how}", fault, taken, _DOOR)

    # A process

    def _beat(self, state: State, process: Process) -> Iterator[Step]:
        fresh = process.beat[0] == NOW and process.lease[0] == expires_at(state.content, process.name)
        if fresh and not process.lease[2]:
            return
        kept = process.thread
        beating, _ = self._workers.begin(process._replace(thread=None), "beat")
        assert beating.thread is not None
        for how, fault, answer, after, then in self._call(state, beating, beating.thread.call):
            ended, _ = self._workers.go_on(then, answer)
            while ended.thread is not None:  # a set-back was found: the worker makes the others notice
                told = self._store.call(ended.name, ended.lease, after.content, ended.thread.call)
                after = after._replace(content=told.content)
                ended, _ = self._workers.go_on(ended._replace(lease=told.memory), told.answer)
            yield Step(
                f"{process.name} beats{how}", fault, after.with_process(ended._replace(thread=kept)), process.name
            )

    def _thread(self, state: State, process: Process, over: bool) -> Iterator[Step]:
        if process.thread is not None:
            yield from self._go_on(state, process)
            return
        if over:
            return
        queued = [row for row in state.content.rows if row[STATE] == "queued"]
        if queued and all(row[ATTEMPTS] < self.limits.attempts for row in queued):
            # A worker may decide to claim while its lease is fresh, and make the call when it no longer is.
            claiming, _ = self._workers.begin(process._replace(beat=(NOW, *process.beat[1:])), "claim")
            if claiming.thread is not None:
                yield from self._go_on(state, claiming._replace(beat=process.beat))
        if sum(other.thread is not None for other in state.processes) >= self.limits.threads:
            return
        for kind, wanted in (("check", _has_doubts), ("recover", _has_others)):
            begun = self._workers.begin(process, kind)[0] if wanted(state, process) else process
            if begun.thread is not None:
                yield from self._go_on(state, begun)

    def _go_on(self, state: State, process: Process) -> Iterator[Step]:
        """Make the pending call of the process's thread, and run the thread to its next one."""
        assert process.thread is not None
        kind, call = process.thread.kind, process.thread.call
        reads = call.method in ("owned", "get_many", "pending")
        for how, fault, answer, after, then in self._call(state, process, call, reads=reads):
            begun, records = self._workers.go_on(then, answer)
            for record in records:
                begun = begun.with_job(record.id, _new_job(record))
            yield Step(f"{process.name}: {kind}: {call.method}{how}", fault, after.with_process(begun), process.name)

    def _leave(self, state: State, process: Process) -> Iterator[Step]:
        if state.faults == 0:
            return
        less = state._replace(faults=state.faults - 1)
        # A request on its way may still arrive after the death of its sender.
        leaving = [run for run, job in process.jobs if job.stage == "leaving"]
        for arrives in (False, True) if leaving else (False,):
            then = less
            for run in leaving if arrives else ():
                then = _posted(then, process, run)
            how = ", and its request arrives" if arrives else ""
            yield Step(f"{process.name} is killed{how}", True, then.without(process.name))
            done = self._store.call(process.name, process.lease, then.content, Call("leave"))
            left = then._replace(content=done.content).without(process.name)
            yield Step(f"{process.name} stops{how}", True, left, process.name)

    # Jobs: the calls of the ledger that engine/job.py makes, in its order

    def _jobs(self, state: State, process: Process) -> Iterator[Step]:
        known = rows(state.content)
        for run, job in process.jobs:
            row = known.get(run)
            if not job.wish and row is not None and row[WISH] and row[STATE] in ACTIVE and _is_own(process, row):
                noticed = process.with_job(run, job._replace(wish=True))
                yield Step(f"{process.name} notices that {run} is to be cancelled", False, state.with_process(noticed))
            if job.call is not None:
                yield from self._job_calls(state, process, run, job, job.call)
                if job.stage == "intent" and (job.wish or not process.may_send):
                    yield _go(state, process, run, _held(job), "does not send")
            elif job.stage == "prepared":
                if job.wish or not process.may_send:
                    yield _go(state, process, run, _held(job), "holds back")
                else:
                    leaving = job._replace(stage="leaving")
                    sent = state.with_process(process.with_sent(run, None).with_job(run, leaving))
                    # With nothing left that could come between, the request arrives as soon as it is sent.
                    if not state.faults and not state.set_backs:
                        waiting = process.with_sent(run, None).with_job(run, job._replace(stage="waiting"))
                        sent = _posted(state.with_process(waiting), process, run)
                    yield Step(f"{process.name} sends {run}", False, sent)
            elif job.stage == "leaving":
                waiting = process.with_job(run, job._replace(stage="waiting"))
                yield Step(f"the request for {run} of {process.name} arrives", False,
                           _posted(state.with_process(waiting), process, run))  # fmt: skip
                if state.faults:
                    less, unsent = state._replace(faults=state.faults - 1), process.without_sent(run)
                    yield _go(less, unsent, run, _held(job), "could not send", fault=True)
                    yield _go(less, unsent, run, _end(job, REFUSED), "is refused", fault=True)
            elif job.stage in ("waiting", "waited"):
                yield from self._answers(state, process, run, job)
            elif job.stage == "running":
                upstream_id = dict(process.sent)[run]
                yield from self._ends(state, process, run, _end(job, COMPLETED, upstream_id), "has the result")
                if job.wish:
                    yield from self._ends(state, process, run, _end(job, CANCELLED, upstream_id), "has stopped it")

    def _answers(self, state: State, process: Process, run: str, job: Job) -> Iterator[Step]:
        upstream_id = f"resp_{run}"
        answered = job._replace(stage="submitted", call=Call("submitted", (run, upstream_id)))
        yield _go(state, process.with_sent(run, upstream_id), run, answered, "has the gateway's id of")
        yield from self._ends(state, process, run, _end(job, COMPLETED, upstream_id), "has the result at once")
        if job.stage == "waiting":
            waited = process.with_job(run, job._replace(stage="waited"))
            for how, fault, _, after, then in self._call(state, waited, Call("leave_gate", (run,))):
                yield Step(f"{process.name}: {run}: leave_gate{how}", fault, after.with_process(then), process.name)
        if state.faults:
            less = state._replace(faults=state.faults - 1)
            yield _go(less, process, run, _end(job, INDETERMINATE), "has lost the answer to", fault=True)

    def _ends(self, state: State, process: Process, run: str, job: Job, why: str) -> Iterator[Step]:
        """Record an outcome at once: what others do between the two, they can do before it is known."""
        assert job.call is not None
        for step in self._job_calls(state, process, run, job, job.call):
            yield step._replace(what=f"{step.what} ({why})")

    def _job_calls(self, state: State, process: Process, run: str, job: Job, call: Call) -> Iterator[Step]:
        for how, fault, answer, after, then in self._call(state, process, call):
            next_job: Job | None
            if job.stage == "intent":  # not repeated: without a confirmed commit the run is not sent
                next_job = job._replace(stage="prepared", call=None) if answer is True else _held(job)
            elif answer == _LOST:
                next_job = job
            elif job.stage == "submitted" and answer:
                next_job = job._replace(stage="running", submitted=True, call=None)
            elif job.stage == "submitted":
                late = Call("answered_late", call.args)
                next_job = job._replace(stage="late", submitted=True, call=late)
            else:
                next_job = None
            what = f"{process.name}: {run}: {call.method}{how}"
            yield Step(what, fault, after.with_process(then.with_job(run, next_job)), process.name)

    # The ledger is set back

    def _set_back(self, state: State) -> Iterator[Step]:
        if state.set_backs == 0 or len(state.content.rows) < len(state.runs):
            return
        unsent = any(row[STATE] == "queued" or row[UNSENT] for row in state.content.rows)
        # Only contents with unsent runs: the other set-backs are tested in tests/relay/test_set_back.py.
        if state.saved is None and unsent:
            yield Step("the ledger is backed up", False, state._replace(saved=state.content))
        elif state.saved is not None and state.saved.rows != state.content.rows:
            yield Step("the ledger is set back", True, _restored(state))


def _is_own(process: Process, row: Row) -> bool:
    return bool(row[OWNER] == process.name)


def _has_doubts(state: State, process: Process) -> bool:
    """May a check find something: do the runs owned and the runs in hand differ, or are they about to?"""
    if process.set_back:
        return True
    jobs, sent = dict(process.jobs), dict(process.sent)
    for row in state.content.rows:
        job, own = jobs.get(row[ID]), row[STATE] in ACTIVE and _is_own(process, row)
        if job is None:
            doubtful = own
        elif job.submitted and row[ID] in sent:
            doubtful = not own or row[STATE] in IN_FLIGHT
        else:
            doubtful = own and job.stage in ("requeue", "end")
        if doubtful:
            return True
    return False


def _has_others(state: State, process: Process) -> bool:
    """May recovery find something? The ledger decides whether an owner lives."""
    return any(row[STATE] in ACTIVE and not _is_own(process, row) for row in state.content.rows)


def _new_job(record: Record) -> Job:
    if record.upstream_id is not None:
        return Job("running", record, submitted=True)
    return Job("intent", record, call=Call("commit_intent", (record.id,)))


def _held(job: Job) -> Job:
    """Return a job to the queue: it was certainly not sent."""
    if job.wish:
        return _end(job, CANCELLED)
    again = Call("requeue", (job.record.id, 0.0), (("attempt", job.record.attempts),))
    return job._replace(stage="requeue", call=again)


def _end(job: Job, outcome: Outcome, upstream_id: str | None = None) -> Job:
    return job._replace(stage="end", call=Call("settle", (job.record.id, outcome, upstream_id)))


def _go(state: State, process: Process, run: str, job: Job, what: str, *, fault: bool = False) -> Step:
    return Step(f"{process.name} {what} {run}", fault, state.with_process(process.with_job(run, job)))


def _posted(state: State, process: Process, run: str) -> State:
    number = int(run.removeprefix("run"))
    before = state.runs[number]
    excused = before.excused or (before.posts > 0 and _is_excused(state, before, process.name))
    return state.with_run(number, posts=before.posts + 1, sender=process.name, excused=excused)


def _is_excused(state: State, run: Run, by: str) -> bool:
    """Was it impossible to know, or to report in time, that the run was sent?"""
    if run.forgot is None:
        return False
    alive = {process.name for process in state.processes}
    again = {name for name in (run.sender, by) if name is not None} - run.forgot.senders
    return bool(again) and (not run.forgot.senders & alive or not again <= run.forgot.aware or run.forgot.ticks >= 2)


def _older(state: State) -> State:
    written = {process.name: process.lease[0] for process in state.processes}
    content, shifts = older(state.content, written)
    processes = tuple(process.older(shifts.get(process.name, 0.0)) for process in state.processes)
    runs = tuple(
        run if run.forgot is None else run._replace(forgot=run.forgot._replace(ticks=min(2, run.forgot.ticks + 1)))
        for run in state.runs
    )
    saved = None if state.saved is None else older_copy(state.saved, written)
    return state._replace(content=content, processes=processes, runs=runs, saved=saved)


def _sends(process: Process, run: str) -> bool:
    """Has the process sent the run, or decided to?"""
    job = dict(process.jobs).get(run)
    return run in dict(process.sent) or (job is not None and job.stage == "prepared")


def _restored(state: State) -> State:
    saved = state.saved
    assert saved is not None
    aware = frozenset(
        process.name
        for process in state.processes
        if process.lease[0] is not None and process.lease[0] > (expires_at(saved, process.name) or 0.0)
    )
    after = state._replace(content=saved, saved=None, set_backs=state.set_backs - 1)
    for number, run in enumerate(state.runs):
        row = rows(saved)[run_id(number)]
        senders = frozenset(process.name for process in state.processes if _sends(process, run_id(number)))
        forgot = run.forgot
        if (run.posts or senders) and (row[STATE] == "queued" or row[UNSENT]):
            forgot = Forgot(senders, aware)
        after = after.with_run(number, forgot=forgot, wish=run.wish and bool(row[WISH]))
    return after
