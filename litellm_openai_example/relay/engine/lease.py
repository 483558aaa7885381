"""The lease of this process: what it may do depends on when it last told the ledger that it lives."""

from __future__ import annotations

import time

from ..ledger.ledger import Ledger


class Lease:
    """Renewed by `beat`.

    Args:
        ledger: opened.
        seconds: how long a process that fell silent keeps its work.
    """

    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self.seconds = seconds
        self._ledger = ledger
        self._last = self._since = 0.0

    async def beat(self) -> None:
        """Renew it. Raises LedgerUnavailable."""
        began = time.monotonic()
        await self._ledger.heartbeat()
        if began - self._last >= self.seconds:
            self._since = began
        self._last = began

    @property
    def may_send(self) -> bool:
        """Whether nobody can believe this process dead yet."""
        return time.monotonic() - self._last < self.seconds * 0.75

    @property
    def may_declare_dead(self) -> bool:
        """Whether all had the time to renew their leases: the ledger itself may have been away."""
        return self.may_send and time.monotonic() - self._since >= self.seconds
