"""The HTTP clients under the SDK: they send each attempt by the sending policy, and read the answer within bounds."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Self, TypedDict, Unpack

import anyio
from openai import APIConnectionError, DefaultAsyncHttpxClient, DefaultHttpxClient

from ..errors import raise_from
from ..http_library import STREAM_HOLDS_RESPONSE, httpx
from .bodies import AsyncBoundedBody, BoundedBody
from .connections import bounded_io, clamp, join_writes, join_writes_async, keep_poll
from .environment import as_configuration_errors, check_proxies, proxy_mounts
from .policy import Attempt

# If a server closes an idle connection just as a request arrives, the outcome is unknown. Many servers (uvicorn, Node)
# close after 5 s, so connections are dropped well before.
_LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=3.0)

_OWN_WAY = frozenset({"proxy", "mounts", "transport"})  # arguments that bypass the proxies of the environment
_OF_TRANSPORT = ("verify", "cert", "trust_env", "http1", "http2", "limits")

_before_sent: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("before_sent", default=None)


@contextmanager
def before_sent(prepare: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Await `prepare` before the first byte of each attempt in this block, once it has its connection.

    If `prepare` raises, the call ends with that error and nothing was sent. For asynchronous clients.
    """
    token = _before_sent.set(prepare)
    try:
        yield
    finally:
        _before_sent.reset(token)


class HttpxOptions(TypedDict, total=False):
    """The names of the arguments of `httpx.Client`, whose types are private to the HTTP library."""

    auth: Any
    params: Any
    headers: Any
    cookies: Any
    verify: Any
    cert: Any
    trust_env: bool
    http1: bool
    http2: bool
    proxy: Any
    mounts: Any
    timeout: Any
    follow_redirects: bool
    limits: httpx.Limits
    max_redirects: int
    event_hooks: Any
    base_url: Any
    transport: Any
    default_encoding: Any


class _PolicyClient:
    """The common part of both clients: their settings, and a further client for each forked process."""

    _transport_type: type[httpx.HTTPTransport] | type[httpx.AsyncHTTPTransport]

    def __init__(
        self, *, retry_server_errors: bool = False, max_answer: int | None = None, **kwargs: Unpack[HttpxOptions]
    ) -> None:
        options: dict[str, Any] = {"limits": _LIMITS, **kwargs}
        with as_configuration_errors():
            try:
                super().__init__(**options)
            except (ImportError, ValueError, httpx.InvalidURL):
                if options.keys() & _OWN_WAY or not options.get("trust_env", True):
                    raise
                super().__init__(**options, **self._with_usable_proxies(options))
        self._own = {**options, "retry_server_errors": retry_server_errors, "max_answer": max_answer}
        self._retry_server_errors, self._max_answer = retry_server_errors, max_answer
        self._pid = os.getpid()
        self._others: dict[object, Self] = {}

    def _with_usable_proxies(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the transports of a client whose environment names a proxy that cannot be used."""
        options = {name: settings[name] for name in _OF_TRANSPORT if name in settings}
        direct = self._transport_type(**options)
        found = proxy_mounts(direct, **options)
        if base_url := str(settings.get("base_url", "")):
            check_proxies(found, base_url)
        return {"transport": direct, "mounts": found}

    def _another(self, key: object) -> Self:
        """Return the client with the same settings for a forked process, by its id, or for another event loop."""
        if key not in self._others:
            self._others.setdefault(key, type(self)(**self._own))
        return self._others[key]


class LiteLLMHttpxClient(_PolicyClient, DefaultHttpxClient):
    """The SDK's default HTTP client with the sending policy. It accepts the same arguments, such as `proxy`.

    In a forked process it opens new connections.

    Args:
        retry_server_errors: retry a create that was answered with 500, within the SDK's `max_retries`. It may have
            been executed, so it may be paid for twice.
        max_answer: the most bytes to read of one answer; None for no limit. See `bodies`.
        **kwargs: those of `httpx.Client`.
    """

    _transport_type = httpx.HTTPTransport

    def send(self, request: httpx.Request, *, stream: bool = False, **kwargs: Any) -> httpx.Response:
        """Send one attempt. Errors that the SDK must not retry are raised as an `OpenAIError`."""
        if os.getpid() != self._pid and not self.is_closed:
            return self._another(os.getpid()).send(request, stream=stream, **kwargs)
        attempt = Attempt(request, stream, self._retry_server_errors, self._max_answer)

        def on_event(name: str, info: Mapping[str, object]) -> None:
            attempt.on_event(name, info)
            if name.endswith((".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")):
                clamp(info["return_value"])
                join_writes(info["return_value"])

        request.extensions["trace"] = on_event
        attempt.bound_reads()
        try:
            with bounded_io(attempt.until):
                response = super().send(request, stream=True, **{**kwargs, "follow_redirects": False})
                try:
                    if attempt.bounds_body_of(response):
                        response.stream = BoundedBody(response, attempt.body_until, attempt.max_answer)
                    if not stream:
                        response.read()
                        _release_stream(response)
                except BaseException:
                    response.close()
                    _release_stream(response)
                    raise
        except Exception as error:
            raise_from(attempt.failure(error, closed=self.is_closed), error)
        finally:
            request.extensions.pop("trace", None)  # it refers to the request: a cycle
        attempt.judge(response)
        return response

    def close(self) -> None:
        """Close the connections, except those that a forked process inherited from its parent."""
        if os.getpid() == self._pid:
            super().close()
        elif os.getpid() in self._others:
            self._others[os.getpid()].close()

    def __del__(self) -> None:
        # Like the SDK's default client: no caller is left to close the connections.
        with suppress(Exception):
            if not self.is_closed:
                self.close()


class AsyncLiteLLMHttpxClient(_PolicyClient, DefaultAsyncHttpxClient):
    """The SDK's default asynchronous HTTP client with the sending policy; see `LiteLLMHttpxClient`.

    Connections belong to an event loop, so it opens new ones in a second `asyncio.run` and in a forked process. With
    `transport` or `mounts` from the caller, which hold connections too, it refuses to work in a second loop.
    """

    _transport_type = httpx.AsyncHTTPTransport
    # This client serves the first loop; each further loop gets a client with the same settings.
    _loop: Callable[[], object] | None = None

    async def send(self, request: httpx.Request, *, stream: bool = False, **kwargs: Any) -> httpx.Response:
        """Send one attempt. Errors that the SDK must not retry are raised as an `OpenAIError`."""
        if os.getpid() != self._pid and not self.is_closed:
            return await self._another(os.getpid()).send(request, stream=stream, **kwargs)
        if not self.is_closed and (client := self._of_this_loop(request)) is not self:
            return await client.send(request, stream=stream, **kwargs)
        attempt = Attempt(request, stream, self._retry_server_errors, self._max_answer)

        connected: Any = None

        async def on_event(name: str, info: Mapping[str, object]) -> None:
            nonlocal connected
            if attempt.leaves_with(name, info) and (prepare := _before_sent.get()) is not None:
                await prepare()
            attempt.on_event(name, info)
            if name.endswith((".connect_tcp.complete", ".connect_unix_socket.complete")):
                connected = info["return_value"]
                join_writes_async(connected)
                keep_poll(connected)
            elif name.endswith(".start_tls.complete"):
                join_writes_async(info["return_value"])
                keep_poll(info["return_value"])
            elif name.endswith(".start_tls.failed") and connected is not None:
                # The HTTP library forgets a connection if its handshake is cancelled, but the event loop keeps it open.
                with anyio.CancelScope(shield=True):
                    await connected.aclose()

        request.extensions["trace"] = on_event
        response = None
        try:
            with anyio.move_on_after(attempt.until.remaining()) as scope:
                response = await super().send(request, stream=True, **{**kwargs, "follow_redirects": False})
                try:
                    if attempt.bounds_body_of(response):
                        response.stream = AsyncBoundedBody(response, attempt.body_until, attempt.max_answer)
                    if not stream:
                        await response.aread()
                        _release_stream(response)
                except BaseException:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
                    _release_stream(response)
                    raise
        except Exception as error:
            raise_from(attempt.failure(error, closed=self.is_closed), error)
        finally:
            request.extensions.pop("trace", None)
        if response is None or scope.cancelled_caught:
            raise attempt.failure(httpx.ReadTimeout("cancelled", request=request), cut=True)
        attempt.judge(response)
        return response

    async def aclose(self) -> None:
        """Close the connections, except those that a forked process inherited from its parent.

        Those of another event loop cannot be closed from here; they end when that loop and this client are freed.
        """
        if os.getpid() != self._pid:
            if os.getpid() in self._others:
                await self._others[os.getpid()].aclose()
            return
        loop = _running_loop()
        try:
            await super().aclose()
        except RuntimeError:  # "Event loop is closed"
            if self._loop is None or self._loop() is loop:
                raise
        others = dict(self._others)
        self._others.clear()
        if loop in others:
            await others[loop].aclose()

    def _of_this_loop(self, request: httpx.Request) -> Self:
        loop = _running_loop()
        if self._loop is None:
            self._loop = weakref.ref(loop) if isinstance(loop, asyncio.AbstractEventLoop) else lambda: loop
        if self._loop() is loop:
            return self
        if self._own.get("transport") or self._own.get("mounts"):
            raise APIConnectionError(
                message="this client was used in another event loop before, which the connections of its transport "
                "belong to: create a client for each asyncio.run, or call asyncio.run once",
                request=request,
            )
        for other in list(self._others):
            if isinstance(other, asyncio.AbstractEventLoop) and other.is_closed():
                self._others.pop(other, None)
        return self._another(loop)


def _running_loop() -> object:
    """Return asyncio's event loop, or a constant for another library: trio's connections survive its runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return "another library's"


def _release_stream(response: httpx.Response) -> None:
    """Take the stream from a closed response, so that the two can be freed without the garbage collector."""
    if STREAM_HOLDS_RESPONSE:
        response.stream = httpx.ByteStream(b"")
