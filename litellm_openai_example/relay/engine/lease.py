"""The lease of this process: what it may do depends on when it last told the ledger that it lives."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..ledger.states import Ledger


class Lease:
    """Renewed by `beat`.

    Args:
        ledger: opened.
        seconds: how long a process that fell silent keeps its work.

    Attributes:
        on_set_back: called when the ledger may have been set back.
    """

    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self.seconds = seconds
        self.on_set_back: Callable[[], None] = lambda: None
        self._ledger = ledger
        self._last = self._since = 0.0
        self._set_back: float | None = None

    async def beat(self) -> None:
        """Renew it. Raises LedgerUnavailable."""
        began = time.monotonic()
        if await self._ledger.heartbeat():
            self._set_back = time.monotonic()
            self.on_set_back()
        if began - self._last >= self.seconds:
            self._since = began
        self._last = began
        await self._ledger.tell_others()  # after this process has noted it: meanwhile it must not claim

    @property
    def may_send(self) -> bool:
        """Whether nobody can believe this process dead yet."""
        return time.monotonic() - self._last < self.seconds * 0.75

    @property
    def may_claim(self) -> bool:
        """Whether the queue may be trusted: one that was set back lists what others have sent until they say so."""
        trusted = self._set_back is None or time.monotonic() - self._set_back >= self.seconds
        return self.may_send and trusted

    @property
    def may_declare_dead(self) -> bool:
        """Whether all had the time to renew their leases: the ledger itself may have been away."""
        return self.may_claim and time.monotonic() - self._since >= self.seconds
