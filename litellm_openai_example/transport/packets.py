"""Head and body of a request in one packet.

The HTTP library writes the two one after the other: two packets, for which the server is woken twice. A head that is
held until its body is there (for HTTP/1.1 the end of a request is always written, if only as nothing) costs one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .deadline import weakly

_LARGE = 2**16  # bytes of a body that is not copied to its head


def join_writes(stream: Any) -> None:
    """Join what a blocking network stream of the HTTP library is given to write (its `write` is public)."""
    write, joined = weakly(stream.write), _Joined()

    def write_joined(buffer: bytes, timeout: float | None = None) -> None:
        for packet in joined.packets(buffer):
            write(packet, timeout)

    stream.write = write_joined


def join_writes_async(stream: Any) -> None:
    """Join what an asynchronous network stream of the HTTP library is given to write."""
    write, joined = weakly(stream.write), _Joined()

    async def write_joined(buffer: bytes, timeout: float | None = None) -> None:
        for packet in joined.packets(buffer):
            await write(packet, timeout)

    stream.write = write_joined


class _Joined:
    """The head that was held, if one was."""

    def __init__(self) -> None:
        self._head = b""

    def packets(self, buffer: bytes) -> Iterator[bytes]:
        """What to write now that the buffer is to be written."""
        # No frame of HTTP/2 begins like this.
        if not self._head and buffer.startswith(b"POST ") and buffer.endswith(b"\r\n\r\n"):
            self._head = buffer
            return
        head, self._head = self._head, b""
        if len(buffer) > _LARGE:
            yield head
            head = b""
        yield head + buffer
