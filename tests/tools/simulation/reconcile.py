"""Reconciliation at the end: the ledger against the gateway's books and the users' results.

Excused and counted, each as narrowly as the product promises:

* a ledger that was set back may have forgotten that a run was accepted; or that it was sent, and then a process that
  could not know sends it again: the sender had died, or the other one's lease did not show that the ledger is older;
* a process that starts with its wall clock ahead deletes results that it takes to be old enough;
* a program that lets the library make up the key keeps none if it is killed before the relay's answer;
* a run whose sender died before the ledger took the gateway's id is indeterminate, and nobody can stop it.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from litellm_openai_example.research.contract import NEVER_EXECUTED, TERMINAL

from .gateway import AMBIGUOUS, Create, Response
from .plan import HOUR

if TYPE_CHECKING:
    from .users import User
    from .world import Result, World

_REFUSED = frozenset({"429", "400", "page", "404 page"})  # certainly not executed, so it may be sent again
_TELLING = 2.0  # seconds from a commit until all waiting clients have its result
_GRACE = 120.0  # seconds within which a request to stop reaches a gateway that answers
# Faults that may leave a submission indeterminate.
_UNCERTAIN = ("kill", "stop", "freeze", "disk_away", "lose_answers", "fail_commits", "gateway_outage")
# Faults that may keep a process from reporting its submissions to the ledger in time.
_HINDERED = ("freeze", "disk_away", "lose_answers", "fail_commits")


def reconcile(world: World, result: Result) -> None:
    """Write the violations and the excused findings into `result`."""
    books = _Books(world, result)
    result.findings += [f"failure: {failure}" for failure in world.failures]
    for row in books.rows.values():
        result.findings += books.check_row(row)
    for call_id in world.gateway.creates:
        result.findings += books.check_paid(call_id)
    for response in world.gateway.responses.values():
        result.findings += books.check_stops(response)
    for user in world.users:
        result.findings += books.check_user(user)


class _Books:
    def __init__(self, world: World, result: Result) -> None:
        self.world = world
        self.now = world.clock.now
        self.excused = result.excused
        self.rows = {row["id"]: row for row in world.disk.rows()}
        self.responses: dict[str, list[Response]] = defaultdict(list)
        for response in world.gateway.responses.values():
            self.responses[response.call_id].append(response)
        self.by_nonce: dict[str, list[str]] = defaultdict(list)
        for row in self.rows.values():
            question = json.loads(row["arguments"])["research_question"]
            for user in world.users:
                for nonce in user.nonces:
                    if question == f"What about {nonce}?":
                        self.by_nonce[nonce].append(row["id"])
        self.askers = {one: user for user in world.users for one in user.ids}

    # Money

    def check_paid(self, call_id: str) -> Iterator[str]:
        """Check that at most one submission of each run may have been executed."""
        sent = [create for create in self.world.gateway.creates[call_id] if create.fate not in _REFUSED]
        for first, again in itertools.combinations(sent, 2):
            why = self._why_sent_again(call_id, first, again)
            if why is None:
                times = ", ".join(f"{create.at - 100_000:.3f} ({create.fate})" for create in sent)
                yield f"paid twice: {call_id} was sent at {times}"
                return
            self.excused[f"sent again, for the ledger forgot that it was sent, and {why}"] += 1

    def _why_created_again(self, call_id: str) -> str | None:
        """Return why the set-back of the ledger excuses another submission, also one that the gateway refused."""
        pairs = itertools.combinations(self.world.gateway.creates[call_id], 2)
        return next((why for first, again in pairs if (why := self._why_sent_again(call_id, first, again))), None)

    def _why_sent_again(self, call_id: str, first: Create, again: Create) -> str | None:
        """Return why a set-back of the ledger excuses the second submission; None if it does not."""
        if first.sender is None or again.sender is None or first.sender is again.sender:
            return None
        for each in self.world.faults.set_backs:
            if first.at <= each.at <= again.at and call_id in each.unsent:
                if first.sender.leaves_at <= again.at:
                    return "who had sent it was gone"
                if again.sender not in each.aware:
                    return "who sent it again could not see that"
                if self.world.faults.troubled(each.at, again.at, *_HINDERED):
                    return "who had sent it was hindered from saying so"
        return None

    def check_stops(self, response: Response) -> Iterator[str]:
        """Check that every stopped run was stopped for a reason: a request, or the time limit."""
        user, row = self.askers.get(response.call_id), self.rows.get(response.call_id)
        for at, answer in response.cancels:
            wished = user is not None and user.asked is not None and user.asked <= at
            # The limit counts from the first claim: a run may wait long until it can be submitted.
            since = response.created if user is None or user.since is None else user.since
            late = at - since >= self.world.plan.settings["research_timeout"] - 30
            # The sender also cancels a response whose run was given up, or sent by another process too.
            twice = len(self.responses[response.call_id]) > 1
            lost = twice or row is None or row["error_code"] == "submission_indeterminate"
            if not (wished or late or lost):
                yield (
                    f"stopped without a reason: {response.call_id}, {at - response.created:.1f} s old, was cancelled "
                    f"at the gateway ({answer})"
                )

    # The ledger

    def check_row(self, row: dict[str, Any]) -> Iterator[str]:
        state, code, name = row["state"], row["error_code"], row["id"]
        responses = self.responses[name]
        whole = [r for r in responses if r.status(self.now) == "completed"]
        if state not in TERMINAL:
            yield f"not ended: {name} is {state} (wish to stop: {bool(row['cancel_requested'])})"
        elif state == "completed":
            if not any(r.text == row["output_text"] for r in whole):
                yield f"wrong text: {name} is completed with {row['output_text']!r}"
        elif state == "cancelled":
            yield from self._check_cancelled(name, whole)
        elif code == "submission_indeterminate":
            yield from self._check_indeterminate(name)
        elif responses and (why := self._why_created_again(name)):
            self.excused[f"failed, though executed before, for the ledger forgot that it was sent, and {why}"] += 1
        elif whole:
            stops = [f"{answer} at {at - 100_000:.3f}" for r in whole for at, answer in r.cancels]
            yield f"paid and thrown away: {name} is {state} ({code}), its response was completed; cancels: {stops}"
        elif code in NEVER_EXECUTED and responses:
            yield f"told as never executed: {name} is {state} ({code}), and was executed"
        yield from self._check_wish(name)

    def _check_cancelled(self, name: str, whole: list[Response]) -> Iterator[str]:
        user = self.askers.get(name)
        asked = self.now if user is None or user.asked is None else user.asked
        if whole and any(name in each.unsent and each.at <= asked for each in self.world.faults.set_backs):
            self.excused["cancelled and paid, for the ledger forgot that it was sent"] += 1
        elif whole:
            seen = [f"{answer} at {at - 100_000:.3f}" for r in whole for at, answer in r.cancels]
            how = "its one cancel met an outage and was not repeated" if seen else "the gateway was never asked"
            yield f"cancelled, and paid to the end: {name}: {how} {seen or ''}"
        if user is None or user.asked is None:
            # The relay may have cancelled it at the time limit; a ledger set back after that forgets the reason.
            stopped = [at for r in self.responses[name] for at, answer in r.cancels if answer == "cancelled"]
            if any(each.at >= at for each in self.world.faults.set_backs for at in stopped):
                self.excused["cancelled for the time limit, which the ledger forgot"] += 1
            else:
                yield f"cancelled, and nobody asked: {name}"

    def _check_indeterminate(self, name: str) -> Iterator[str]:
        world = self.world
        creates = world.gateway.creates.get(name, [])
        fates = {create.fate for create in creates}
        # A blocking model returns its id only at the end: at the time limit its outcome is unknown.
        late = world.plan.blocks and any(
            r.ends - r.created >= world.plan.settings["research_timeout"] - 30 for r in self.responses[name]
        )
        if (
            late
            or fates & AMBIGUOUS
            or world.plan.drop
            or not creates
            or world.faults.set_back(creates[0].at - 1, self.now)
        ):
            return
        begin, end = creates[0].at - 1, world.gateway.answered.get(name, self.now) + 2
        if not world.faults.troubled(begin, end, *_UNCERTAIN):
            yield f"indeterminate without a reason: {name}, the submission met {sorted(fates)}"

    def _check_wish(self, name: str) -> Iterator[str]:
        """Check that an accepted request to stop reaches the gateway, if the run lasts long enough."""
        user, row = self.askers.get(name), self.rows[name]
        if user is None or user.answered is None or self.world.faults.set_back(user.answered[0], self.now):
            return
        at, status = user.answered
        at = max(at, self.world.healed_at or 0.0)
        if row["error_code"] == "submission_indeterminate" and row["upstream_id"] is None:
            self.excused["not stopped, for nobody has the gateway's id"] += 1
            return
        if self.world.plan.blocks:
            self.excused["not stopped, for the gateway gives no id before the end"] += 1
            return
        for response in self.responses[name]:
            if response.cancelled is None and response.ends > at + _GRACE and status not in TERMINAL:
                yield f"a wish to stop was lost: {name}, taken at {at - 100_000:.3f}, ran on"

    # Users

    def check_user(self, user: User) -> Iterator[str]:
        accepted = {one for nonce in user.nonces for one in self.by_nonce[nonce]}
        paid = {r.call_id for r in self.world.gateway.responses.values() if r.nonce in user.nonces}
        if user.plan.mode == "tool":
            yield from self._check_conversation(user)
        elif user.view is not None:
            yield from self._check_answer(user)
        elif user.gone:
            yield from self._check_gone(user)
        elif user.error is not None:
            if (accepted or paid) and not user.ids and user.begun > 1 and not user.plan.own_key:
                self.excused["nothing to continue with, for the client that was killed had made the key up"] += 1
            elif (accepted or paid) and not user.ids:
                told = f"{user.name} was told {str(user.error)!r}"
                yield f"nothing to continue with: {told}, and {_one(accepted | paid)} was accepted"
            elif user.ids:
                yield f"no answer: {user.name} ended with {str(user.error)!r}"
        elif not user.done:
            yield f"no answer: {user.name} still waits"
        if len(user.ids) > 1 and user.plan.mode != "tool":
            if len(set(user.ids) - self.world.faults.forgotten) < 2:
                self.excused["accepted again, for the ledger forgot the first"] += 1
            else:
                yield f"two runs for one key: {user.name} was told {sorted(user.ids)}"
        if user.other is not None and "accepted" in user.other and not self.world.faults.forgotten & set(user.ids):
            yield f"one key, two questions: {user.name} {user.other}"

    def _check_answer(self, user: User) -> Iterator[str]:
        view = user.view
        assert view is not None
        if view.status == "completed" and view.output_text != f"The report on {user.nonces[0]}.":
            yield f"somebody else's answer: {user.name} was told {view.output_text!r}"
        row = self.rows.get(view.invocation_id)
        ends = {(status, text) for _, status, text in user.seen}
        if row is not None:
            ends.add((row["state"], row["output_text"]))
        # A waiting client gets a result that a relay has just committed, even if the ledger has forgotten it since.
        forgot = bool(user.seen) and self.world.faults.set_back(user.seen[0][0] - _TELLING, self.now)
        if len(ends) > 1 and not forgot and len(user.ids) == 1:
            yield f"an end that changed: {user.name} {sorted(map(str, ends))}"

    def _check_gone(self, user: User) -> Iterator[str]:
        if self.world.faults.forgotten & set(user.ids):
            self.excused["gone, for the ledger forgot that it was accepted"] += 1
        elif self._started_ahead():
            self.excused["deleted by a process that started with its clock ahead"] += 1
        else:
            yield f"gone: {user.name} was told that its run is not there"

    def _started_ahead(self) -> bool:
        """Return True if a relay started with its clock ahead of an earlier one's by at least the retention."""
        kept = self.world.plan.settings["retention"] - HOUR
        starts = self.world.starts
        return any(later - earlier >= kept for earlier, later in itertools.combinations(starts, 2))

    def _check_conversation(self, user: User) -> Iterator[str]:
        if (turns := self.world.gateway.turns[user.name]) > 1 + user.begun:  # one more after a death
            yield f"a turn was paid for twice: {user.name} had {turns}"
        if user.result is None and user.error is None:
            yield f"no answer: {user.name} still waits"
        for nonce in user.nonces:
            others = {other for one in self.world.users for other in one.nonces} - set(user.nonces)
            if user.result is not None and any(other in user.result.final_text for other in others):
                yield f"somebody else's answer: {user.name} was told {user.result.final_text!r}"
            told = [call for call in user.conversation.calls if nonce in call.arguments]
            accepted = self.by_nonce[nonce]
            if told and accepted and not any(call.invocation_id for call in told):
                how = f"the model was told {told[0].output!r}" if told[0].output else "its run is not known"
                yield f"nothing to continue with: {user.name}, {how}, and {_one(set(accepted))} was accepted"


def _one(ids: set[str]) -> str:
    return sorted(ids)[0]
