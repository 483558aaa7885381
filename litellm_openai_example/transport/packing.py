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

    @classmethod
    def of(cls, response: httpx.Response) -> Packing | None:
        """Return the compression named in the headers of an answer, and remove that header; None without it."""
        given = response.headers.pop("content-encoding", "")
        names = [name.partition(";")[0].strip().lower().removeprefix("x-") for name in given.split(",")]
        encodings = [name for name in names if name not in ("", "identity")]
        return cls(encodings, response.status_code >= 400) if encodings else None

    def unpack(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Decompress a body. Raises httpx.DecodingError if that fails."""
        try:
            for named in self._layers():
                start = b""
                for chunk in chunks:
                    start += chunk
                    if len(start) >= _ENOUGH:
                        break
                chunks = chain([start], chunks)
                encoding = _encoding_of(start, named)
                if not encoding:
                    break
                chunks = _Gunzip().pieces(chunks) if encoding == "gzip" else _decoded(encoding, chunks).iter_bytes()
            yield from chunks
        except httpx.DecodingError as error:
            self._fail(error)

    async def unpack_async(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Decompress a body; see `unpack`."""
        try:
            for named in self._layers():
                start = b""
                async for chunk in chunks:
                    start += chunk
                    if len(start) >= _ENOUGH:
                        break
                chunks = _chain(start, chunks)
                encoding = _encoding_of(start, named)
                if not encoding:
                    break
                gzipped = encoding == "gzip"
                chunks = _Gunzip().pieces_async(chunks) if gzipped else _decoded(encoding, chunks).aiter_bytes()
            async for piece in chunks:
                yield piece
        except httpx.DecodingError as error:
            self._fail(error)

    def _layers(self) -> list[str | None]:
        """Return the encodings to undo, the outermost first. A last None stands for one that the header omits."""
        known = [name for name in self._encodings if name in _ENCODINGS]
        return [*(reversed(known) if known else [""]), None]

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


def _encoding_of(start: bytes, named: str | None) -> str:
    """Return the encoding of a body by its first bytes; empty for none.

    Args:
        start: the first bytes.
        named: the encoding in the header; empty for an unknown one, None for no further one.

    Raises:
        httpx.DecodingError: the encoding is not supported here.
    """
    if _is_text(start):
        return ""
    encoding = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), named)
    if encoding == "":
        raise httpx.DecodingError("it is not supported")
    if encoding == "gzip" and not start.startswith(b"\x1f"):
        encoding = "deflate"
    if encoding and not _is_known(encoding):
        library = f"{httpx.__name__}[{_EXTRAS[encoding]}]"
        raise httpx.DecodingError(f"it requires another package: `pip install '{library}'`")
    return encoding or ""


def unpacked(content: bytes, limit: int) -> bytes:
    """Return a body without a compression that its headers did not name, or somewhat more than `limit` bytes of it.

    Raises:
        httpx.DecodingError: it cannot be decompressed.
    """
    encoding = next((name for magic, name in _MAGIC.items() if content.startswith(magic)), None)
    if encoding is None:
        return content
    pieces, size = list[bytes](), 0
    for piece in Packing([encoding], lenient=False).unpack(iter([content])):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            break
    return b"".join(pieces)


def _decoded(encoding: str, body: Iterator[bytes] | AsyncIterator[bytes]) -> httpx.Response:
    return httpx.Response(200, headers={"content-encoding": encoding}, content=body)


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
