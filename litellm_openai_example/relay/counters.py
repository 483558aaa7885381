"""What this process has counted since it started, for `/metrics`."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram

from ..errors import ErrorKind

NAME = "litellm_relay"

counters = CollectorRegistry()

count_accepted = Counter(f"{NAME}_accepted", "Starts that were accepted, repeats included.", registry=counters).inc
count_submit = Counter(f"{NAME}_submits", "Requests for a run that were sent to the gateway.", registry=counters).inc
count_submitted = Counter(f"{NAME}_submitted", "Runs whose id the gateway gave.", registry=counters).inc
_ended = Counter(f"{NAME}_ended", "Runs that ended, and why not completed.", ["state", "error_code"], registry=counters)
_indeterminate = Counter(
    f"{NAME}_indeterminate", "Runs that may have been paid for without a result.", registry=counters
)
_cost = Counter(f"{NAME}_cost_usd", "Cost of ended runs as the gateway reported it.", ["model"], registry=counters)
_upstream_errors = Counter(
    f"{NAME}_upstream_errors", "Calls of the gateway that failed, by kind.", ["call", "kind"], registry=counters
)
_adapted = Counter(
    f"{NAME}_adapted",
    "Runs that were submitted otherwise than asked for, because a model refuses a field, by what it refuses.",
    ["kind"],
    registry=counters,
)
observe_commit = Histogram(
    f"{NAME}_ledger_commit_seconds",
    "How long the ledger took to commit a group of changes.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    registry=counters,
).observe
for _call in ("submit", "poll"):  # a series that is there from the start: a rate over its first error is not lost
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


def count_cost(model: str, cost: float | None) -> None:
    """Add the US dollars of a run by RELAY_MODEL, rather than by the name that the gateway answers with."""
    _cost.labels(model).inc(max(0.0, cost or 0.0))


def count_upstream_error(call: Literal["submit", "poll"], kind: ErrorKind) -> None:
    _upstream_errors.labels(call, kind.value).inc()
