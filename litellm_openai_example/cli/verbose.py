"""The facts that --verbose shows on stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..calls.answer import Usage, read_response
from ..calls.reply import Reply, key_budget
from .output import notice
from .session import Session

if TYPE_CHECKING:  # most commands do without
    from ..research.contract import Invocation
    from ..research.loop import ToolCallingResult


def tell(session: Session, reply: Reply) -> None:
    """The facts about one call."""
    answer, headers, first = reply.answer, reply.headers, session.out.first_at
    ids = ("x-litellm-call-id", "llm_provider-x-request-id", "x-litellm-model-id")
    show(
        {
            "model": answer.model or session.client.model,
            "response id": answer.id,
            **{name: headers.get(name) for name in ids},
            "retries": f"{reply.retries} here, {headers.get('x-litellm-attempted-retries', '0')} in the gateway",
            "unreadable lines": str(reply.skipped) if reply.skipped else None,
            "tokens": tokens(answer.usage) or "? in, ? out",
            "budget of the key": budget(headers),
            "cost": cost(reply.cost),
            "first text": None if first is None else f"{first - session.started:.3f} s",
            "total": f"{time.monotonic() - session.started:.3f} s",
        },
    )


def tell_run(view: Invocation) -> None:
    """The facts about a research run."""
    response = read_response(view.response)
    seconds = (view.updated_at - view.created_at).total_seconds()
    show(
        {
            "research run": f"{view.invocation_id}, {view.status}",
            "research model": response.model,
            "research tokens": tokens(response.usage),
            "research cost": cost(view.cost_usd),
            "research time": f"{seconds:.1f} s",
        },
    )


def tell_turns(session: Session, result: ToolCallingResult) -> None:
    """The facts about every turn, and the research between them."""
    for number, turn in enumerate(result.turns, 1):
        told = {"model": turn.model, "response id": turn.response_id, "tokens": tokens(turn.usage)}
        told |= {"cost": cost(turn.cost), "time": f"{turn.seconds:.3f} s"}
        show({f"turn {number} {name}": value for name, value in told.items()})
    for call in result.calls:
        told = {"": f"{call.invocation_id}, {call.status}", " model": call.model, " tokens": tokens(call.usage)}
        told |= {" cost": cost(call.cost), " time": None if call.seconds is None else f"{call.seconds:.3f} s"}
        show({f"research run{name}": value for name, value in told.items()})
    show({"cost of all": cost(result.cost), "total": f"{time.monotonic() - session.started:.3f} s"})


def cost(dollars: float | None) -> str | None:
    """In words; None where it is not known."""
    return None if dollars is None else f"{dollars:.6f} USD"


def budget(headers: Mapping[str, str]) -> str | None:
    """What LiteLLM says of the key, in words; None where it has no limit and nothing was spent."""
    spent, limit = key_budget(headers)
    if limit is None:
        return f"{spent:.6f} USD spent, no limit" if spent else None
    return f"{'?' if spent is None else f'{spent:.6f}'} of {limit:.6f} USD spent"


def tokens(usage: Usage) -> str | None:
    """In words; None where nothing is known."""
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    return f"{_number(usage.input_tokens)} in, {_number(usage.output_tokens)} out"


def show(named: Mapping[str, str | None]) -> None:
    """One line each, without what is not known."""
    notice("\n".join(f"{name}: {value}" for name, value in named.items() if value is not None))


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)
