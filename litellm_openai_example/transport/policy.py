"""The sending policy: what may be sent again, and until when. It sits in the HTTP clients under the SDK.

A request that may have been executed is never sent again. The SDK's own retry loop does the repeating; the
policy steers it through the SDK's documented levers: an `OpenAIError` raised while sending is not retried, and the
headers `x-should-retry` and `retry-after-ms` of an answer are obeyed.

====================================  ==================  ===================================
what happened                         GET                 everything else
====================================  ==================  ===================================
could not connect                     again, twice        again, twice
429                                   again               again
503                                   again               again, unless a background submit
408, 500, other 5xx                   again               never: the outcome is unknown
no answer, broken answer              again               never: the outcome is unknown
====================================  ==================  ===================================

500 too: LiteLLM says it for a connection that broke after the provider had accepted the call. Who would rather pay
twice than fail says `retry_server_errors=True`; then a 500 is sent again, unless it answers a background submit.

"Again" is bounded by the client's `max_retries` and by the deadline: a wait that would pass it is not begun.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

# httpx2 and anyio are what the SDK itself sits on and shows in its API (clients, exceptions, timeouts).
import anyio
import httpx2
from openai import APIConnectionError, DefaultAsyncHttpxClient, DefaultHttpxClient, Timeout

from ..config import ConfigurationError, http_allowed, is_loopback
from ..diagnosis import kind_of
from ..errors import DeadlineExceededError, ErrorKind, LostAnswerError, UnusableSettingError, as_sdk_errors
from .bodies import AsyncBoundedBody, BoundedBody
from .deadline import Deadline, bounded_io, clamp, current_deadline
from .headers import retry_after
from .tls import as_configuration_errors

NUM_RETRIES_HEADER = "x-litellm-num-retries"
_CONNECT_RETRIES = 2
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 8.0

# A server that closes an idle connection just as a request arrives leaves its outcome unknown. Many servers
# (uvicorn, Node) close at 5 s, so connections are given up well before.
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=3.0)


class _Call:
    """One call of the SDK with all its attempts."""

    def __init__(
        self, until: Deadline | None, implied: Deadline | None = None, retry_server_errors: bool = False
    ) -> None:
        self.until = until
        self.implied = implied
        self.retry_server_errors = retry_server_errors
        self.unconnected = 0


_current_call: ContextVar[_Call | None] = ContextVar("call", default=None)
_on_retry: ContextVar[Callable[[int, float], None] | None] = ContextVar("on_retry", default=None)


@contextmanager
def telling_retries(on_retry: Callable[[int, float], None]) -> Iterator[None]:
    """Tell of each wait before a request is sent again: the status that it was answered with, and the seconds."""
    token = _on_retry.set(on_retry)
    try:
        yield
    finally:
        _on_retry.reset(token)


@contextmanager
def sdk_call(timeout: float | Timeout | None, *, retry_server_errors: bool = False) -> Iterator[None]:
    """Mark what one call of the SDK sends, so that its attempts share a deadline and their counts.

    Args:
        timeout: the SDK's, seconds for one read. Where no `deadline` was set it bounds the whole call, unless the
            call streams or carries a file, which may rightly take longer.
        retry_server_errors: see `LiteLLMHttpxClient`.
    """
    seconds = timeout.read if isinstance(timeout, Timeout) else timeout
    token = _current_call.set(_Call(current_deadline(), Deadline(seconds), retry_server_errors))
    try:
        yield
    finally:
        _current_call.reset(token)


class LiteLLMHttpxClient(DefaultHttpxClient):
    """The SDK's default HTTP client with the sending policy. Takes the same arguments, `proxy` and `verify` too.

    In a forked process it makes its connections anew.

    Args:
        retry_server_errors: send a create again that was answered with 500, within the SDK's `max_retries`. It may
            have been executed, so this may pay twice.
        max_answer: bytes that are read of one answer; None for no limit. See `bodies`.
        **kwargs: those of `httpx2.Client`.
    """

    def __init__(self, *, retry_server_errors: bool = False, max_answer: int | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("limits", _LIMITS)
        with as_configuration_errors():
            super().__init__(**kwargs)
        self._own = {**kwargs, "retry_server_errors": retry_server_errors, "max_answer": max_answer}
        self._retry_server_errors, self._max_answer = retry_server_errors, max_answer
        self._pid, self._forked = os.getpid(), dict[int, LiteLLMHttpxClient]()

    def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs: Any) -> httpx2.Response:
        """Send one attempt. Raises what the SDK shall not retry as an `OpenAIError`."""
        if os.getpid() != self._pid and not self.is_closed:
            return self._of_this_process().send(request, stream=stream, **kwargs)
        with as_sdk_errors():
            attempt = _Attempt(request, stream, self._retry_server_errors, self._max_answer)

        def on_event(name: str, info: Mapping[str, object]) -> None:
            attempt.on_event(name, info)
            opened = info.get("return_value")
            if name.endswith((".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")):
                clamp(opened)

        request.extensions["trace"] = on_event
        try:
            with bounded_io(attempt.until):
                response = super().send(request, stream=True, **{**kwargs, "follow_redirects": False})
            try:
                response.stream = BoundedBody(response, attempt.body_until, attempt.max_answer)
                if not stream:
                    response.read()
            except BaseException:
                response.close()
                raise
        except Exception as error:
            raise attempt.failure(error) from error
        attempt.judge(response)
        return response

    def close(self) -> None:
        """Close the connections. Those that a forked process took over are its parent's."""
        if os.getpid() == self._pid:
            super().close()
        elif os.getpid() in self._forked:
            self._forked[os.getpid()].close()

    def _of_this_process(self) -> LiteLLMHttpxClient:
        pid = os.getpid()
        if pid not in self._forked:
            self._forked.setdefault(pid, type(self)(**self._own))
        return self._forked[pid]

    def __del__(self) -> None:
        # As the SDK's own default client does it: nobody is left to close the connections.
        with suppress(Exception):
            if not self.is_closed:
                self.close()


class AsyncLiteLLMHttpxClient(DefaultAsyncHttpxClient):
    """The SDK's default asynchronous HTTP client with the sending policy; see `LiteLLMHttpxClient`.

    Its connections belong to the event loop that used it first, so it refuses to work in another one.
    """

    def __init__(self, *, retry_server_errors: bool = False, max_answer: int | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("limits", _LIMITS)
        with as_configuration_errors():
            super().__init__(**kwargs)
        self._own = {**kwargs, "retry_server_errors": retry_server_errors, "max_answer": max_answer}
        self._retry_server_errors, self._max_answer = retry_server_errors, max_answer
        self._pid, self._forked = os.getpid(), dict[int, AsyncLiteLLMHttpxClient]()
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    async def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs: Any) -> httpx2.Response:
        """Send one attempt. Raises what the SDK shall not retry as an `OpenAIError`."""
        if os.getpid() != self._pid and not self.is_closed:
            return await self._of_this_process().send(request, stream=stream, **kwargs)
        self._stay_in_one_loop(request)
        with as_sdk_errors():
            attempt = _Attempt(request, stream, self._retry_server_errors, self._max_answer)

        connected: Any = None

        async def on_event(name: str, info: Mapping[str, object]) -> None:
            nonlocal connected
            if attempt.leaves_with(name, info) and (prepare := _before_sent.get()) is not None:
                await prepare()
            attempt.on_event(name, info)
            if name.endswith((".connect_tcp.complete", ".connect_unix_socket.complete")):
                connected = info["return_value"]
            elif name.endswith(".start_tls.failed") and connected is not None:
                # The HTTP library forgets a connection whose handshake is cancelled, and the event loop keeps it open.
                with anyio.CancelScope(shield=True):
                    await connected.aclose()

        request.extensions["trace"] = on_event
        response = None
        try:
            with anyio.move_on_after(attempt.until.remaining()) as scope:
                response = await super().send(request, stream=True, **{**kwargs, "follow_redirects": False})
                try:
                    response.stream = AsyncBoundedBody(response, attempt.body_until, attempt.max_answer)
                    if not stream:
                        await response.aread()
                except BaseException:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
                    raise
        except Exception as error:
            raise attempt.failure(error) from error
        if response is None or scope.cancelled_caught:
            raise attempt.failure(httpx2.ReadTimeout("cancelled", request=request), cut=True)
        attempt.judge(response)
        return response

    async def aclose(self) -> None:
        """Close the connections. Those that a forked process took over are its parent's."""
        if os.getpid() == self._pid:
            await super().aclose()
        elif os.getpid() in self._forked:
            await self._forked[os.getpid()].aclose()

    def _of_this_process(self) -> AsyncLiteLLMHttpxClient:
        pid = os.getpid()
        if pid not in self._forked:
            self._forked.setdefault(pid, type(self)(**self._own))
        return self._forked[pid]

    def _stay_in_one_loop(self, request: httpx2.Request) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # another library's loop
        if self._loop is None:
            self._loop = weakref.ref(loop)
        elif self._loop() is not loop:
            raise APIConnectionError(
                message="this client was used in another event loop before, which its connections belong to: "
                "make a client for each asyncio.run, or call asyncio.run once",
                request=request,
            )


_before_sent: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("before_sent", default=None)


@contextmanager
def before_sent(prepare: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Await `prepare` when a request of this block has its connection, before its first byte leaves this machine.

    What `prepare` raises ends the call, and nothing was sent. Each attempt of the SDK is a request. For asynchronous
    clients.
    """
    token = _before_sent.set(prepare)
    try:
        yield
    finally:
        _before_sent.reset(token)


class _Attempt:
    """The policy for one attempt, without I/O: what to send, what a failure means, whether to send again."""

    def __init__(
        self, request: httpx2.Request, stream: bool, retry_server_errors: bool, max_answer: int | None
    ) -> None:
        _refuse_plain_http(request.url)
        self.request = request
        self.call = _current_call.get() or _Call(current_deadline())
        self.reading = request.method in ("GET", "HEAD", "OPTIONS")
        self.background = not self.reading and _is_background(request)
        self.sent = False
        self.retries = int(request.headers.get("x-stainless-retry-count", "0"))
        self.retry_server_errors = retry_server_errors or self.call.retry_server_errors
        self.max_answer = None if _carries_file(request) else max_answer
        self.until = self.call.until or Deadline(None)
        if self.call.implied is not None and not stream and not _carries_file(request):
            self.until = min(self.until, self.call.implied, key=lambda deadline: deadline.at)
        self.body_until = self.call.until if stream else self.until
        if self.until.passed:
            raise self._too_late()
        if not self.reading:
            # The gateway would repeat a failed POST itself, and each repeat may be paid for.
            request.headers.setdefault(NUM_RETRIES_HEADER, "0")
        if self.max_answer is not None:
            request.headers["accept-encoding"] = "gzip, deflate"  # which can be unpacked up to a limit
        self._bound_reads()

    def on_event(self, name: str, info: Mapping[str, object]) -> None:
        """Take a trace event of the HTTP library: they tell whether the request was sent."""
        self.sent = self.sent or self.leaves_with(name, info)

    def leaves_with(self, name: str, info: Mapping[str, object]) -> bool:
        """Whether the request begins to leave this machine with that event."""
        # A proxy is asked to connect first, which is a request of its own.
        connects = getattr(info.get("request"), "method", b"") == b"CONNECT"
        return name.endswith(".send_request_headers.started") and not self.sent and not connects

    def failure(self, error: Exception, *, cut: bool = False) -> Exception:
        """What to raise for an attempt without a usable answer; what the SDK may retry is `error` itself."""
        if isinstance(error, ConfigurationError):  # the certificates are read late
            return UnusableSettingError(str(error))
        if cut or self.until.passed:
            return self._too_late()
        if not isinstance(error, httpx2.RequestError | OSError | anyio.EndOfStream):
            return error
        if not self.sent:
            self.call.unconnected += 1
            again = self.call.unconnected <= _CONNECT_RETRIES and not isinstance(error, httpx2.UnsupportedProtocol)
            again = again and _backoff(self.retries) < self.until.remaining()
            return self._as_request_error(error) if again else self._unconnected(error)
        if self.reading and _backoff(self.retries) < self.until.remaining():
            return self._as_request_error(error)
        what = "no answer in time" if isinstance(error, httpx2.TimeoutException) else "the connection broke"
        return LostAnswerError(f"{what} after the request was sent", self.request, outcome_unknown=not self.reading)

    def judge(self, response: httpx2.Response) -> None:
        """Tell the SDK through the answer's headers whether to send again, and when."""
        status = response.status_code
        if status < 400:
            return
        asked = response.extensions["retry_after"] = retry_after(response.headers)
        again = (
            self._may_repeat(status) and response.headers.get("x-should-retry") != "false" and not _stays_so(response)
        )
        if again:
            delay = _backoff(self.retries) if asked is None else asked
            again = delay < self.until.remaining()
            response.headers["retry-after-ms"] = str(max(1, round(delay * 1000)))
            if again and (on_retry := _on_retry.get()) is not None:
                on_retry(status, delay)
        response.headers["x-should-retry"] = "true" if again else "false"
        unknown = (status >= 500 and (self.background or status != 503)) or status == 408
        if unknown and not self.reading:
            response.extensions["outcome_unknown"] = True

    def _may_repeat(self, status: int) -> bool:
        if self.reading:
            return status in (408, 409, 429) or status >= 500
        if status == 500 and not self.background:
            return self.retry_server_errors
        return status == 429 or (status == 503 and not self.background)

    def _too_late(self) -> DeadlineExceededError:
        limit = "in time" if math.isinf(self.until.seconds) else f"within {self.until.seconds:g} s"
        what = f"no complete answer {limit}" if self.sent else f"could not send the request {limit}"
        return DeadlineExceededError(what, self.request, outcome_unknown=self.sent and not self.reading)

    def _as_request_error(self, error: Exception) -> httpx2.RequestError:
        if isinstance(error, httpx2.RequestError):
            return error
        return httpx2.NetworkError(str(error), request=self.request)

    def _unconnected(self, error: Exception) -> Exception:
        failure = APIConnectionError(message=f"Connection error: {error}", request=self.request)
        failure.__cause__ = error
        return failure

    def _bound_reads(self) -> None:
        """No single read, connect or write may outlast the deadline either."""
        left = self.until.remaining()
        if left != math.inf:
            timeouts = self.request.extensions.get("timeout") or {}
            names = ("connect", "read", "write", "pool")
            bounded = {name: min(left, timeouts.get(name) or math.inf) for name in names}
            self.request.extensions["timeout"] = bounded


def _refuse_plain_http(url: httpx2.URL) -> None:
    # Here as well as in config: an SDK client's base_url can be set later, and a path can be a whole URL.
    if url.scheme == "http" and not is_loopback(url.host) and not http_allowed(os.environ):
        raise ConfigurationError(f"refusing to send a key unencrypted to {url.host}: use https://")


def _is_background(request: httpx2.Request) -> bool:
    if not request.headers.get("content-type", "").startswith("application/json"):
        return False
    if b'"background"' not in request.content:
        return False
    try:
        body = json.loads(request.content)
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("background") is True


def _carries_file(request: httpx2.Request) -> bool:
    return not (
        request.headers.get("accept", "").startswith(("application/json", "text/", "*/*"))
        and not request.headers.get("content-type", "").startswith("multipart/")
    )


def _stays_so(response: httpx2.Response) -> bool:
    """Whether a 500 is LiteLLM's way to say that a bridged model cannot do this at all."""
    return response.status_code == 500 and response.is_closed and kind_of(response) is ErrorKind.NOT_SUPPORTED


def _backoff(retries: int) -> float:
    """Seconds before the next attempt: exponential, with jitter."""
    return min(_FIRST_DELAY * 2.0 ** min(retries, 10), _LONGEST_DELAY) * (1 - 0.25 * random.random())  # noqa: S311
