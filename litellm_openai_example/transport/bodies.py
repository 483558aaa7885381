"""Bodies of answers, bounded in time and in size while they are read.

An answer that is larger than the limit ends there: JSON as a beginning of which the text can still be read (see
`is_cut`), a stream of events with an error. The limit is on what comes out of the decompression, which is therefore
done here.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import anyio
import httpx2

from ..errors import ErrorKind, GatewayError
from .deadline import Deadline, bounded_io

# Bytes of one answer that the command, the library and the relay read at most. A deep-research response with all
# that its tools said has about 2 MB.
MAX_ANSWER = 32 * 2**20
# A stream is not kept as it comes, and wraps each word in some 300 bytes.
_STREAM_FACTOR = 8
_CUT = "cut_short_at"
_PIECE = 2**18


def is_cut(response: httpx2.Response) -> bool:
    """Whether the body that was read is only the beginning, because the answer is larger than the limit."""
    return _CUT in response.extensions


def too_large(limit: int) -> GatewayError:
    """The error of an answer that is larger than the limit (bytes)."""
    return GatewayError(f"the answer is larger than {limit / 2**20:.0f} MB", kind=ErrorKind.ANSWER_TOO_LARGE)


class _Measure:
    """Unpacks the pieces of a body and counts what comes out."""

    def __init__(self, response: httpx2.Response, limit: int | None) -> None:
        # Not the response itself, which holds its body: only the collector would free the two.
        self.full = False
        self._request, self._extensions = response.request, response.extensions
        self._streams = "event-stream" in response.headers.get("content-type", "")
        self._left = limit if limit is None else limit * (_STREAM_FACTOR if self._streams else 1)
        self._limit = self._left
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        self._unpack: Any = None
        if limit is not None and encoding != "identity":
            if encoding not in ("gzip", "x-gzip", "deflate"):
                raise httpx2.DecodingError("its encoding was not asked for", request=response.request)
            del response.headers["content-encoding"]
            self._unpack = zlib.decompressobj(wbits=47)  # finds out by itself which of the two it is

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """What a chunk adds, up to the limit."""
        if self._unpack is None:
            yield from self._count(chunk)
            return
        while chunk and not self.full:
            try:
                yield from self._count(self._unpack.decompress(chunk, _PIECE))
            except zlib.error as error:
                raise httpx2.DecodingError(str(error), request=self._request) from error
            chunk = self._unpack.unconsumed_tail
            if self._unpack.eof:
                chunk, self._unpack = self._unpack.unused_data, zlib.decompressobj(wbits=47)

    def _count(self, piece: bytes) -> Iterator[bytes]:
        if self._left is None or len(piece) <= self._left:
            self._left = None if self._left is None else self._left - len(piece)
            yield piece
            return
        self.full = True
        if self._streams:
            raise too_large(self._limit or 0)
        self._extensions[_CUT] = self._limit
        yield piece[: self._left]


class _Bounded:
    """What the two kinds of bodies have in common."""

    def __init__(self, response: httpx2.Response, until: Deadline | None, limit: int | None) -> None:
        self._stream: Any = response.stream
        self._until = until
        self._measure = _Measure(response, limit)

    @property
    def elapsed(self) -> timedelta | None:
        """How long the answer took, which the response reads here."""
        return self._stream.elapsed  # type: ignore[no-any-return]


class BoundedBody(_Bounded, httpx2.SyncByteStream):
    """A blocking body that ends with the deadline, if it has one of its own, and at the limit."""

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        while not self._measure.full:
            try:
                # Around each read alone: what is sent between two of them has a deadline of its own.
                with nullcontext() if self._until is None else bounded_io(self._until):
                    chunk = next(chunks, None)
            except httpx2.RequestError as error:
                if self._until is None or not self._until.passed:
                    raise
                raise httpx2.ReadTimeout("the deadline of the call passed") from error
            if chunk is None:
                return
            yield from self._measure.pieces(chunk)

    def close(self) -> None:
        self._stream.close()


class AsyncBoundedBody(_Bounded, httpx2.AsyncByteStream):
    """An asynchronous body that ends with the deadline, if it has one of its own, and at the limit."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._stream.__aiter__()
        while not self._measure.full:
            chunk = None
            # The scope must not stay open over the yield: it belongs to the task that reads now.
            with nullcontext() if self._until is None else anyio.move_on_after(self._until.remaining()):
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
            if chunk is None:
                raise httpx2.ReadTimeout("the deadline of the call passed")
            for piece in self._measure.pieces(chunk):
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
