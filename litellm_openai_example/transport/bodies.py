"""Bodies of answers, bounded in time and size while they are read.

A body that exceeds the limit ends there: JSON with its beginning, from which the text can still be read (see
`CUT_SHORT_AT`), a stream of events with an error. The limit applies after decompression; see `packing`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, nullcontext
from datetime import timedelta
from typing import Any

import anyio

from ..errors import ErrorKind, GatewayError
from ..http_library import STREAM_HOLDS_RESPONSE, httpx
from .connections import bounded_io
from .packing import Packing
from .policy import Deadline

# Most bytes of one answer that the command, the library and the relay read. A deep-research response with the output of
# all its tools has about 2 MB.
MAX_ANSWER = 32 * 2**20
# A stream is not kept in memory, and each word of it comes in some 300 bytes.
_STREAM_FACTOR = 8
# The extension of a response whose body was cut off at this many bytes.
CUT_SHORT_AT = "cut_short_at"


def too_large(limit: int) -> GatewayError:
    """Return the error for an answer that is larger than `limit` bytes."""
    return GatewayError(f"the answer is larger than {limit / 2**20:.0f} MB", kind=ErrorKind.ANSWER_TOO_LARGE)


class _Measure:
    """The size of a body while it is read."""

    def __init__(self, response: httpx.Response, limit: int | None) -> None:
        # Without a reference to the response, which holds its body: that would be a cycle.
        self.full = False
        self._extensions = response.extensions
        self._streams = "event-stream" in response.headers.get("content-type", "")
        self._left = limit if limit is None else limit * (_STREAM_FACTOR if self._streams else 1)
        self._limit = self._left

    def count(self, piece: bytes) -> bytes:
        """Return a piece, or the part of it within the limit. Raises GatewayError if a stream exceeds the limit."""
        if self._left is None or len(piece) <= self._left:
            self._left = None if self._left is None else self._left - len(piece)
            return piece
        self.full = True
        if self._streams:
            raise too_large(self._limit or 0)
        self._extensions[CUT_SHORT_AT] = self._limit
        return piece[: self._left]


class _Bounded:
    """The common part of blocking and asynchronous bodies."""

    def __init__(self, response: httpx.Response, until: Deadline | None, limit: int | None) -> None:
        self._stream: Any = response.stream
        self._until = until
        self._measure = _Measure(response, limit)
        self._packing = None if limit is None else Packing.of(response)

    @property
    def elapsed(self) -> timedelta | None:
        """The time the answer took; the response reads it from its stream."""
        return self._stream.elapsed  # type: ignore[no-any-return]

    def _release(self) -> None:
        if STREAM_HOLDS_RESPONSE:
            self._stream = httpx.ByteStream(b"")


class BoundedBody(_Bounded, httpx.SyncByteStream):
    """A blocking body that ends at its deadline, if it has one, and at the limit."""

    def __iter__(self) -> Iterator[bytes]:
        chunks = self._chunks()
        for piece in chunks if self._packing is None else self._packing.unpack(chunks):
            yield self._measure.count(piece)
            if self._measure.full:
                return

    def _chunks(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        while True:
            try:
                # Only around each read: the caller may send other requests between two of them.
                with nullcontext() if self._until is None else bounded_io(self._until):
                    chunk = next(chunks, None)
            except httpx.RequestError as error:
                if self._until is None or not self._until.passed:
                    raise
                raise httpx.ReadTimeout("the deadline of the call passed") from error
            if chunk is None:
                return
            yield chunk

    def close(self) -> None:
        self._stream.close()
        self._release()


class AsyncBoundedBody(_Bounded, httpx.AsyncByteStream):
    """An asynchronous body that ends at its deadline, if it has one, and at the limit."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._chunks()
        # Closed here: the garbage collector would close it in another task.
        async with aclosing(chunks if self._packing is None else self._packing.unpack_async(chunks)) as pieces:
            async for piece in pieces:
                yield self._measure.count(piece)
                if self._measure.full:
                    return

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        chunks = self._stream.__aiter__()
        while True:
            chunk = None
            # The scope must not stay open across the yield: it belongs to the task that reads now.
            with nullcontext() if self._until is None else anyio.move_on_after(self._until.remaining()):
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
            if chunk is None:
                raise httpx.ReadTimeout("the deadline of the call passed")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
        self._release()
