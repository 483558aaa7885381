"""`/metrics` in Prometheus's format: this process's counters, and the unfinished runs of the whole ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..calls.answer import Usage
from ..errors import ErrorKind
from ..window import WINDOWS, Window

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAME = "litellm_relay"

_counters = CollectorRegistry()

count_accepted = Counter(f"{_NAME}_accepted", "Accepted starts, repeats included.", registry=_counters).inc
count_submit = Counter(f"{_NAME}_submits", "Requests for a run sent to the gateway.", registry=_counters).inc
count_submitted = Counter(f"{_NAME}_submitted", "Runs that the gateway gave an id.", registry=_counters).inc
_ended = Counter(f"{_NAME}_ended", "Ended runs by state and error code.", ["state", "error_code"], registry=_counters)
_indeterminate = Counter(
    f"{_NAME}_indeterminate", "Runs that may have been paid for without a result.", registry=_counters
)
_cost = Counter(
    f"{_NAME}_cost_usd",
    "Cost of ended runs as the gateway reported it, without the discount of a window.",
    ["model", "window"],
    registry=_counters,
)
_tokens = Counter(
    f"{_NAME}_tokens",
    "Tokens of ended runs as the provider counted them. Cached ones are input too, reasoning ones output.",
    ["model", "kind"],
    registry=_counters,
)
_upstream_errors = Counter(
    f"{_NAME}_upstream_errors", "Failed calls of the gateway by kind.", ["call", "kind"], registry=_counters
)
_adapted = Counter(
    f"{_NAME}_adapted", "Runs submitted with a changed request, by the refusal.", ["kind"], registry=_counters
)
observe_commit = Histogram(
    f"{_NAME}_ledger_commit_seconds",
    "Time that the ledger took to commit a group of changes.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    registry=_counters,
).observe
# A series that exists from the start shows its first error in a rate.
for _call in ("submit", "poll"):
    for _kind in ErrorKind:
        _upstream_errors.labels(_call, _kind.value)
for _kind in (ErrorKind.UNSUPPORTED_TOOL, ErrorKind.UNSUPPORTED_REASONING, ErrorKind.UNSUPPORTED_STORE):
    _adapted.labels(_kind.value)


def count_adapted(kind: ErrorKind) -> None:
    _adapted.labels(kind.value).inc()


def count_ended(state: str, error_code: str | None) -> None:
    _ended.labels(state, error_code or "").inc()
    if error_code == "submission_indeterminate":
        _indeterminate.inc()


def expect_runs(model: str) -> None:
    """Create the series of the costs and tokens of RELAY_MODEL."""
    for window in (None, *WINDOWS):
        count_cost(model, 0.0, window)
    count_tokens(model, Usage())


def count_cost(model: str, cost: float | None, window: Window | None) -> None:
    """Add the US dollars of a run under RELAY_MODEL, and its discount window if it has one."""
    # Not under the name that the gateway answers with: any gateway could then create any number of series. A counter
    # must not fall either, so a negative cost counts as none.
    _cost.labels(model, window or "").inc(max(0.0, cost or 0.0))


def count_tokens(model: str, usage: Usage) -> None:
    """Add the tokens of a run under RELAY_MODEL; those that the provider does not report count as none."""
    kinds = {
        "input": usage.input_tokens,
        "cached": usage.cached_tokens,
        "output": usage.output_tokens,
        "reasoning": usage.reasoning_tokens,
    }
    for kind, count in kinds.items():
        _tokens.labels(model, kind).inc(count or 0)


def count_upstream_error(call: Literal["submit", "poll"], kind: ErrorKind) -> None:
    _upstream_errors.labels(call, kind.value).inc()


def exposition(
    *, waiters: int, runs: Mapping[str, tuple[int, float]] | None, windows: Mapping[str, int], seconds: float
) -> bytes:
    """Return the metrics as text.

    Args:
        waiters: clients that wait or watch at this process.
        runs: the number of unfinished runs and the age of the oldest in seconds, by state; None if the ledger did not
            answer.
        windows: the number of unfinished runs by discount window.
        seconds: that the ledger took to answer.
    """
    # A registry for each answer: a gauge that the ledger did not answer for must be absent, not show its last value.
    registry = CollectorRegistry()
    Gauge(f"{_NAME}_waiters", "Clients that wait or watch at this process.", registry=registry).set(waiters)
    Gauge(f"{_NAME}_ledger_up", "Whether the ledger answers.", registry=registry).set(runs is not None)
    if runs is not None:
        Gauge(f"{_NAME}_ledger_seconds", "Time that the ledger took to answer this.", registry=registry).set(seconds)
        number = Gauge(f"{_NAME}_runs", "Unfinished runs.", ["state"], registry=registry)
        oldest = Gauge(f"{_NAME}_oldest_seconds", "Age of the oldest run of a state.", ["state"], registry=registry)
        in_window = Gauge(f"{_NAME}_window_runs", "Unfinished runs in a window.", ["window"], registry=registry)
        for window, waiting in windows.items():
            in_window.labels(window).set(waiting)
        for state, (count, age) in runs.items():
            number.labels(state).set(count)
            oldest.labels(state).set(age)
    return generate_latest(registry) + generate_latest(_counters)
