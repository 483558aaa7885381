"""The facts that --verbose shows on stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..calls.answer import Usage, read_response
from ..calls.reply import Reply, key_budget
from ..window import FULL_PRICE, Window
from .ending import Session
from .output import notice

if TYPE_CHECKING:  # a plain answer does not need these modules
    from ..research.contract import Invocation
    from ..research.conversation import ToolCallingResult


def show_reply(session: Session, reply: Reply) -> None:
    """Show the facts about one call."""
    answer, headers, first = reply.answer, reply.headers, session.out.first_at
    ids = ("x-litellm-call-id", "llm_provider-x-request-id", "x-litellm-model-id")
    _show(
        {
            "model": answer.model or session.client.model,
            "response id": answer.id,
            **{name: headers.get(name) for name in ids},
            "retries": f"{reply.retries} here, {headers.get('x-litellm-attempted-retries', '0')} in the gateway",
            "unreadable lines": str(reply.skipped) if reply.skipped else None,
            "tokens": _tokens(answer.usage) or "? in, ? out",
            "budget of the key": _budget(headers),
            "cost": _cost(reply.cost, session.window),
            "first text": None if first is None else f"{first - session.started:.3f} s",
            "total": f"{time.monotonic() - session.started:.3f} s",
        },
    )


def show_run(view: Invocation) -> None:
    """Show the facts about a research run."""
    response = read_response(view.response)
    seconds = (view.updated_at - view.created_at).total_seconds()
    _show(
        {
            "research run": f"{view.invocation_id}, {view.status}",
            "research model": response.model,
            "research tokens": _tokens(response.usage),
            "research cost": _cost(view.cost_usd, view.window),
            "research time": f"{seconds:.1f} s",
        },
    )


def show_turns(session: Session, result: ToolCallingResult) -> None:
    """Show the facts about every turn and research run, and the total cost."""
    for number, turn in enumerate(result.turns, 1):
        facts = {"model": turn.model, "response id": turn.response_id, "tokens": _tokens(turn.usage)}
        facts |= {"cost": _cost(turn.cost), "time": f"{turn.seconds:.3f} s"}
        _show({f"turn {number} {name}": value for name, value in facts.items()})
    for call in result.calls:
        facts = {"": f"{call.invocation_id}, {call.status}", " model": call.model, " tokens": _tokens(call.usage)}
        seconds = None if call.seconds is None else f"{call.seconds:.3f} s"
        facts |= {" cost": _cost(call.cost, call.window), " time": seconds}
        _show({f"research run{name}": value for name, value in facts.items()})
    window = next((call.window for call in result.calls if call.window), None)
    _show({"cost of all": _cost(result.cost, window), "total": f"{time.monotonic() - session.started:.3f} s"})


def show_tokens(usage: Mapping[str, int]) -> None:
    """Show the tokens of all questions, from their sums by name."""
    _show({"tokens": _tokens(Usage(**usage))})


def _cost(dollars: float | None, window: Window | None = None) -> str | None:
    return None if dollars is None else f"{dollars:.6f} USD" + (f" ({FULL_PRICE})" if window else "")


def _budget(headers: Mapping[str, str]) -> str | None:
    """Return what LiteLLM reports about the key's budget; None if it has no limit and nothing was spent."""
    spent, limit = key_budget(headers)
    if limit is None:
        return f"{spent:.6f} USD spent, no limit" if spent else None
    return f"{'?' if spent is None else f'{spent:.6f}'} of {limit:.6f} USD spent"


def _tokens(usage: Usage) -> str | None:
    """Return the tokens and the parts of them that cost less or are not shown; None if the sums are unknown."""
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    reasoning = f" ({usage.reasoning_tokens} reasoning)" if usage.reasoning_tokens else ""
    return f"{_number(usage.input_tokens)} in{cached}, {_number(usage.output_tokens)} out{reasoning}"


def _show(facts: Mapping[str, str | None]) -> None:
    """Print one line for each fact that is known."""
    notice("\n".join(f"{name}: {value}" for name, value in facts.items() if value is not None))


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)
