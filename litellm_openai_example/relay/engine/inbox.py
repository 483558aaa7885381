"""Replies of the gateway, read in a task of their own: waiting for one can end early without breaking the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self

from .upstream import Reply

_AHEAD = 256


class Inbox:
    """What arrives from `replies`, which are closed with the block."""

    def __init__(self, replies: AsyncIterator[Reply]) -> None:
        self.ended = False
        self._replies = replies
        self._arrived: asyncio.Queue[Reply | Exception | None] = asyncio.Queue(_AHEAD)

    async def next(self, timeout: float, unless: asyncio.Event | None = None) -> Reply | None:
        """The next reply; None if there is none within `timeout` seconds, or `unless` is set, or they have `ended`.

        Raises whatever the replies raise.
        """
        getting = asyncio.ensure_future(self._arrived.get())
        waits: set[asyncio.Future[object]] = {getting}  # type: ignore[arg-type]
        if unless is not None:
            waits.add(asyncio.ensure_future(unless.wait()))
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not getting.done() or getting.cancelled():  # a cancelled get takes nothing out of the queue
            return None
        item = getting.result()
        if isinstance(item, Exception):
            raise item
        self.ended = item is None
        return item

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _read(self) -> None:
        try:
            async for reply in self._replies:
                await self._arrived.put(reply)
        except Exception as error:
            await self._arrived.put(error)
        else:
            await self._arrived.put(None)
