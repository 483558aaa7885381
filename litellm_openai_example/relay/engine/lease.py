"""The lease of this process: what it may do, by the age of its last heartbeat."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..ledger.states import Ledger


class Lease:
    """The lease of this process, renewed by `beat`.

    Args:
        ledger: opened.
        seconds: time that a silent process keeps its work.

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
        """Renew the lease. Raises LedgerUnavailable."""
        # Taken before the write: the lease must not look younger here than to others.
        began = time.monotonic()
        if await self._ledger.heartbeat():
            self._set_back = time.monotonic()
            self.on_set_back()
        # Perhaps the ledger was away, and no process could renew: the leases of living ones look expired.
        if began - self._last >= self.seconds:
            self._since = began
        self._last = began
        await self._ledger.tell_others()  # last: this process must have stopped claiming first

    @property
    def may_send(self) -> bool:
        """Is the lease certainly still valid for all others?"""
        # The last quarter is the margin for a request that leaves right after this check.
        return time.monotonic() - self._last < self.seconds * 0.75

    @property
    def may_claim(self) -> bool:
        """Can the queue be trusted? One that was set back lists sent runs until their processes correct it."""
        trusted = self._set_back is None or time.monotonic() - self._set_back >= self.seconds
        return self.may_send and trusted

    @property
    def may_declare_dead(self) -> bool:
        """Have all processes had the time to renew their leases since the ledger was last away?"""
        return self.may_claim and time.monotonic() - self._since >= self.seconds
