"""The facts that --verbose shows on stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..calls.answer import Usage
from ..calls.reply import Reply
from ..transport.headers import key_budget
from .output import notice
from .session import Session


def tell(session: Session, reply: Reply) -> None:
    """Of one call."""
    first = session.out.first_at
    show(
        {
            **facts(session, reply),
            "first text": None if first is None else f"{first - session.started:.3f} s",
            "total": f"{time.monotonic() - session.started:.3f} s",
        },
    )


def facts(session: Session, reply: Reply) -> dict[str, str | None]:
    """What a reply tells of its call."""
    answer, headers, usage = reply.answer, reply.headers, reply.answer.usage
    return {
        "model": answer.model or session.client.model,
        "response id": answer.id,
        **{name: headers.get(name) for name in ("x-litellm-call-id", "llm_provider-x-request-id")},
        "x-litellm-model-id": headers.get("x-litellm-model-id"),
        "retries": f"{reply.retries} here, {headers.get('x-litellm-attempted-retries', '0')} in the gateway",
        "tokens": tokens(usage) or "? in, ? out",
        "budget of the key": budget(headers),
        "cost": cost(reply.cost, queued=answer.status in ("queued", "in_progress")),
    }


def cost(dollars: float | None, *, queued: bool = False) -> str | None:
    """In words; None where it is not known. A job that is queued has cost nothing yet, whatever the gateway says."""
    return None if dollars is None or (queued and not dollars) else f"{dollars:.6f} USD"


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
    lines = "\n".join(f"{name}: {value}" for name, value in named.items() if value is not None)
    notice(lines)


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)
