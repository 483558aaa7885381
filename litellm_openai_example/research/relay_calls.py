"""The relay's calls, written once without I/O for the blocking and the asynchronous helper.

A relay that restarts in the middle is waited for: reads cost nothing, and a repeated start carries the same
idempotency key, so that the relay answers it with the same invocation. The gateway's key is not known here and never
goes to the relay.
"""

from __future__ import annotations

import inspect
import json
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from openai import APIConnectionError

from ..calls.lenient import read_json
from ..calls.steps import EXPECTED, call, sleep
from ..config import (
    DEFAULT_RELAY_URL,
    ConfigurationError,
    check_url,
    header_value,
    http_allowed,
    is_visible_ascii,
    setting,
)
from ..error_table import is_web_page
from ..errors import (
    ClosedClientError,
    DeadlineExceededError,
    ErrorKind,
    GatewayError,
    LostAnswerError,
    StillRunningError,
    one_line,
)
from ..http_library import httpx
from ..json_object import JsonObject
from ..payer import Payer, resolve_payer
from ..transport.deadline import Deadline, current_deadline
from ..transport.environment import check_host
from ..transport.policy import retry_after, sdk_call
from . import contract
from .arguments import ToolArguments
from .contract import AcceptedInvocation, Invocation
from .views import read_accepted, read_view

T = TypeVar("T")
Arguments = Mapping[str, object]

_WAIT_SECONDS = 20.0  # of one wait request; then the next one, for a fresh status
_WAIT_GRACE = 10.0  # seconds more, for the answer to arrive
_CHECK_SECONDS = 5.0
_DEFAULT_FORMAT: str = ToolArguments.model_fields["deliverable_format"].default
_MOST_DETAILS = 3
_NO_RELAY = "is RELAY_BASE_URL the address of a relay?"
_HINTS = {401: "check RELAY_API_KEY", 403: "check the invocation id and RELAY_INVOCATION_TOKEN"}
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 3.0
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
# The only words of a relay under 5xx by which nothing was accepted; a lost commit may well be there after the others.
_NOTHING_ACCEPTED = frozenset({"queue_full", "shutting_down"})
# Below 500, unless it is the relay that says them: see the other answer, timed out, being processed.
_OPEN_STATUSES = frozenset({303, 408, 409})


class RelayError(GatewayError):
    """The relay cannot be reached, or refused a request; `code` is from the closed list of the contract."""


class ResearchRunningError(StillRunningError):
    """The deadline passed while the research run goes on at the relay; id and token pick it up later."""

    def __init__(self, cause: str, *, invocation_id: str, invocation_token: str) -> None:
        super().__init__(cause)
        self.invocation_id = invocation_id
        self.invocation_token = invocation_token

    @property
    def invocation(self) -> tuple[str, str]:
        """Id and token."""
        return self.invocation_id, self.invocation_token


class ResearchUnconfirmedError(StillRunningError):
    """A research run may have been accepted: the relay was sent its `POST`, and no answer tells.

    `RelayClient.invoke(error.arguments, idempotency_key=error.idempotency_key)`, at the same relay, finds the run: a
    repeat under the same key starts no second one for as long as the relay keeps the first.

    Attributes:
        idempotency_key: under which the run was posted; `str` and `repr` leave it out, as it gives the run's token.
        arguments: those of the `POST`, complete.
        relay_base_url: where it was posted.
    """

    kind = ErrorKind.UNCONFIRMED
    _unknown = "it may have been accepted; a repeat under the same key finds it"

    def __init__(
        self,
        cause: str,
        *,
        idempotency_key: str,
        arguments: Mapping[str, object],
        relay_base_url: str = "",
        **details: Any,
    ) -> None:
        super().__init__(cause, outcome_unknown=True, **details)
        self.idempotency_key = idempotency_key
        self.arguments = dict(arguments)
        self.relay_base_url = relay_base_url


class RelayEvent(NamedTuple):
    """One server-sent event: its name, its id, and its data (see `contract`)."""

    name: str
    id: str
    data: JsonObject


class RelayCalls:
    """The relay's calls as operations; what both helpers share."""

    _http: Any

    def __init__(self, base_url: str | None, api_key: str | None, timeout: float | None, paid_by: Payer | None) -> None:
        url = base_url if base_url is not None else setting("RELAY_BASE_URL") or DEFAULT_RELAY_URL
        name = "RELAY_BASE_URL" if base_url is None else "relay_base_url"
        self.base_url = check_host(check_url(url, allow_http=http_allowed(), name=name).rstrip("/"))
        key = api_key if api_key is not None else setting("RELAY_API_KEY")
        self._key = header_value(key, "RELAY_API_KEY") if key else ""
        self.timeout = timeout
        self.payer = resolve_payer() if paid_by is None else paid_by

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, timeout={self.timeout!r})"

    async def check_operation(self) -> None:
        """Find out that the relay is ready, before anything is paid for."""
        try:
            response = await self._send("GET", "/readyz", timeout=_CHECK_SECONDS)
        except EXPECTED as error:
            raise self._unreachable(error) from error
        # A relay of another make need not have this address.
        if response.status_code not in (200, 404, 405):
            raise self.refused(response)

    async def invoke_operation(self, arguments: Arguments, idempotency_key: str | None = None) -> AcceptedInvocation:
        """Start a research run; repeated with the same key until the relay has answered.

        Raises:
            ResearchUnconfirmedError: it may have been accepted, and the deadline passed or the answer was lost.
            RelayError: it was certainly not accepted.
            ValueError: the key cannot be sent.
        """
        key = uuid.uuid4().hex if idempotency_key is None else _checked_key(idempotency_key)
        headers = {contract.IDEMPOTENCY_HEADER: key, **self.payer.headers}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # Other relays demand the form of the result.
        given = {"deliverable_format": _DEFAULT_FORMAT, **arguments}
        body = {"tool_name": contract.TOOL_NAME, "arguments": given}
        try:
            return await self._until_answered(read_accepted, "POST", contract.INVOCATIONS_PATH, headers, body)
        except RelayError as error:
            if error.outcome_unknown:
                raise self.unconfirmed(key, given, error) from error
            raise

    async def get_operation(self, invocation_id: str, token: str) -> Invocation:
        """Look at an invocation."""
        return await self._until_answered(read_view, "GET", invocation_path(invocation_id), token_header(token))

    async def cancel_operation(self, invocation_id: str, token: str) -> Invocation:
        """Cancel an invocation."""
        path = f"{invocation_path(invocation_id)}/cancel"
        return await self._until_answered(read_view, "POST", path, token_header(token))

    async def wait_operation(
        self, invocation_id: str, token: str, on_view: Callable[[Invocation], None] | None = None
    ) -> Invocation:
        """Wait until an invocation has ended.

        Raises:
            ResearchRunningError: the deadline passed first.
        """
        pause = FIRST_PAUSE
        while True:
            left = _left()
            seconds = min(_WAIT_SECONDS, max(0.0, left - 0.2))
            path = f"{invocation_path(invocation_id)}/wait?timeout={seconds:.3f}"
            try:
                headers, limit = token_header(token), seconds + _WAIT_GRACE
                view = await self._until_answered(read_view, "GET", path, headers, timeout=limit)
            except RelayError as error:
                # It was asked again until the deadline was near: the run is none the worse for it.
                if isinstance(error.__cause__, ClosedClientError):
                    raise
                if error.status is None or error.status in PASSING:
                    raise research_running(invocation_id, token, str(error)) from error
                raise
            if on_view is not None:
                on_view(view)
            if view.finished:
                return view
            if _left() <= 0.2:
                raise research_running(invocation_id, token)
            # A relay that answers too early (it is about to stop, or never waits) must not be asked in a tight loop.
            pause = FIRST_PAUSE if left - _left() > seconds / 2 else min(pause * 2, LONGEST_PAUSE)
            await sleep(max(0.0, min(pause, _left() - 0.2)))

    async def _until_answered(
        self,
        read: Callable[[JsonObject], T],
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: object = None,
        timeout: float | None = None,
    ) -> T:
        """Send until the relay has answered for good, or the deadline is near.

        A failure to create, which is what has a body, is told with `outcome_unknown` if any attempt may have been
        accepted.
        """
        pause, unknown = FIRST_PAUSE, False
        while True:
            try:
                response = await self._send(method, path, headers=headers, body=body, timeout=timeout)
            except ClosedClientError as error:
                raise closed(error) from error
            except EXPECTED as error:
                failure, asked = self._unreachable(error), None
                origin: Exception | None = error
                unknown = unknown or _may_have_arrived(error)
            else:
                try:
                    if response.status_code < 400:
                        return _read(read, response)
                    failure = self.refused(response)
                except RelayError as unreadable:
                    failure = unreadable
                asked, origin = _asked_delay(response), None
                unknown = unknown or not _accepted_nothing(response, failure.code)
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
            # Around all of it: a relay, or a proxy before it, that drips must not keep a wait from being repeated.
            with sdk_call(timeout):
                answer = self._http.request(method, self.base_url + path, **options)
            return _within(timeout, answer) if inspect.isawaitable(answer) else answer

        return await call(send)  # type: ignore[no-any-return]

    def unconfirmed(self, key: str, arguments: Arguments, error: RelayError) -> ResearchUnconfirmedError:
        """The error for a run that may have been accepted at this relay, although its `POST` failed with `error`."""
        return ResearchUnconfirmedError(
            f"the relay did not confirm the research run: {error.cause}",
            idempotency_key=key,
            arguments=arguments,
            relay_base_url=self.base_url,
            status=error.status,
            code=error.code,
            message=error.message,
        )

    def _unreachable(self, error: Exception) -> RelayError:
        reason = one_line(getattr(error, "what", "") or str(error)) or type(error).__name__
        hint = "is it running, and is RELAY_BASE_URL right? `make relay` in the checkout starts one here"
        return RelayError(f"the relay at {self.base_url} does not answer: {reason}", hint=hint)

    def refused(self, response: httpx.Response) -> RelayError:
        """What an answer with a status of 400 or more means."""
        code, message, hint = None, "", _NO_RELAY
        try:
            body = json.loads(response.content)
            hint = _HINTS.get(response.status_code, "")
            error = body["error"]
            code, message = one_line(str(error["code"])), one_line(str(error["message"]))
            message += _details(error.get("details"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        if response.status_code in PASSING:  # a proxy before a relay that restarts says no JSON either
            hint = ""
        return RelayError("the relay refused", status=response.status_code, code=code, message=message, hint=hint)


def _checked_key(key: str) -> str:
    """Return an idempotency key that a header can carry and a relay takes; the error does not quote it."""
    if not isinstance(key, str) or not is_visible_ascii(key) or not 1 <= len(key) <= contract.MAX_IDEMPOTENCY_KEY:
        most = contract.MAX_IDEMPOTENCY_KEY
        raise ValueError(f"idempotency_key must be 1 to {most} visible ASCII characters, without spaces")
    return key


def _may_have_arrived(error: Exception) -> bool:
    """Return True unless the request certainly never left this machine; see `transport.policy`."""
    if isinstance(error, LostAnswerError | DeadlineExceededError):
        return error.outcome_unknown
    return not isinstance(error, APIConnectionError | httpx.RequestError | ConfigurationError)


def _accepted_nothing(response: httpx.Response, code: str | None) -> bool:
    """Return True if an answer to a create, other than that of an accepted run, is a certain refusal."""
    status = response.status_code
    if status < 300:
        return is_web_page(response.headers, response.content)
    if status in _OPEN_STATUSES:
        return code in contract.API_ERRORS
    return status < 500 or code in _NOTHING_ACCEPTED


async def _within(timeout: float | None, answer: Awaitable[T]) -> T:
    with sdk_call(timeout):
        return await answer


def closed(error: ClosedClientError) -> RelayError:
    """Return the error of a call whose helper was closed before it or during it."""
    return RelayError(error.what, kind=ErrorKind.LOST, outcome_unknown=error.outcome_unknown)


def until_of(relay: RelayCalls, timeout: float | Deadline | None) -> Deadline:
    """The deadline of one call: its own, the helper's, or one around it that is nearer."""
    if isinstance(timeout, Deadline):
        return timeout
    mine = Deadline(relay.timeout if timeout is None else timeout)
    outer = current_deadline()
    return outer if outer is not None and outer.at <= mine.at else mine


def _left() -> float:
    until = current_deadline()
    return math.inf if until is None else until.remaining()


def research_running(invocation_id: str, token: str, trouble: str = "") -> ResearchRunningError:
    cause = "the deadline passed while the research run goes on" + (f" ({trouble})" if trouble else "")
    return ResearchRunningError(cause, invocation_id=invocation_id, invocation_token=token)


def invocation_path(invocation_id: str) -> str:
    return f"{contract.INVOCATIONS_PATH}/{quote(invocation_id, safe='')}"


def token_header(token: str) -> dict[str, str]:
    return {contract.TOKEN_HEADER: header_value(token, "the invocation token (RELAY_INVOCATION_TOKEN)")}


def _read(read: Callable[[JsonObject], T], response: httpx.Response) -> T:
    try:
        return read(read_json(response.content))
    except ValueError:
        cause = (
            "a web page answered, not a relay"
            if is_web_page(response.headers, response.content)
            else "the relay's answer cannot be read"
        )
        raise RelayError(cause, status=response.status_code, hint=_NO_RELAY) from None


def _details(details: object) -> str:
    """What is wrong where, as the relay says it."""
    pairs = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    told = [one_line(f"{one.get('where')}: {one.get('problem')}") for one in pairs[:_MOST_DETAILS]]
    return f" ({'; '.join(told)})" if told else ""


def _asked_delay(response: httpx.Response) -> float | None:
    seconds = retry_after(response.headers)
    return None if seconds is None else min(max(seconds, 0.1), 60.0)
