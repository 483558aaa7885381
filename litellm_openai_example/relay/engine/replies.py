"""A reply of the gateway, and the replies of one submission as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..ledger.records import Outcome


@dataclass(frozen=True)
class Reply:
    """One reply of the gateway about a response.

    Attributes:
        response_id: as in this reply; only that of the first reply can be retrieved.
        outcome: the end of the response, None while it runs.
        poll_after: seconds until the next poll, if the gateway asks for a pause.
        text: streamed text that this reply adds.
        known: False if the reply says nothing about the response.
        streaming: True for an event of a stream; more may follow.
        model: the model that answers, if the reply names one.
    """

    response_id: str | None = None
    outcome: Outcome | None = None
    poll_after: float | None = None
    text: str = ""
    known: bool = True
    streaming: bool = False
    model: str | None = None
    # Never true of a reply, but perhaps of `PollFailed`: callers read both alike.
    missing: ClassVar[bool] = False
    hopeless: ClassVar[bool] = False
    outage: ClassVar[bool] = False


class Replies:
    """The replies of one submission, each awaited in a task, so that a wait can end early without breaking the stream.

    Args:
        replies: closed at the end of the block.

    Attributes:
        ended: True once the last reply has been taken.
    """

    def __init__(self, replies: AsyncGenerator[Reply, None]) -> None:
        self.ended = False
        self._replies = replies
        self._pending: asyncio.Task[Reply | None] | None = None

    async def next(self, timeout: float, unless: asyncio.Event | None = None) -> Reply | None:
        """Return the next reply; None after `timeout` seconds, once `unless` is set, or after the last reply.

        Raises the exception that ends the replies.
        """
        if self._pending is None:
            self._pending = asyncio.create_task(self._read())
        waits: list[asyncio.Task[Any]] = [self._pending]
        if unless is not None:
            waits.append(asyncio.create_task(unless.wait()))
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits[1:]:
                wait.cancel()
        if not self._pending.done():  # it stays pending: cancelling it would break the stream
            return None
        done, self._pending = self._pending, None
        reply = done.result()
        self.ended = reply is None
        return reply

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        # A generator that is running cannot be closed: its read has to end first.
        if self._pending is not None:
            self._pending.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._pending
        await self._replies.aclose()

    async def _read(self) -> Reply | None:
        return await anext(self._replies, None)
