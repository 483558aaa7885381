"""A process's memory of its runs, beside the ledger: those that it has sent, and the time of each one's first attempt.

A ledger may be set back, to a backup or to a standby that had not caught up. It then lists runs as queued that this
process has submitted, and that must not be submitted again.
"""

from __future__ import annotations

import math
from collections import OrderedDict

_MOST = 100_000  # the newest runs, about 20 MB


class Memory:
    """The runs that this process may have caused to be executed, and their ids at the gateway."""

    def __init__(self) -> None:
        self._sent: OrderedDict[str, str | None] = OrderedDict()
        self._begun: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, invocation_id: object) -> bool:
        return invocation_id in self._sent

    def sent(self, invocation_id: str) -> None:
        """Note that its submission leaves this machine now."""
        # Before the id is known: from here on it may be executed.
        self._sent[invocation_id] = None
        _bound(self._sent)

    def answered(self, invocation_id: str, upstream_id: str) -> None:
        """Note the id that the gateway has given it."""
        self._sent[invocation_id] = upstream_id
        _bound(self._sent)

    def not_executed(self, invocation_id: str) -> None:
        """Note that it was certainly not executed, so it may be sent again."""
        self._sent.pop(invocation_id, None)

    def upstream_id(self, invocation_id: str) -> str | None:
        """Return the gateway's id of a run that was sent; None until the gateway has answered."""
        return self._sent.get(invocation_id)

    def all_sent(self) -> list[str]:
        return list(self._sent)

    def waits(self, invocation_id: str, begun: float) -> None:
        """Note that it goes back to the queue; `begun` is the start of its first attempt, on the monotonic clock."""
        # The ledger counts only the planned pause; the run may wait longer for a place, and its time limit counts that.
        self._begun[invocation_id] = begun
        _bound(self._begun)

    def begun(self, invocation_id: str) -> float:
        """Return and forget the start of its first attempt here; infinity if there was none."""
        return self._begun.pop(invocation_id, math.inf)


def _bound(known: OrderedDict[str, str | None] | OrderedDict[str, float]) -> None:
    if len(known) > _MOST:
        known.popitem(last=False)
