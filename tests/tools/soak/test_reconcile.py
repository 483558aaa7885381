"""The reconciliation finds lost runs, double payments, stuck runs and wrong answers."""

from __future__ import annotations

import pytest

from .reconcile import Post, Run, answer_to, reconcile

QUESTION = "soak question 1"
PAID = Post(100.0, paid=True, answered=True)
REFUSED = Post(90.0, paid=False, answered=False, refused=True)
LOST_ANSWER = Post(100.0, paid=True, answered=False)


def run(status: str | None = "completed", error_code: str | None = None, **more: object) -> Run:
    known = {"ids": {"inv_1"}, "text": answer_to(QUESTION) if status == "completed" else None, **more}
    return Run(QUESTION, status=status, error_code=error_code, **known)  # type: ignore[arg-type]


UNKNOWN = run("failed", "submission_indeterminate")


@pytest.mark.parametrize(
    ("ended", "posts", "kills"),
    [
        (run(), [PAID], []),
        (run(), [REFUSED, PAID], []),
        (run("incomplete", "output_limit_reached"), [Post(100.0, True, True, "incomplete")], []),
        (run("cancelled", "cancelled_by_client", cancelled=True), [], []),
        (UNKNOWN, [LOST_ANSWER], []),
        (UNKNOWN, [Post(100.0, paid=False, answered=False)], []),
        (UNKNOWN, [PAID], [100.5]),
        (UNKNOWN, [], [100.5]),
    ],
)
def test_correct_runs_are_clean(ended: Run, posts: list[Post], kills: list[float]) -> None:
    found = reconcile([ended], {QUESTION: posts}, kills)
    assert found.clean, found


@pytest.mark.parametrize(
    ("what", "ended", "posts", "kills"),
    [
        ("doubled", run(), [PAID, PAID], []),
        ("doubled", run(ids={"inv_1", "inv_2"}), [PAID], []),
        ("lost", run(None), [PAID], []),
        ("lost", run(), [], []),
        ("lost", run("failed", "upstream_failed"), [PAID], []),
        ("lost", run("cancelled", "upstream_cancelled"), [PAID], []),
        ("lost", UNKNOWN, [PAID], []),
        ("lost", UNKNOWN, [REFUSED], []),
        ("lost", UNKNOWN, [PAID], [200.0]),
        ("lost", UNKNOWN, [], []),
        ("stuck", run("running"), [PAID], []),
        ("stuck", run("queued"), [], []),
        ("wrong", run(text="another answer"), [PAID], []),
    ],
)
def test_faulty_runs_are_found(what: str, ended: Run, posts: list[Post], kills: list[float]) -> None:
    found = reconcile([ended], {QUESTION: posts}, kills)
    assert {name for name in ("lost", "doubled", "stuck", "wrong") if getattr(found, name)} == {what}
    assert not found.clean
    assert QUESTION in str(found)
