"""Guards of the product, broken one by one: a simulation that misses one of them proves nothing.

Each mutant must cause a finding of its kind in a seed where the intact product has no such finding.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from litellm_openai_example.relay.engine import replies, upstream
from litellm_openai_example.relay.engine.gate import Memory
from litellm_openai_example.relay.engine.job import Job
from litellm_openai_example.relay.engine.poller import Poller
from litellm_openai_example.relay.engine.replies import NotSent, OutcomeUnknown, Replies, Reply
from litellm_openai_example.relay.engine.row import Row
from litellm_openai_example.relay.engine.worker import Worker
from litellm_openai_example.relay.ledger.leases import Leases
from litellm_openai_example.relay.ledger.records import NewInvocation, Record
from litellm_openai_example.relay.ledger.schema import IN_FLIGHT, IS_IN_FLIGHT, invocations
from litellm_openai_example.relay.ledger.states import REQUEUED, Ledger
from litellm_openai_example.research import relay_calls
from litellm_openai_example.research.relay_answers import RelayError
from litellm_openai_example.research.relay_calls import RelayCalls

from .world import simulate

Break = Callable[[], AbstractContextManager[Any]]

_submit_failed, _submitted, _new = replies.submit_failed, Row.submitted, NewInvocation.of
_ask_to_stop, _put_right = Poller.ask_to_stop, Worker._put_right


async def _intent_unseen(_: Row) -> bool:
    return True


async def _requeue_all(self: Ledger, *, may_declare_dead: bool, limit: int) -> Any:
    return await self._change_orphans(IS_IN_FLIGHT, REQUEUED, may_declare_dead, limit)


def _send_again(error: Exception) -> Exception:
    failed = _submit_failed(error)
    return NotSent() if isinstance(failed, OutcomeUnknown) else failed


async def _keep_in_memory(self: Row, upstream_id: str) -> None:
    self.upstream_id = upstream_id


async def _confuse(self: Row, upstream_id: str) -> None:
    await _submitted(self, "resp_1")


def _without_key(arguments: Any, key: str | None, payer: Any) -> NewInvocation:
    return replace(_new(arguments, key, payer), idempotency_hash=None)


async def _tell_nobody(self: Poller) -> Any:
    return self._wish


async def _ask_once(self: Poller) -> Any:
    outcome = await _ask_to_stop(self)
    self._unstoppable = True
    return outcome


async def _put_back(self: Worker, record: Record) -> None:
    if record.state not in IN_FLIGHT or record.id in self.jobs:
        return await _put_right(self, record)
    await self._ledger.requeue(record.id, 0.0)
    return self.wake()


async def _leave_when_cancelled(self: Job, replies: Replies) -> Reply | None:
    while not self._cancel.is_set():
        if (reply := await replies.next(1.0, self._cancel)) is not None:
            return reply
    return None


def _by_the_wall_clock(self: Poller) -> float:
    return time.time() - self._row.record.created_at


def _as_a_failure(_: Any, __: str, ___: object, error: RelayError) -> RelayError:
    return RelayError(error.cause)


def _know_nothing(_: Memory, __: object) -> bool:
    return False


def _believe(_: Any) -> bool:
    return True


async def _reclaim_nothing(self: Ledger, **_: Any) -> list[Any]:
    return []


async def _all_others(self: Leases, *_: Any, **__: Any) -> Any:
    return invocations.c.owner != self._worker


MUTANTS: dict[str, tuple[str, Break]] = {
    "the intent is not committed": ("paid twice", lambda: patch.object(Row, "commit_intent", _intent_unseen)),
    "what was perhaps sent is requeued after a death": (
        "paid twice",
        lambda: patch.object(Ledger, "requeue_orphans", _requeue_all),
    ),
    "an unknown outcome is sent again": ("paid twice", lambda: patch.object(upstream, "submit_failed", _send_again)),
    "the gateway's id is kept in memory alone": (
        "indeterminate without a reason",
        lambda: patch.object(Row, "submitted", _keep_in_memory),
    ),
    "the id of another run is followed": ("wrong text", lambda: patch.object(Row, "submitted", _confuse)),
    "the relay ignores the idempotency key": (
        "two runs for one key",
        lambda: patch.object(NewInvocation, "of", _without_key),
    ),
    "the client sends no idempotency key": (
        "two runs for one key",
        lambda: patch.object(relay_calls, "IDEMPOTENCY_HEADER", "X-Ignored"),
    ),
    "the gateway is not asked to stop": (
        "cancelled, and paid to the end",
        lambda: patch.object(Poller, "ask_to_stop", _tell_nobody),
    ),
    "the gateway is asked to stop but once": (
        "a wish to stop was lost",
        lambda: patch.object(Poller, "ask_to_stop", _ask_once),
    ),
    "a row without a job is requeued": ("paid twice", lambda: patch.object(Worker, "_put_right", _put_back)),
    "a cancel does not wait for the gateway's id": (
        "cancelled, and paid to the end",
        lambda: patch.object(Job, "_first_reply", _leave_when_cancelled),
    ),
    "the time limit goes by the wall clock": (
        "stopped without a reason",
        lambda: patch.object(Poller, "followed", property(_by_the_wall_clock)),
    ),
    "a lost answer to a start is reported as a failure": (
        "nothing to continue with",
        lambda: patch.object(RelayCalls, "unconfirmed", _as_a_failure),
    ),
    "what was sent is not remembered": ("paid twice", lambda: patch.object(Memory, "__contains__", _know_nothing)),
    "pages of a proxy are believed": (
        "paid and thrown away",
        lambda: patch.object(replies, "is_gateway_error", _believe),
    ),
    "running work of the dead is left": ("not ended", lambda: patch.object(Ledger, "reclaim", _reclaim_nothing)),
    "the living are taken for dead": (
        "indeterminate without a reason",
        lambda: patch.object(Leases, "is_orphan", _all_others),
    ),
}


def hunt(seeds: range) -> int:
    """Run seeds until each mutant is found; return the number of mutants missed."""
    missed = 0
    for name, (kind, broken) in MUTANTS.items():
        for number, seed in enumerate(seeds, 1):
            with broken():
                found = [finding for finding in simulate(seed).findings if finding.startswith(kind)]
            if found and not any(finding.startswith(kind) for finding in simulate(seed).findings):
                print(f"{name}: found by seed {seed}, the {number}. that was tried: {found[0]}", flush=True)
                break
        else:
            missed += 1
            print(f"{name}: NOT FOUND by {len(seeds)} seeds", flush=True)
    return missed
