"""The sending policy: which requests may be retried, and until when. The HTTP clients apply it to each attempt.

A request that may have been executed is never sent again. The SDK's retry loop sends the retries; the policy steers it
by documented means: the SDK does not retry after an `OpenAIError`, and it obeys the headers `x-should-retry` and
`retry-after-ms` of an answer.

====================================  ==================  ===================================
what happened                         GET                 everything else
====================================  ==================  ===================================
could not connect                     again, twice        again, twice
429                                   again               again
503                                   again               again, unless a background submit
408, 500, other 5xx                   again               never: the outcome is unknown
no answer, broken answer              again               never: the outcome is unknown
====================================  ==================  ===================================

That includes 500, because LiteLLM answers with it if the connection to the provider broke after the provider had
accepted the call. With `retry_server_errors=True` a 500 is retried, unless it answers a background submit: callers can
choose to risk paying twice.

The client's `max_retries` and the deadline bound all retries: a wait that would pass the deadline is not begun.

One deadline bounds a whole call, retries and polling included. An HTTP client's timeouts are per read, so a server that
drips a byte now and then can stretch a call without end. The HTTP clients cancel an asynchronous call at its deadline.
A blocking call cannot be cancelled, so each of its reads and writes gets the time that is left (`connections.clamp`).
"""

from __future__ import annotations

import email.utils
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

# The SDK is built on the HTTP library and anyio, and exposes them in its API (clients, exceptions, timeouts).
import anyio
from openai import APIConnectionError, Timeout

from ..config import ConfigurationError, http_allowed, is_loopback
from ..diagnosis import kind_of
from ..errors import ClosedClientError, DeadlineExceededError, ErrorKind, LostAnswerError, UnusableSettingError
from ..http_library import httpx

T = TypeVar("T")

# LiteLLM forwards the provider's Retry-After under its own header name.
_RETRY_AFTER = (("retry-after-ms", 0.001), ("retry-after", 1.0), ("llm_provider-retry-after", 1.0))  # in seconds
NUM_RETRIES_HEADER = "x-litellm-num-retries"
_CONNECT_RETRIES = 2
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 8.0
_NEVER = 1e9  # seconds; the operating system's timers overflow not far beyond


class Deadline:
    """A point in time on the monotonic clock.

    Args:
        seconds: the time from now; None or infinity for no limit.
    """

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float | None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self.at = time.monotonic() + self.seconds if self.seconds < _NEVER else math.inf

    def remaining(self) -> float:
        """Return the seconds left: 0 after the deadline, infinity without a limit."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def current_deadline() -> Deadline | None:
    """Return the deadline that `deadline` has set for this context, if any."""
    return _current.get()


@contextmanager
def deadline(seconds: float | Deadline | None) -> Iterator[Deadline]:
    """Bound everything sent inside the block, and streams opened inside it to their end.

    Args:
        seconds: the time for the whole block, or an existing deadline. An enclosing deadline that is nearer wins.
    """
    mine = seconds if isinstance(seconds, Deadline) else Deadline(seconds)
    outer = _current.get()
    nearest = outer if outer is not None and outer.at <= mine.at else mine
    # In a context variable, because the SDK lies between the caller and the HTTP client, and passes no deadline on.
    with _holding(_current, nearest):
        yield nearest


@contextmanager
def _holding(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give a context variable a value inside the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@dataclass
class _Call:
    """A call of the SDK with all its attempts."""

    until: Deadline | None
    implied: Deadline | None = None
    retry_server_errors: bool = False
    unconnected: int = 0


_current_call: ContextVar[_Call | None] = ContextVar("call", default=None)
_on_retry: ContextVar[Callable[[int, float], None] | None] = ContextVar("on_retry", default=None)


def telling_retries(on_retry: Callable[[int, float], None]) -> AbstractContextManager[None]:
    """Call `on_retry` before each wait for a retry inside the block, with the status of the answer and the seconds."""
    return _holding(_on_retry, on_retry)


def sdk_call(timeout: float | Timeout | None, *, retry_server_errors: bool = False) -> AbstractContextManager[None]:
    """Make all attempts of one call of the SDK share a deadline and their counts.

    Args:
        timeout: the SDK's timeout, in seconds for one read. Without a `deadline` it bounds the whole call, unless the
            call streams or carries a file, which may well take longer.
        retry_server_errors: see `LiteLLMHttpxClient`.
    """
    seconds = timeout.read if isinstance(timeout, Timeout) else timeout
    return _holding(_current_call, _Call(current_deadline(), Deadline(seconds), retry_server_errors))


class Attempt:
    """The policy for one attempt, without I/O: its headers, its bounds, its errors and whether to retry."""

    def __init__(self, request: httpx.Request, stream: bool, retry_server_errors: bool, max_answer: int | None) -> None:
        _refuse_plain_http(request.url)
        self.request = request
        self.call = _current_call.get() or _Call(current_deadline())
        self.reading = request.method in ("GET", "HEAD", "OPTIONS")
        content_type = request.headers.get("content-type", "")
        self.background = not self.reading and content_type.startswith("application/json") and _is_background(request)
        carries_file = content_type.startswith("multipart/") or _wants_file(request)
        self.sent = False
        # The step before the request is sent, for an error message.
        self.phase = ""
        self.retry_server_errors = retry_server_errors or self.call.retry_server_errors
        self.max_answer = None if carries_file else max_answer
        self.until = self.call.until or Deadline(None)
        if self.call.implied is not None and not stream and not carries_file:
            self.until = min(self.until, self.call.implied, key=lambda deadline: deadline.at)
        # A body that is not streamed is read within the attempt, and so within `until`.
        self.body_until = self.call.until if stream else None
        if self.until.passed:
            raise self._too_late()
        if not self.reading:
            # The gateway would retry a failed POST itself, and each retry may cost money.
            request.headers.setdefault(NUM_RETRIES_HEADER, "0")

    @property
    def retries(self) -> int:
        """The number of earlier attempts by the SDK."""
        return int(self.request.headers.get("x-stainless-retry-count", "0"))

    def on_event(self, name: str, info: Mapping[str, object]) -> None:
        """Take a trace event of the HTTP library, to learn whether the request was sent."""
        if name.endswith(".start_tls.started"):
            self.phase = ": the TLS handshake did not end (does that port speak https?)"
        elif self.leaves_with(name, info):
            self.sent = True
            # Later events say nothing new, and take time.
            self.request.extensions.pop("trace", None)

    def leaves_with(self, name: str, info: Mapping[str, object]) -> bool:
        """Is this the event just before the first byte of the request?"""
        # The CONNECT to a proxy is another request, sent first.
        connects = getattr(info.get("request"), "method", b"") == b"CONNECT"
        return name.endswith(".send_request_headers.started") and not self.sent and not connects

    def failure(self, error: Exception, *, cut: bool = False, closed: bool = False) -> Exception:
        """Return the error to raise for an attempt without a usable answer; `error` itself if the SDK may retry.

        Args:
            error: the error of the HTTP library.
            cut: the deadline has ended the attempt.
            closed: the client was closed before or during the attempt.
        """
        if closed:
            return ClosedClientError(
                "this client was closed", self.request, outcome_unknown=self.sent and not self.reading
            )
        # Certificates are read on the first connection.
        if isinstance(error, ConfigurationError):
            return UnusableSettingError(str(error))
        if cut or self.until.passed:
            return self._too_late()
        if not isinstance(error, httpx.RequestError | OSError | anyio.EndOfStream):
            return error
        if not self.sent:
            self.call.unconnected += 1
            again = self.call.unconnected <= _CONNECT_RETRIES and not isinstance(error, httpx.UnsupportedProtocol)
            again = again and _backoff(self.retries) < self.until.remaining()
            return self._as_request_error(error) if again else self._unconnected(error)
        if self.reading and _backoff(self.retries) < self.until.remaining():
            return self._as_request_error(error)
        if isinstance(error, httpx.DecodingError):
            what = f"the answer was lost: {error}"
        else:
            what = "no answer in time" if isinstance(error, httpx.TimeoutException) else "the connection broke"
            what = f"{what} after the request was sent"
        return LostAnswerError(what, self.request, outcome_unknown=not self.reading)

    def judge(self, response: httpx.Response) -> None:
        """Set the headers of the answer that tell the SDK whether to retry, and when."""
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
        what = f"no complete answer {limit}" if self.sent else f"could not send the request {limit}{self.phase}"
        return DeadlineExceededError(what, self.request, outcome_unknown=self.sent and not self.reading)

    def _as_request_error(self, error: Exception) -> httpx.RequestError:
        if isinstance(error, httpx.RequestError):
            return error
        return httpx.NetworkError(str(error), request=self.request)

    def _unconnected(self, error: Exception) -> Exception:
        failure = APIConnectionError(message=f"Connection error: {error}", request=self.request)
        failure.__cause__ = error
        return failure

    def bounds_body_of(self, response: httpx.Response) -> bool:
        """Could the body of an answer outlast its deadline or exceed its limit?"""
        if self.body_until is not None:
            return True
        if self.max_answer is None:
            return False
        # The length is that of the compressed body, and meaningless for a body in chunks.
        headers = response.headers
        length = headers.get("content-length", "")
        as_sent = "content-encoding" not in headers and "transfer-encoding" not in headers
        return not (as_sent and length.isdecimal() and len(length) < 16 and int(length) <= self.max_answer)

    def bound_reads(self) -> None:
        """Bound each single connect, read and write by the deadline, for a blocking call."""
        left = self.until.remaining()
        if left != math.inf:
            timeouts = self.request.extensions.get("timeout") or {}
            names = ("connect", "read", "write", "pool")
            bounded = {name: min(left, timeouts.get(name) or math.inf) for name in names}
            self.request.extensions["timeout"] = bounded


def _refuse_plain_http(url: httpx.URL) -> None:
    # Checked here as well as in config: `base_url` can be set later, and a path can be a whole URL.
    if url.scheme == "http" and not is_loopback(url.host) and not http_allowed(os.environ):
        raise UnusableSettingError(f"refusing to send a key unencrypted to {url.host}: use https://")


def _is_background(request: httpx.Request) -> bool:
    if b'"background"' not in request.content:
        return False
    try:
        body = json.loads(request.content)
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("background") is True


def _wants_file(request: httpx.Request) -> bool:
    return not request.headers.get("accept", "").startswith(("application/json", "text/", "*/*"))


def _stays_so(response: httpx.Response) -> bool:
    """Is a 500 permanent? LiteLLM answers with one if a bridged model does not support the call."""
    return response.status_code == 500 and response.is_closed and kind_of(response) is ErrorKind.NOT_SUPPORTED


def _backoff(retries: int) -> float:
    """Return the seconds before the next attempt: exponential, with jitter."""
    return min(_FIRST_DELAY * 2.0 ** min(retries, 10), _LONGEST_DELAY) * (1 - 0.25 * random.random())  # noqa: S311


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait before the call is sent again; None if it does not say."""
    for name, unit in _RETRY_AFTER:
        seconds = _seconds(headers.get(name) or "", unit)
        if seconds is not None and seconds >= 0:
            return seconds
    return None


def _seconds(value: str, unit: float) -> float | None:
    try:
        seconds = float(value) * unit
    except ValueError:
        return _from_now(value)
    return seconds if math.isfinite(seconds) else None


def _from_now(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
