"""The outcome of an invocation as a reply of the gateway reports it, and the part of the reply that is kept.

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
from collections.abc import Iterator, Mapping
from typing import Any

from ...calls.answer import Answer, read_cost
from ...calls.finish_reasons import CutKind
from ...calls.reply import response_cost
from ...json_object import JsonObject, within_depth
from ..ledger.records import Outcome

_MOST_SOURCES = 1000
_LONGEST_URL = 2000
_LONGEST_TITLE = 500
_HEAD = 200  # characters that are left of a text that is shortened
_CUT_OFF = " [...]"
_KEPT = ("object", "model", "status", "output", "usage", "incomplete_details")
_CUTS = {
    CutKind.TOO_LARGE: "output_too_large",
    CutKind.LIMIT: "output_limit_reached",
    CutKind.FILTER: "content_filtered",
}
# PostgreSQL stores no NUL, and no database or JSON text half of a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def outcome_of(answer: Answer, body: object, headers: Mapping[str, str], *, longest: int) -> Outcome | None:
    """Return the outcome of the invocation, None if it has not ended.

    Args:
        answer, body, headers: the reply, parsed and raw.
        longest: most characters of text to store.
    """
    state, code = _verdict(answer)
    if state is None:
        return None
    # For every end: the text of a failed or cancelled run was paid for as well.
    text: str | None = storable(answer.text) or None
    if text is not None and len(text) > longest:
        text = text[:longest]
        state, code = ("incomplete", "output_too_large") if state == "completed" else (state, code)
    return Outcome(state, code, text, _kept(answer, body, headers, longest))


def storable(text: str) -> str:
    """Return `text` with unstorable characters replaced."""
    return _UNSTORABLE.sub("\ufffd", text)


def _verdict(answer: Answer) -> tuple[str | None, str | None]:
    if answer.status == "cancelled":
        return "cancelled", "upstream_cancelled"
    if answer.status == "incomplete":
        kind = answer.cut_short.kind if answer.cut_short else CutKind.OTHER
        return "incomplete", _CUTS.get(kind, "upstream_incomplete")
    if answer.status not in ("completed", "failed"):
        return None, None
    if answer.failed:
        return "failed", "upstream_failed"
    if answer.text.strip():
        return "completed", None
    return "failed", "model_refused" if answer.refusal else "empty_output"


def _kept(answer: Answer, body: object, headers: Mapping[str, str], longest: int) -> JsonObject | None:
    """Return the part of a response that clients see: not the request in it, which may hold secrets of the tools.

    Besides fields of the response it holds `sources` and `cost_usd`, which the view shows beside the response.
    """
    # The words of a provider's failure may hold anything, so they are not passed on.
    if not isinstance(body, dict) or answer.status == "failed":
        return None
    whole = {name: body[name] for name in _KEPT if body.get(name) is not None}
    kept = within_depth(whole)
    if kept is not whole:
        kept["shortened"] = True
    kept = _shortened({name: _scrub(value) for name, value in kept.items()}, 4 * longest)
    if answer.sources:
        sources = [source for source in answer.sources if len(source.url) <= _LONGEST_URL][:_MOST_SOURCES]
        kept["sources"] = [{"url": storable(s.url), "title": storable(s.title)[:_LONGEST_TITLE]} for s in sources]
    cost = _cost(body, headers)
    return kept if cost is None else {**kept, "cost_usd": cost}


def _scrub(value: object) -> object:
    """Return `value` with unstorable characters replaced, and NaN and infinite numbers by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_scrub(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): _scrub(item) for key, item in value.items()}
    return value


def _cost(body: JsonObject, headers: Mapping[str, str]) -> float | None:
    """Return the cost in US dollars: from the usage, where a stream's last event has it, otherwise from the headers."""
    usage = body.get("usage")
    told = read_cost(usage.get("cost")) if isinstance(usage, dict) else None
    return response_cost(headers) if told is None else told


def _shortened(response: JsonObject, most: int) -> JsonObject:
    """Return `response` with at most `most` characters of JSON; `shortened` is true in it if a part is missing.

    The outputs and logs of tools go first: the long texts of all items that are not messages, addresses excepted, and
    then these items. The texts of the messages follow, which the view shows anyway. The messages' annotations, which
    name the sources, go last.
    """
    if _fits(response, most):
        return response
    output = response.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    # Step by step: each step is tried only if the one before is still too large.
    for less in _ever_less(items):
        made = {**response, "output": less, "shortened": True}
        if _fits(made, most):
            return made
    # The little that always fits.
    kept = {name: response[name] for name in ("model", "status") if isinstance(response.get(name), str)}
    return {**kept, "shortened": True}


def _ever_less(items: list[JsonObject]) -> Iterator[list[JsonObject]]:
    items = [item if item.get("type") == "message" else _cut(item) for item in items]
    yield items
    for kinds in (("message", "web_search_call"), ("message",)):
        items = [item for item in items if item.get("type") in kinds]
        yield items
    yield [_cut(item) for item in items]
    yield []


def _cut(value: Any) -> Any:
    """Return `value` with its long texts cut off, addresses excepted."""
    if isinstance(value, str):
        return value if len(value) <= _HEAD else value[:_HEAD] + _CUT_OFF
    if isinstance(value, list):
        return [_cut(one) for one in value]
    if isinstance(value, dict):
        return {name: one if name == "url" else _cut(one) for name, one in value.items()}
    return value


def _fits(value: object, most: int) -> bool:
    """Does `value` have at most `most` characters of JSON?"""
    # The sum of the texts first: it spares serializing a value that is clearly larger.
    return _text_size(value) <= most and len(json.dumps(value)) <= most


def _text_size(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_text_size, value))
    return sum(map(_text_size, value.values())) if isinstance(value, dict) else 0
