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
500                                   again               once again, unless a background submit
408, other 5xx                        again               never: the outcome is unknown
no answer, broken answer              again               never: the outcome is unknown
====================================  ==================  ===================================

"Again" is bounded by the client's `max_retries` and by the deadline: a wait that would pass it is not begun.
"""

from __future__ import annotations

import email.utils
import json
import math
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

# httpx2 and anyio are what the SDK itself sits on and shows in its API (clients, exceptions, timeouts).
import anyio
import httpx2
from openai import APIConnectionError, DefaultAsyncHttpxClient, DefaultHttpxClient, Timeout

from .config import ConfigurationError, http_allowed, is_loopback
from .deadline import Connections, Deadline, Guard, current_deadline
from .errors import DeadlineExceededError, LostAnswerError
from .network import usable_settings

NUM_RETRIES_HEADER = "x-litellm-num-retries"
_CONNECT_RETRIES = 2
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 8.0

# A server that closes an idle connection just as a request arrives leaves its outcome unknown. Many servers
# (uvicorn, Node) close at 5 s, so connections are given up well before.
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=3.0)


class _Call:
    """One call of the SDK with all its attempts."""

    def __init__(self, until: Deadline | None, implied: Deadline | None) -> None:
        self.until = until
        self.implied = implied
        self.unconnected = 0
        self.server_errors = 0


_current_call: ContextVar[_Call | None] = ContextVar("call", default=None)


@contextmanager
def sdk_call(timeout: float | Timeout | None) -> Iterator[None]:
    """Mark what one call of the SDK sends, so that its attempts share a deadline and their counts.

    Args:
        timeout: the SDK's, seconds for one read. Where no `deadline` was set it bounds the whole call, unless the
            call streams or carries a file, which may rightly take longer.
    """
    seconds = timeout.read if isinstance(timeout, Timeout) else timeout
    token = _current_call.set(_Call(current_deadline(), Deadline(seconds)))
    try:
        yield
    finally:
        _current_call.reset(token)


class LiteLLMHttpxClient(DefaultHttpxClient):
    """The SDK's default HTTP client with the sending policy. Takes the same arguments, `proxy` and `verify` too."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("limits", _LIMITS)
        with usable_settings():
            super().__init__(**kwargs)
        self._connections = Connections()

    def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs: Any) -> httpx2.Response:
        """Send one attempt. Raises what the SDK shall not retry as an `OpenAIError`."""
        attempt = _Attempt(request, stream)
        guard = Guard(attempt.until)

        def on_event(name: str, info: dict[str, Any]) -> None:
            attempt.on_event(name, info)
            self._connections.on_event(guard, name, info)

        def done() -> None:
            guard.stop()
            self._connections.release(guard)

        request.extensions["trace"] = on_event
        guard.start()
        try:
            response = super().send(request, stream=True, **{**kwargs, "follow_redirects": False})
            guard.connection(response.extensions.get("network_stream"))
            if not stream:
                with closing(response):
                    response.read()
        except Exception as error:
            done()
            raise attempt.failure(error, cut=guard.fired) from error
        except BaseException:
            done()
            raise
        if stream:
            response.stream = _GuardedStream(response.stream, guard, done)
            if not attempt.bounds_stream:
                guard.stop()
        else:
            done()
            if guard.fired:  # the cut may look like the end of the body
                raise attempt.failure(httpx2.ReadTimeout("cut", request=request), cut=True)
        attempt.judge(response)
        return response

    def __del__(self) -> None:
        # As the SDK's own default client does it: nobody is left to close the connections.
        if not self.is_closed:
            with suppress(Exception):
                self.close()


class AsyncLiteLLMHttpxClient(DefaultAsyncHttpxClient):
    """The SDK's default asynchronous HTTP client with the sending policy."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("limits", _LIMITS)
        with usable_settings():
            super().__init__(**kwargs)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs: Any) -> httpx2.Response:
        """Send one attempt. Raises what the SDK shall not retry as an `OpenAIError`."""
        attempt = _Attempt(request, stream)

        async def on_event(name: str, info: dict[str, Any]) -> None:
            attempt.on_event(name, info)

        request.extensions["trace"] = on_event
        response = None
        with anyio.move_on_after(attempt.until.remaining()) as scope:
            try:
                response = await super().send(request, stream=stream, **{**kwargs, "follow_redirects": False})
            except Exception as error:
                raise attempt.failure(error) from error
        if response is None or scope.cancelled_caught:
            raise attempt.failure(httpx2.ReadTimeout("cancelled", request=request), cut=True)
        if stream and attempt.bounds_stream:
            response.stream = _BoundedStream(response.stream, attempt.until)
        attempt.judge(response)
        return response


class _Attempt:
    """The policy for one attempt, without I/O: what to send, what a failure means, whether to send again."""

    def __init__(self, request: httpx2.Request, stream: bool) -> None:
        _refuse_plain_http(request.url)
        self.request = request
        self.call = _current_call.get() or _Call(current_deadline(), None)
        self.reading = request.method in ("GET", "HEAD", "OPTIONS")
        self.background = not self.reading and _is_background(request)
        self.sent = False
        self.retries = int(request.headers.get("x-stainless-retry-count", "0"))
        self.bounds_stream = self.call.until is not None
        self.until = self.call.until or Deadline(None)
        if self.call.implied is not None and not stream and not _carries_file(request):
            self.until = min(self.until, self.call.implied, key=lambda deadline: deadline.at)
        if self.until.passed:
            raise self._too_late()
        if not self.reading:
            # The gateway would repeat a failed POST itself, and each repeat may be paid for.
            request.headers.setdefault(NUM_RETRIES_HEADER, "0")
        self._bound_reads()

    def on_event(self, name: str, info: dict[str, Any]) -> None:
        """Take a trace event of the HTTP library: they tell whether the request was sent."""
        if name.endswith(".send_request_headers.started"):
            # A proxy is asked to connect first, which is a request of its own.
            self.sent = self.sent or getattr(info.get("request"), "method", b"") != b"CONNECT"

    def failure(self, error: Exception, *, cut: bool = False) -> Exception:
        """What to raise for an attempt without a usable answer; what the SDK may retry is `error` itself."""
        if cut or self.until.passed:
            return self._too_late()
        if not isinstance(error, httpx2.RequestError | OSError | anyio.EndOfStream):
            return error
        if not self.sent:
            self.call.unconnected += 1
            again = self.call.unconnected <= _CONNECT_RETRIES and not isinstance(error, httpx2.UnsupportedProtocol)
            return error if again and _backoff(self.retries) < self.until.remaining() else self._unconnected(error)
        if self.reading and _backoff(self.retries) < self.until.remaining():
            return error
        what = "no answer in time" if isinstance(error, httpx2.TimeoutException) else "the connection broke"
        return LostAnswerError(f"{what} after the request was sent", self.request, outcome_unknown=not self.reading)

    def judge(self, response: httpx2.Response) -> None:
        """Tell the SDK through the answer's headers whether to send again, and when."""
        status = response.status_code
        if status < 400:
            return
        again = (
            self._may_repeat(status) and response.headers.get("x-should-retry") != "false" and not _stays_so(response)
        )
        if again:
            delay = _retry_after(response.headers)
            delay = _backoff(self.retries) if delay is None else delay
            again = delay < self.until.remaining()
            response.headers["retry-after-ms"] = str(max(1, round(delay * 1000)))
        response.headers["x-should-retry"] = "true" if again else "false"
        unknown = (status >= 500 and (self.background or status not in (500, 503))) or status == 408
        if unknown and not self.reading:
            response.extensions["outcome_unknown"] = True

    def _may_repeat(self, status: int) -> bool:
        if self.reading:
            return status in (408, 409, 429) or status >= 500
        if status == 500 and not self.background:
            self.call.server_errors += 1
            return self.call.server_errors == 1
        return status == 429 or (status == 503 and not self.background)

    def _too_late(self) -> DeadlineExceededError:
        limit = "in time" if math.isinf(self.until.seconds) else f"within {self.until.seconds:g} s"
        what = f"no complete answer {limit}" if self.sent else f"could not send the request {limit}"
        return DeadlineExceededError(what, self.request, outcome_unknown=self.sent and not self.reading)

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


class _GuardedStream(httpx2.SyncByteStream):
    """A body that the watchdog may cut off while it is read."""

    def __init__(self, stream: Any, guard: Guard, done: Callable[[], None]) -> None:
        self._stream = stream
        self._guard = guard
        self._done = done

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except httpx2.RequestError:
            if not self._guard.fired:
                raise
        if self._guard.fired:
            raise httpx2.ReadTimeout("the deadline of the call passed")

    def close(self) -> None:
        self._done()
        self._stream.close()


class _BoundedStream(httpx2.AsyncByteStream):
    """A body whose reads end with the deadline."""

    def __init__(self, stream: Any, until: Deadline) -> None:
        self._stream = stream
        self._until = until

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._stream.__aiter__()
        while True:
            chunk = None
            # The scope must not stay open over the yield: it belongs to the task that reads now.
            with anyio.move_on_after(self._until.remaining()):
                try:
                    chunk = await chunks.__anext__()
                except StopAsyncIteration:
                    return
            if chunk is None:
                raise httpx2.ReadTimeout("the deadline of the call passed")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


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
    return response.status_code == 500 and response.is_closed and b"is not supported for" in response.content


def _backoff(retries: int) -> float:
    """Seconds before the next attempt: doubling, with a little chance so that clients do not march in step."""
    return min(_FIRST_DELAY * 2.0 ** min(retries, 10), _LONGEST_DELAY) * (1 - 0.25 * random.random())  # noqa: S311


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds that an answer asks to wait; LiteLLM hands a provider's wish on under a name of its own."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0), ("llm_provider-retry-after", 1.0)):
        value = headers.get(name)
        if not value:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (TypeError, ValueError, OverflowError):
                continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None
