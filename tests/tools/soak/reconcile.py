"""Reconciliation of the clients' runs with the provider's log: none lost, paid twice or stuck."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

ENDED = ("completed", "incomplete", "failed", "cancelled")
# A submission shortly before a kill may have been answered without the answer reaching the ledger.
NEAR = 2.0  # seconds


@dataclass
class Post:
    """One request at the provider.

    Attributes:
        at: seconds on the monotonic clock.
        paid: True if it was executed.
        answered: True if the relay got an answer that names the response.
        refused: True if the answer says that it was not executed; a 5xx does not.
        ends_as: the terminal status of the response.
        seconds: time until it was answered.
    """

    at: float
    paid: bool
    answered: bool
    ends_as: str = "completed"
    seconds: float = 0.0
    refused: bool = False


@dataclass
class Run:
    """One accepted research run.

    Attributes:
        ids: the ids returned to the client; a repeated start must return the same.
        status, error_code, text: of the terminal view; the status is empty if the relay does not know the run.
        cancelled: True if a client cancelled it.
    """

    question: str
    ids: set[str] = field(default_factory=set)
    token: str = ""
    cancelled: bool = False
    status: str | None = None
    error_code: str | None = None
    text: str | None = None


@dataclass
class Reconciliation:
    """Faulty runs by their fault, the ends of all runs, and the reasons for unknown ones."""

    runs: int
    paid: int
    ended: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.stuck or self.wrong)

    def __str__(self) -> str:
        ways = ", ".join(f"{count} {way}" for way, count in self.ended.most_common())
        why = ", ".join(f"{count} {reason}" for reason, count in self.unknown.most_common())
        lines = [
            f"accepted {self.runs}, paid {self.paid}; {ways}{f' ({why})' if why else ''}",
            f"lost {len(self.lost)}, doubled {len(self.doubled)}, stuck {len(self.stuck)}, wrong {len(self.wrong)}",
        ]
        for name in ("lost", "doubled", "stuck", "wrong"):
            lines += [f"  {name}: {one}" for one in getattr(self, name)[:20]]
        return "\n".join(lines)


def reconcile(runs: Sequence[Run], posts: dict[str, list[Post]], kills: Sequence[float]) -> Reconciliation:
    """Compare every accepted run with the provider's log.

    Args:
        posts: the provider's log, by question.
        kills: times of the kills on the monotonic clock.
    """
    found = Reconciliation(len(runs), sum(post.paid for sent in posts.values() for post in sent))
    for question, sent in posts.items():
        if sum(post.paid for post in sent) > 1:
            found.doubled.append(f"{question}: paid {sum(post.paid for post in sent)} times")
    for run in runs:
        sent = posts.get(run.question, [])
        later = [kill - sent[-1].at for kill in kills if sent and kill > sent[-1].at]
        next_kill = f", the next kill {min(later):.1f} s later" if later else ""
        how = f"{run.question}: {run.status} {run.error_code or ''}, {sent}{next_kill}"
        found.ended[f"{run.status} {run.error_code}" if run.error_code else str(run.status)] += 1
        if len(run.ids) != 1:
            found.doubled.append(f"{run.question}: {len(run.ids)} invocations for one key")
        if run.status is None:
            found.lost.append(how)
        elif run.status not in ENDED:
            found.stuck.append(how)
        elif run.error_code == "submission_indeterminate":
            if why := _why_unknown(sent, kills):
                found.unknown[why] += 1
            else:
                found.lost.append(how)
        elif run.status != _expected(run, sent):
            found.lost.append(how)
        elif run.status == "completed" and run.text != answer_to(run.question):
            found.wrong.append(f"{run.question}: {run.text!r}")
    return found


def answer_to(question: str) -> str:
    return f"The answer to {question}."


def _why_unknown(sent: Sequence[Post], kills: Sequence[float]) -> str:
    """Return the reason why a run's payment cannot be known; empty if it should be known."""
    if not sent:
        return "killed between mark and first byte" if kills else ""
    last = sent[-1]
    if not (last.answered or last.refused):
        return "broken by the provider"
    killed = any(last.at - NEAR <= kill <= last.at + last.seconds + NEAR for kill in kills)
    return "killed in flight" if killed else ""


def _expected(run: Run, sent: Sequence[Post]) -> str | None:
    paid = next((post for post in sent if post.paid), None)
    if run.error_code == "gateway_rejected_request":
        return "failed" if paid is None and sent and sent[-1].refused else None
    if run.cancelled and run.status == "cancelled":
        return "cancelled"
    return paid.ends_as if paid is not None and paid.answered else None
