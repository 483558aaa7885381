"""What a reply of the gateway means for an invocation, and what of it is kept.

======================================= ============ ==========================
the reply says                          state        error code
======================================= ============ ==========================
completed, with text                    completed    -
completed, a refusal                    failed       model_refused
completed, without text                 failed       empty_output
completed, with an error                failed       upstream_failed
failed                                  failed       upstream_failed
incomplete                              incomplete   by its reason
cancelled                               cancelled    upstream_cancelled
anything else                           (not ended)
======================================= ============ ==========================
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ...answer import Answer
from .records import Outcome

COST_HEADER = "x-litellm-response-cost"
_KEPT = ("object", "model", "status", "output", "usage", "incomplete_details")
_REASONS = (
    (re.compile("max|length|limit"), "output_limit_reached"),
    (re.compile("filter|safety|policy"), "content_filtered"),
)
# PostgreSQL stores no NUL, and no database or JSON text half of a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def judge(answer: Answer, body: object, headers: Mapping[str, str], *, longest: int) -> Outcome | None:
    """How the invocation ended, None if it has not ended.

    Args:
        answer, body, headers: the reply, as read and as it came.
        longest: characters of text that are stored.
    """
    state, code = _verdict(answer)
    if state is None:
        return None
    text: str | None = storable(answer.text) or None
    if text is not None and len(text) > longest:
        text = text[:longest]
        state, code = ("incomplete", "output_too_large") if state == "completed" else (state, code)
    return Outcome(state, code, text, _kept(answer, body, headers, longest))


def storable(text: str) -> str:
    """`text` with what cannot be stored replaced."""
    return _UNSTORABLE.sub("\ufffd", text)


def _verdict(answer: Answer) -> tuple[str | None, str | None]:
    if answer.status == "cancelled":
        return "cancelled", "upstream_cancelled"
    if answer.status == "incomplete":
        reason = (answer.cut_short or "").lower()
        return "incomplete", next((code for words, code in _REASONS if words.search(reason)), "upstream_incomplete")
    if answer.status not in ("completed", "failed"):
        return None, None
    if answer.failed:
        return "failed", "upstream_failed"
    if answer.text.strip():
        return "completed", None
    return "failed", "model_refused" if answer.refusal else "empty_output"


def _kept(answer: Answer, body: object, headers: Mapping[str, str], longest: int) -> dict[str, Any] | None:
    """The part of a response that is shown: not what was asked, which may hold secrets of the relay's tools."""
    if not isinstance(body, dict) or answer.status == "failed":
        return None  # the words of a provider's failure are not passed on
    kept = {name: body[name] for name in _KEPT if body.get(name) is not None}
    try:
        kept = _scrub(kept)
        size = len(json.dumps(kept, allow_nan=False))
    except (ValueError, RecursionError):
        size = None
    if size is None or size > 4 * longest:
        kept = {name: storable(kept[name]) for name in ("model", "status") if isinstance(kept.get(name), str)}
    cost = _cost(headers)
    return kept if cost is None else {**kept, "cost_usd": cost}


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_scrub(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): _scrub(item) for key, item in value.items()}
    return value


def _cost(headers: Mapping[str, str]) -> float | None:
    try:
        cost = float(headers.get(COST_HEADER, ""))
    except ValueError:
        return None
    return cost if math.isfinite(cost) and cost >= 0 else None
