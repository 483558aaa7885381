"""The relay as a whole: builds its parts, starts and stops them in order, and serves the routes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from ..transport.http_clients import AsyncLiteLLMHttpxClient
from .engine.hub import Hub
from .engine.upstream import Upstream
from .engine.worker import Worker
from .http.responses import Problem
from .ledger.acceptance import IdempotencyConflict, QueueFull
from .ledger.database import Database
from .ledger.failures import LedgerUnavailable
from .ledger.leases import new_name
from .ledger.records import NewInvocation, Piece, Record
from .ledger.states import Ledger
from .log import log_run
from .metrics import count_accepted, exposition
from .settings import Settings

T = TypeVar("T")

_RETRY_FULL = 10  # seconds
_CLOSING = 0.5  # seconds that requests wait for the ledger once the process is ending


class Relay:
    """One relay process.

    Args:
        settings: limits, timings, addresses of the gateway and the ledger.
        http_client: sends the requests to the gateway; by default the SDK adapter's.

    Attributes:
        name: of this replica in the ledger.
        failed: True once a loop has ended that the relay cannot work without.
        on_failure: called then.
    """

    def __init__(self, settings: Settings, http_client: AsyncLiteLLMHttpxClient | None = None) -> None:
        self.settings = settings
        timings = settings.timings
        self.name = name = new_name()
        self._database = Database(settings.database_url, name)
        self._upstream = Upstream(
            settings.gateway,
            longest=settings.max_output,
            explicit=settings.request,
            learned=timings.learned,
            http_client=http_client,
        )
        self.ledger = Ledger(
            self._database,
            name,
            lease=timings.lease,
            max_queued=settings.max_queued,
            retention=settings.retention,
            public_url=settings.public_url,
        )
        self._worker = Worker(self.ledger, self._upstream, settings)
        self.hub = Hub(self.ledger, tick=timings.tick, local=lambda: self._worker.jobs.keys())
        self._database.on_change = self.hub.changed
        self._closed_at = 0.0
        self._waiting: set[asyncio.Timeout] = set()
        self.failed = False
        self.on_failure: Callable[[], None] = self.close
        self._worker.on_failure = self._fail

    async def open(self) -> None:
        """Open the ledger. Raises ConfigurationError."""
        await self.ledger.open()

    async def start(self) -> None:
        """Start working. Raises LedgerUnavailable."""
        self.hub.start()
        await self._worker.start()

    def _fail(self) -> None:
        self.failed = True
        self.on_failure()

    def close(self) -> None:
        """Answer all waiting clients, as the process is ending. May be called twice."""
        self._closed_at = self._closed_at or time.monotonic()
        self.hub.close()
        for timeout in self._waiting:
            if timeout.expired():  # its request has not noticed yet, as after a suspension of the machine
                continue
            timeout.reschedule(min(timeout.when() or math.inf, asyncio.get_running_loop().time() + _CLOSING))

    async def stop(self) -> None:
        """Stop working, once submissions in flight have had the rest of their time."""
        # The drain began with `close`: answering clients in the meantime took a part of it.
        self.close()
        drained = time.monotonic() - self._closed_at
        # The worker first: its last submissions need the gateway, and its last writes the ledger.
        await self._worker.stop(max(0.0, self.settings.timings.drain - drained))
        await self.hub.stop()
        await self._upstream.close()
        await self._database.close()

    # For the routes, bounded in time

    async def accept(self, new: NewInvocation) -> Record:
        """Accept an invocation, or find the one that its idempotency key started.

        Raises:
            Problem: the queue is full, the key belongs to other arguments, or the relay is stopping.
            LedgerUnavailable
        """
        self._refuse_if_leaving()
        try:
            record = await self._in_time(self.ledger.accept(new))
        except QueueFull:
            raise Problem("queue_full", retry_after=_RETRY_FULL) from None
        except IdempotencyConflict:
            raise Problem("idempotency_conflict") from None
        # Otherwise the run would wait for the next tick.
        self._worker.wake()
        count_accepted()
        log_run("accepted", record.id, record.payer, mode=record.mode, window=record.window, state=record.state)
        return record

    async def get(self, invocation_id: str) -> Record | None:
        return await self._in_time(self.ledger.get(invocation_id))

    async def pieces(self, record: Record) -> list[Piece]:
        """Return the streamed text of an invocation."""
        return await self._in_time(self.ledger.pieces(record.id)) if record.mode == "stream" else []

    async def cancel(self, invocation_id: str) -> None:
        """Cancel an invocation, or ask the process that runs it to do so."""
        # In the ledger first: if this process dies, or another runs it, the request is still carried out.
        await self._in_time(self.ledger.request_cancel(invocation_id))
        self._worker.cancel(invocation_id)

    async def check_ready(self) -> None:
        """Raise Problem or LedgerUnavailable while the relay cannot accept work."""
        self._refuse_if_leaving()
        await self.ledger.check()

    def _refuse_if_leaving(self) -> None:
        """Raise Problem if this process is stopping or being drained: another one, or the next, takes the start."""
        if self.hub.closing or self._worker.draining:
            raise Problem("shutting_down", retry_after=1)

    async def metrics(self) -> bytes:
        """Return the metrics as text, without the ledger's if it does not answer in time."""
        began, runs = time.monotonic(), None
        windows: dict[str, int] = {}
        with suppress(Exception):
            async with asyncio.timeout(self.settings.timings.ledger):
                runs, windows = await self.ledger.unfinished()
        return exposition(waiters=self.hub.watchers, runs=runs, windows=windows, seconds=time.monotonic() - began)

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(_CLOSING if self.hub.closing else self.settings.timings.ledger) as timeout:
                self._waiting.add(timeout)
                try:
                    return await work
                finally:
                    self._waiting.discard(timeout)
        except TimeoutError:
            raise LedgerUnavailable from None
