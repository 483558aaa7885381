"""The relay's calls, written once without I/O for the blocking and the asynchronous client.

Reads cost nothing, and a repeated submit carries the same idempotency key, for which the relay returns the same
invocation, so every call is repeated while a relay restarts. The gateway's key is not known here and is never sent to
the relay.
"""

from __future__ import annotations

import inspect
import json
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from ..calls.steps import EXPECTED, call, sleep
from ..config import DEFAULT_RELAY_URL, check_url, header_value, http_allowed, is_visible_ascii, setting
from ..errors import ClosedClientError
from ..http_library import httpx
from ..json_object import JsonObject
from ..payer import Payer, resolve_payer
from ..transport.bodies import MAX_ANSWER
from ..transport.environment import check_host, tls_options
from ..transport.policy import Deadline, current_deadline, sdk_call
from .arguments import TOOL_NAME, ToolArguments
from .contract import (
    IDEMPOTENCY_HEADER,
    INVOCATIONS_PATH,
    MAX_IDEMPOTENCY_KEY,
    TOKEN_HEADER,
    AcceptedInvocation,
    Invocation,
)
from .relay_answers import (
    PASSING,
    RelayError,
    ResearchUnconfirmedError,
    accepted_nothing,
    asked_delay,
    client_closed,
    may_have_arrived,
    read_accepted,
    read_answer,
    read_view,
    refusal,
    still_running,
    unreachable,
)

T = TypeVar("T")
Arguments = Mapping[str, object]

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 3.0  # seconds between two attempts; each pause is twice the one before
_WAIT_SECONDS = 20.0  # of one wait request; the next one brings a fresh status
_WAIT_GRACE = 10.0  # seconds on top, for the answer to arrive
_LAST_POLL = 0.2  # seconds before the deadline at which the wait ends
_CHECK_SECONDS = 5.0
_DEFAULT_FORMAT: str = ToolArguments.model_fields["deliverable_format"].default


class RelayCalls:
    """The relay's calls as operations, shared by both clients."""

    _http_type: Callable[..., Any]

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | None = 30.0,
        *,
        payer: Payer | None = None,
        **options: Any,
    ) -> None:
        url = base_url if base_url is not None else setting("RELAY_BASE_URL") or DEFAULT_RELAY_URL
        name = "RELAY_BASE_URL" if base_url is None else "relay_base_url"
        self.base_url = check_host(check_url(url, allow_http=http_allowed(), name=name).rstrip("/"))
        key = api_key if api_key is not None else setting("RELAY_API_KEY")
        self._key = header_value(key, "RELAY_API_KEY") if key else ""
        self.timeout = timeout
        self.payer = resolve_payer() if payer is None else payer
        self._http = self._http_type(**tls_options(self.base_url, {"max_answer": MAX_ANSWER, **options}))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, timeout={self.timeout!r})"

    async def check_operation(self) -> None:
        """Check that the relay is ready, before anything is paid for; repeat this while it asks for a short wait."""
        within = Deadline(_CHECK_SECONDS)
        while True:
            try:
                response = await self._send("GET", "/readyz", timeout=_CHECK_SECONDS)
            except EXPECTED as error:
                raise unreachable(self.base_url, error) from error
            # Another implementation need not have this path.
            if response.status_code in (200, 404, 405):
                return
            # Another replica may take over behind the same address, or the next process.
            delay = asked_delay(response) if response.status_code == 503 else None
            if delay is None or delay >= min(within.remaining(), _left()):
                raise refusal(response)
            await sleep(delay)

    async def invoke_operation(self, arguments: Arguments, idempotency_key: str | None = None) -> AcceptedInvocation:
        """Submit a research run, with the same key until the relay has answered.

        Raises:
            ResearchUnconfirmedError: it may have been accepted, and the deadline passed or the answer was lost.
            RelayError: it was certainly not accepted.
            ValueError: the key cannot be sent.
        """
        key = uuid.uuid4().hex if idempotency_key is None else _checked_key(idempotency_key)
        headers = {IDEMPOTENCY_HEADER: key, **self.payer.headers}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # Other relays require the format.
        given = {"deliverable_format": _DEFAULT_FORMAT, **arguments}
        body = {"tool_name": TOOL_NAME, "arguments": given}
        try:
            return await self.until_answered(read_accepted, "POST", INVOCATIONS_PATH, headers, body)
        except RelayError as error:
            if error.outcome_unknown:
                raise self.unconfirmed(key, given, error) from error
            raise

    async def wait_operation(
        self, invocation_id: str, token: str, on_view: Callable[[Invocation], None] | None = None
    ) -> Invocation:
        """Poll an invocation until it has ended, and return its final view.

        Raises:
            ResearchRunningError: the deadline passed first.
        """
        pause, view = FIRST_PAUSE, None
        while True:
            left = _left()
            # The relay must answer before the deadline, or the answer would be lost.
            seconds = min(_WAIT_SECONDS, max(0.0, left - _LAST_POLL))
            path = f"{path_of(invocation_id)}/wait?timeout={seconds:.3f}"
            try:
                headers, limit = token_header(token), seconds + _WAIT_GRACE
                view = await self.until_answered(read_view, "GET", path, headers, timeout=limit)
            except RelayError as error:
                if isinstance(error.__cause__, ClosedClientError):
                    raise
                # The poll was repeated until the deadline was near, so the run is unaffected.
                if error.status is None or error.status in PASSING:
                    raise still_running(invocation_id, token, str(error), view) from error
                raise
            if on_view is not None:
                on_view(view)
            if view.finished:
                return view
            if _left() <= _LAST_POLL:
                raise still_running(invocation_id, token, view=view)
            # A relay that answers early (it is stopping, or never waits) must not be polled in a tight loop.
            pause = FIRST_PAUSE if left - _left() > seconds / 2 else min(pause * 2, LONGEST_PAUSE)
            await sleep(max(0.0, min(pause, _left() - _LAST_POLL)))

    async def until_answered(
        self,
        read: Callable[[JsonObject], T],
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: object = None,
        timeout: float | None = None,
    ) -> T:
        """Send a request until the relay gives a final answer or the deadline is near, and return it as read by `read`.

        A submit, which is the only request with a body, fails with `outcome_unknown` if any attempt may have been
        accepted: a later refusal does not undo an earlier acceptance.
        """
        pause, unknown = FIRST_PAUSE, False
        while True:
            try:
                response = await self._send(method, path, headers=headers, body=body, timeout=timeout)
            except ClosedClientError as error:
                raise client_closed(error) from error
            except EXPECTED as error:
                failure, asked = unreachable(self.base_url, error), None
                origin: Exception | None = error
                unknown = unknown or may_have_arrived(error)
            else:
                try:
                    return read_answer(read, response)
                except RelayError as error:
                    failure = error
                asked, origin = asked_delay(response), None
                unknown = unknown or not accepted_nothing(response, failure.code)
            failure.outcome_unknown = unknown and body is not None
            final = origin is None and failure.status not in PASSING
            delay = pause if asked is None else asked
            try:
                if final or delay >= _left():
                    raise failure from origin
            finally:
                del failure, origin  # their tracebacks hold this frame, and would form a cycle with it
            await sleep(delay)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        options: dict[str, Any] = {"headers": dict(headers or {}), "timeout": httpx.Timeout(timeout, connect=5.0)}
        if body is not None:
            options["content"] = json.dumps(body, ensure_ascii=False).encode()
            options["headers"]["Content-Type"] = "application/json"

        def send(_: object) -> object:
            # The limit covers the whole answer: a relay or a proxy that drips must not keep a poll from being repeated.
            with sdk_call(timeout):
                answer = self._http.request(method, self.base_url + path, **options)
            # The limit of an asynchronous request must be set while it is awaited.
            return _within(timeout, answer) if inspect.isawaitable(answer) else answer

        return await call(send)  # type: ignore[no-any-return]

    def unconfirmed(self, key: str, arguments: Arguments, error: RelayError) -> ResearchUnconfirmedError:
        """Return the error for a run that this relay may have accepted although its `POST` failed with `error`."""
        return ResearchUnconfirmedError(
            f"the relay did not confirm the research run: {error.cause}",
            idempotency_key=key,
            arguments=arguments,
            relay_base_url=self.base_url,
            status=error.status,
            code=error.code,
            message=error.message,
        )

    def deadline_of(self, timeout: float | Deadline | None) -> Deadline:
        """Return the deadline of one call: `timeout`, else the client's, unless an enclosing deadline is nearer."""
        if isinstance(timeout, Deadline):
            return timeout
        own = Deadline(self.timeout if timeout is None else timeout)
        outer = current_deadline()
        return outer if outer is not None and outer.at <= own.at else own


def path_of(invocation_id: str) -> str:
    return f"{INVOCATIONS_PATH}/{quote(invocation_id, safe='')}"


def token_header(token: str) -> dict[str, str]:
    return {TOKEN_HEADER: header_value(token, "the invocation token (RELAY_INVOCATION_TOKEN)")}


def _checked_key(key: str) -> str:
    """Return an idempotency key that a header can carry and a relay takes. The error does not quote it, as a secret."""
    if not isinstance(key, str) or not is_visible_ascii(key) or not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY:
        raise ValueError(f"idempotency_key must be 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters, without spaces")
    return key


async def _within(timeout: float | None, answer: Awaitable[T]) -> T:
    with sdk_call(timeout):
        return await answer


def _left() -> float:
    until = current_deadline()
    return math.inf if until is None else until.remaining()
