"""Decompression of bodies, piece by piece, so that the result can be bounded.

The HTTP library decompresses by the header alone. Proxies change the header without the body or the reverse, so here
the first bytes decide. For gzip the library reads only the first member, but some servers write one per flush.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import cache
from itertools import chain

from ..errors import one_line
from ..http_library import httpx

_ENOUGH = 16  # bytes that suffice to tell text from compressed data
_PIECE = 2**18  # bytes that gzip yields at once
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_EXTRAS = {"br": "brotli", "zstd": "zstd"}  # encodings that need an extra of the HTTP library, and its name
_ENCODINGS = ("gzip", "deflate", *_EXTRAS)


class Packing:
    """The compression of a body.

    Args:
        encodings: the encodings in the header, in the order of their application.
        lenient: treat a body that cannot be decompressed as empty, because the status says more.
    """

    def __init__(self, encodings: list[str], lenient: bool) -> None:
        self._encodings = encodings
        self._lenient = lenient
        self._start = b""

    @classmethod
    def of(cls, response: httpx.Response) -> Packing | None:
        """Return the compression named in the headers of an answer, and remove that header; None without it."""
        given = response.headers.pop("content-encoding", "")
        names = [name.strip().lower().removeprefix("x-") for name in given.split(",")]
        encodings = [name for name in names if name not in ("", "identity")]
        return cls(encodings, response.status_code >= 400) if encodings else None

    def unpack(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Decompress a body. Raises httpx.DecodingError if that fails."""
        try:
            for chunk in chunks:
                if self._begin(chunk):
                    break
            whole = chain([self._start], chunks)
            encodings = self._found()
            if encodings == ["gzip"]:
                yield from _Gunzip().pieces(whole)
            else:
                yield from _decoded(encodings, whole).iter_bytes() if encodings else whole
        except httpx.DecodingError as error:
            self._fail(error)

    async def unpack_async(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Decompress a body; see `unpack`."""
        try:
            async for chunk in chunks:
                if self._begin(chunk):
                    break
            whole = _chain(self._start, chunks)
            encodings = self._found()
            if encodings == ["gzip"]:
                unpacked = _Gunzip().pieces_async(whole)
            else:
                unpacked = _decoded(encodings, whole).aiter_bytes() if encodings else whole
            async for piece in unpacked:
                yield piece
        except httpx.DecodingError as error:
            self._fail(error)

    def _begin(self, chunk: bytes) -> bool:
        self._start += chunk
        return len(self._start) >= _ENOUGH

    def _found(self) -> list[str]:
        """Return the encodings of the body by its first bytes. Raises DecodingError if one is not supported here."""
        if _is_text(self._start):
            return []
        known = [name for name in self._encodings if name in _ENCODINGS]
        if len(known) == 1:
            by_magic = next((name for magic, name in _MAGIC.items() if self._start.startswith(magic)), "")
            known = [by_magic or ("deflate" if known == ["gzip"] else known[0])]
        missing = [name for name in known if not _is_known(name)]
        if missing:
            library = f"{httpx.__name__}[{_EXTRAS[missing[0]]}]"
            raise httpx.DecodingError(f"it requires another package: `pip install '{library}'`")
        if not known:
            raise httpx.DecodingError("it is not supported")
        return known

    def _fail(self, error: httpx.DecodingError) -> None:
        if not self._lenient:
            encodings = one_line(", ".join(self._encodings))[:80]
            raise httpx.DecodingError(f"its encoding ({encodings}) cannot be read: {error}") from error


class _Gunzip:
    """A decompressor of gzip with any number of members; it ignores other bytes after the last one."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._members = 0  # the number of complete members
        # The first two bytes of the current member.
        self._head = b""
        self._came = self._over = False

    def pieces(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Decompress all chunks. Raises httpx.DecodingError if they are not gzip."""
        for chunk in chunks:
            yield from self._unpack(chunk)
        self._end()

    async def pieces_async(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Decompress all chunks; see `pieces`."""
        async for chunk in chunks:
            for piece in self._unpack(chunk):
                yield piece
        self._end()

    def _unpack(self, chunk: bytes) -> Iterator[bytes]:
        while chunk and not self._over:
            self._head = self._head if len(self._head) > 1 else (self._head + chunk)[:2]
            try:
                piece = self._member.decompress(chunk, _PIECE)
            except zlib.error as error:
                if not self._members or self._head == b"\x1f\x8b":
                    raise httpx.DecodingError(str(error)) from error
                self._over = True  # not another member
                return
            if piece:
                self._came = True
                yield piece
            chunk = self._member.unconsumed_tail
            if self._member.eof:
                chunk, self._member = self._member.unused_data, zlib.decompressobj(wbits=31)
                self._members, self._head = self._members + 1, b""

    def _end(self) -> None:
        if not self._came and not self._members:
            raise httpx.DecodingError("it ends before its first byte")


@cache
def _is_known(encoding: str) -> bool:
    """Does the HTTP library decompress an encoding? It passes unknown ones through unchanged."""
    try:
        return httpx.Response(200, headers={"content-encoding": encoding}, content=b"\0").content != b"\0"
    except httpx.DecodingError:
        return True


def _decoded(encodings: list[str], body: Iterator[bytes] | AsyncIterator[bytes]) -> httpx.Response:
    return httpx.Response(200, headers={"content-encoding": ", ".join(encodings)}, content=body)


def _is_text(start: bytes) -> bool:
    """Do these bytes begin a text? Compressed data soon has control characters or invalid UTF-8."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(character >= " " or character in "\t\n\r" for character in text)


async def _chain(start: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield start
    async for chunk in chunks:
        yield chunk
