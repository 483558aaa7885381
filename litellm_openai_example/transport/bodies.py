"""Bodies of answers, bounded in time and in size while they are read.

An answer that is larger than the limit ends there: JSON as a beginning of which the text can still be read (see
`is_cut`), a stream of events with an error. The limit is on what comes out of the decompression; see `packing`.
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
from .deadline import Deadline
from .packing import Packing

# Bytes of one answer that the command, the library and the relay read at most. A deep-research response with all
# that its tools said has about 2 MB.
MAX_ANSWER = 32 * 2**20
# A stream is not kept as it comes, and wraps each word in some 300 bytes.
_STREAM_FACTOR = 8
_CUT = "cut_short_at"


def is_cut(response: httpx.Response) -> bool:
    """Whether the body that was read is only the beginning, because the answer is larger than the limit."""
    return _CUT in response.extensions


def too_large(limit: int) -> GatewayError:
    """The error of an answer that is larger than the limit (bytes)."""
    return GatewayError(f"the answer is larger than {limit / 2**20:.0f} MB", kind=ErrorKind.ANSWER_TOO_LARGE)


class _Measure:
    """Counts what comes out of a body."""

    def __init__(self, response: httpx.Response, limit: int | None) -> None:
        # Not the response itself, which holds its body: only the collector would free the two.
        self.full = False
        self._extensions = response.extensions
        self._streams = "event-stream" in response.headers.get("content-type", "")
        self._left = limit if limit is None else limit * (_STREAM_FACTOR if self._streams else 1)
        self._limit = self._left

    def count(self, piece: bytes) -> bytes:
        """Return a piece, or what of it is within the limit. Raises GatewayError if a stream reaches the limit."""
        if self._left is None or len(piece) <= self._left:
            self._left = None if self._left is None else self._left - len(piece)
            return piece
        self.full = True
        if self._streams:
            raise too_large(self._limit or 0)
        self._extensions[_CUT] = self._limit
        return piece[: self._left]


class _Bounded:
    """What the two kinds of bodies have in common."""

    def __init__(self, response: httpx.Response, until: Deadline | None, limit: int | None) -> None:
        self._stream: Any = response.stream
        self._until = until
        self._measure = _Measure(response, limit)
        self._packing = None if limit is None else Packing.of(response)

    @property
    def elapsed(self) -> timedelta | None:
        """How long the answer took, which the response reads here."""
        return self._stream.elapsed  # type: ignore[no-any-return]

    def _let_go(self) -> None:
        if STREAM_HOLDS_RESPONSE:
            self._stream = httpx.ByteStream(b"")


class BoundedBody(_Bounded, httpx.SyncByteStream):
    """A blocking body that ends with the deadline, if it has one of its own, and at the limit."""

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
                # Around each read alone: what is sent between two of them has a deadline of its own.
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
        self._let_go()


class AsyncBoundedBody(_Bounded, httpx.AsyncByteStream):
    """An asynchronous body that ends with the deadline, if it has one of its own, and at the limit."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._chunks()
        # Closed here: what is left to the collector would be closed in whatever task comes next.
        async with aclosing(chunks if self._packing is None else self._packing.unpack_async(chunks)) as pieces:
            async for piece in pieces:
                yield self._measure.count(piece)
                if self._measure.full:
                    return

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        chunks = self._stream.__aiter__()
        while True:
            chunk = None
            # The scope must not stay open over the yield: it belongs to the task that reads now.
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
        self._let_go()
