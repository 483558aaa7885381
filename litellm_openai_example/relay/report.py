"""`litellm-relay list` and `cost`: reports on the ledger, without a gateway and without changes."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ColumnElement, Row, Select, case, cast, func, select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from ..calls.answer import read_cost
from ..errors import one_line
from ..json_object import JsonObject
from ..research.contract import TERMINAL
from ..window import FULL_PRICE
from .ledger.records import when
from .ledger.schema import ACTIVE, IS_ACTIVE, IS_ENDED, IS_QUEUED, db_now, in_state, invocations
from .ledger.visit import visit

STATES = ("queued", *ACTIVE, *sorted(TERMINAL))
MOST = 1000

_row = invocations.c
_LISTED = (
    *(_row.id, _row.state, _row.mode, _row.owner, _row.error_code),
    *(_row.created_at, _row.updated_at, _row.cost_usd, _row.tags, _row.completion_window),
)


def listed(state: str | None) -> list[Select[Any]]:
    """Return the queries of `list`: unfinished runs (by an index), or the newest 1,000 in one state."""
    found = select(*_LISTED, (db_now() - _row.created_at).label("age")).limit(MOST)
    if state is None:
        return [found.where(where).order_by(_row.created_at) for where in (IS_ACTIVE, IS_QUEUED)]
    if state in TERMINAL:
        return [found.where(IS_ENDED, in_state(_row, [state])).order_by(_row.updated_at.desc())]
    return [
        found.where(IS_QUEUED if state == "queued" else IS_ACTIVE, in_state(_row, [state])).order_by(_row.created_at)
    ]


def spent(since: float, *, postgresql: bool) -> Select[Any]:
    """Return the query of `cost`: runs that have ended since a time, in seconds since 1970."""
    # SQLite parses 1,000 levels of JSON; a deeper row must not fail the report.
    model: ColumnElement[Any] = case((func.json_valid(_row.response), func.json_extract(_row.response, "$.model")))
    if postgresql:
        model = cast(_row.response, JSON)["model"].as_string()
    columns = (_row.updated_at, _row.cost_usd, _row.completion_window, model.label("model"))
    return select(*columns).where(IS_ENDED, _row.updated_at >= since)


def list_runs(url: URL, state: str | None, *, as_json: bool) -> str:
    """Return the unfinished runs, or those in `state`, as lines of text or as JSON.

    Raises:
        ConfigurationError: the ledger cannot be read.
    """
    runs = [_run(row) for row in _read(url, listed(state))]
    if as_json:
        return json.dumps(runs, indent=1)
    lines = [
        f"{run['id']}  {run['state']:<10}  {run['mode']:<10}  {run['seconds']:>8.0f} s  {_dollars(run['cost_usd']):>12}"
        f"  {run['error_code'] or run['replica'] or ''}{_window(run)}".rstrip()
        for run in runs
    ]
    return "\n".join(lines or ["no runs"])


def cost_of_runs(url: URL, since: datetime, *, as_json: bool) -> str:
    """Return the cost of the runs that have ended since then, by day (UTC) and model, without any window's discount.

    Raises:
        ConfigurationError: the ledger cannot be read.
    """
    query = spent(since.timestamp(), postgresql=url.get_backend_name() == "postgresql")
    sums: dict[tuple[str, str], tuple[int, float, int, int]] = {}
    for row in _read(url, [query]):
        key = f"{when(row.updated_at):%Y-%m-%d}", str(row.model or "")
        runs, dollars, unknown, windows = sums.get(key, (0, 0.0, 0, 0))
        # A run of unknown cost is counted apart: a sum that takes it for free would look complete.
        cost = read_cost(row.cost_usd)
        in_window = row.completion_window is not None
        sums[key] = runs + 1, dollars + (cost or 0.0), unknown + (cost is None), windows + in_window
    costs: list[JsonObject] = [
        {
            "day": day,
            "model": model or None,
            "runs": runs,
            "cost_usd": round(dollars, 6),
            "cost_unknown": unknown,
            "in_window": windows,
        }
        for (day, model), (runs, dollars, unknown, windows) in sorted(sums.items())
    ]
    if as_json:
        return json.dumps(costs, indent=1)
    lines = [
        f"{one['day']}  {one['runs']:>6} runs  {_dollars(one['cost_usd']):>14}  "
        + one_line(one["model"] or "(no model)")  # the gateway's text, which a terminal must not interpret
        + (f"  ({one['cost_unknown']} of unknown cost)" if one["cost_unknown"] else "")
        + (f"  ({one['in_window']} in a window: {FULL_PRICE})" if one["in_window"] else "")
        for one in costs
    ]
    return "\n".join(lines or ["no runs have ended"])


def _run(row: Any) -> JsonObject:
    ended = row.state in TERMINAL
    return {
        "id": row.id,
        "state": row.state,
        "mode": row.mode,
        "replica": row.owner,
        "error_code": row.error_code,
        "seconds": round(max(0.0, row.updated_at - row.created_at if ended else row.age), 1),
        "cost_usd": row.cost_usd,
        "window": row.completion_window,
        "created_at": when(row.created_at).isoformat(),
        "updated_at": when(row.updated_at).isoformat(),
        "payer": json.loads(row.tags) if row.tags else None,
    }


def _window(run: JsonObject) -> str:
    if run["window"] is None:
        return ""
    return f"  window {run['window']}" + (f" ({FULL_PRICE})" if run["cost_usd"] is not None else "")


def _dollars(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.4f} USD"


def _read(url: URL, queries: list[Select[Any]]) -> list[Row[Any]]:
    async def work(connection: AsyncConnection) -> list[Row[Any]]:
        return [row for query in queries for row in await connection.execute(query)]

    return visit(url, lambda database: database.read(work))
