"""Streams of text for the caller. A stream is whole only after its terminal event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Self

from ..diagnosis import explain
from ..errors import GatewayError, raise_from, redact
from .accumulator import Accumulator
from .answer import Answer
from .finish_reasons import TERMINAL
from .reply import RawResponse, Reply, headers_of, read_reply, require_complete, with_text
from .sse import Event, Events, has_events
from .steps import EXPECTED


class StreamReader:
    """The reader of a stream, without I/O: events in, pieces of text out, an error at the end if it is incomplete."""

    def __init__(self, raw: RawResponse, reader: Accumulator, secret: str) -> None:
        self._raw = raw
        self._reader = reader
        self._secret = secret
        self._body: Reply | None = None
        self._done = False
        self.has_events = has_events(raw.headers)

    @property
    def reply(self) -> Reply:
        """The reply so far."""
        if self._body:
            return self._body
        retries, skipped = self._raw.retries_taken, self._reader.skipped
        return Reply(self._reader.answer(), "", headers_of(self._raw), retries, skipped)

    @property
    def id(self) -> str | None:
        """The id of the answer; unlike `reply`, it is cheap while pieces arrive."""
        return self._body.id if self._body else self._reader.id

    @property
    def finished(self) -> bool:
        """Has the last event arrived? The server may keep the connection open."""
        return self._done or self._reader.ended

    def event(self, event: Event) -> str:
        """Return the text that an event brings. Raises GatewayError if it is an error."""
        self._done = self._done or event.is_last
        return self._reader.take(event)

    def body(self) -> str:
        """Return the text of an answer that is not a stream, after its body has been read."""
        self._body = read_reply(self._raw, type(self._reader))
        return self._body.text

    def rest(self) -> str:
        """Return the text that was held back, after the last event."""
        return self._reader.rest()

    def verdict(self, error: Exception | None) -> None:
        """Raise the error of a stream that is incomplete or broke with `error`; return if it is whole."""
        reply = self.reply
        try:
            # After the terminal event a broken connection does no harm.
            if error is not None and reply.answer.status not in TERMINAL:
                raise explain(error) if self._reader.reported is None else self._reader.report()
            if not reply.answer.status and self._body is None:
                raise self._reader.report()
            require_complete(reply)
        except GatewayError as failure:
            raise_from(redact(with_text(failure, reply), self._secret), error)
        finally:
            # The traceback refers to this frame: a cycle.
            error = None


class TextStream(Iterator[str]):
    """An iterator over pieces of text. At its end it raises like the call without a stream; `reply` has the rest."""

    def __init__(self, raw: RawResponse, reading: StreamReader) -> None:
        self._raw = raw
        self._reading = reading
        self._pieces = self._read()

    @property
    def reply(self) -> Reply:
        """The reply so far."""
        return self._reading.reply

    @property
    def id(self) -> str | None:
        """The id of the answer, once an event has it."""
        return self._reading.id

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop reading and release the connection."""
        self._pieces.close()
        self._raw.http_response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self) -> Generator[str, None, None]:
        failure: Exception | None = None
        try:
            if not self._reading.has_events:
                self._raw.http_response.read()
                yield from _if_any(self._reading.body())
            else:
                for event in Events(self._raw.http_response):
                    yield from _if_any(self._reading.event(event))
                    if self._reading.finished:
                        break
        except EXPECTED as error:
            failure = error
        finally:
            self._raw.http_response.close()
        yield from _if_any(self._reading.rest())
        try:
            self._reading.verdict(failure)
        finally:
            # Its traceback refers to this frame: a cycle.
            del failure


class AsyncTextStream(AsyncIterator[str]):
    """An asynchronous iterator over pieces of text; see `TextStream`.

    The request is sent with the first piece, or when the stream itself is awaited.
    """

    def __init__(self, open_: Callable[[], Awaitable[tuple[RawResponse, StreamReader]]]) -> None:
        self._open = open_
        self._opened: tuple[RawResponse, StreamReader] | None = None
        self._pieces = self._read()

    @property
    def reply(self) -> Reply:
        """The reply so far."""
        return self._opened[1].reply if self._opened else Reply(Answer(), "", {})

    @property
    def id(self) -> str | None:
        """The id of the answer, once an event has it."""
        return self._opened[1].id if self._opened else None

    def __await__(self) -> Generator[object, None, Self]:
        yield from self._start().__await__()
        return self

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def close(self) -> None:
        """Stop reading and release the connection."""
        await self._pieces.aclose()
        if self._opened:
            await self._opened[0].http_response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _start(self) -> tuple[RawResponse, StreamReader]:
        if self._opened is None:
            self._opened = await self._open()
        return self._opened

    async def _read(self) -> AsyncGenerator[str, None]:
        raw, reading = await self._start()
        failure: Exception | None = None
        try:
            if not reading.has_events:
                await raw.http_response.aread()
                for piece in _if_any(reading.body()):
                    yield piece
            else:
                async for event in Events(raw.http_response):
                    for piece in _if_any(reading.event(event)):
                        yield piece
                    if reading.finished:
                        break
        except EXPECTED as error:
            failure = error
        finally:
            await raw.http_response.aclose()
        for piece in _if_any(reading.rest()):
            yield piece
        try:
            reading.verdict(failure)
        finally:
            del failure


def _if_any(piece: str) -> list[str]:
    return [piece] if piece else []
