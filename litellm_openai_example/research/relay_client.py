"""The relay client: `RelayClient` and `AsyncRelayClient`, on the HTTP client that the SDK itself uses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple, Self, TypeVar

import anyio

from ..calls.lenient import read_json
from ..calls.sse import Event, Events
from ..calls.steps import EXPECTED, Operation, awaitable, run, run_async
from ..errors import ClosedClientError
from ..http_library import httpx
from ..json_object import JsonObject, within_depth
from ..transport.http_clients import AsyncLiteLLMHttpxClient, LiteLLMHttpxClient
from ..transport.policy import Deadline, deadline
from .contract import LAST_EVENT_HEADER, TERMINAL, AcceptedInvocation, Invocation
from .relay_answers import PASSING, RelayError, client_closed, read_status, read_view, refusal, still_running
from .relay_calls import FIRST_PAUSE, LONGEST_PAUSE, Arguments, RelayCalls, path_of, token_header

T = TypeVar("T")

_EVENTS = frozenset({"status", "output_text", "completed", "error"})

# The relay sends a comment every 15 s, so a longer silence means a dead connection.
_EVENT_TIMEOUT = httpx.Timeout(45.0, connect=5.0)


class RelayEvent(NamedTuple):
    """One server-sent event: its name, its id, and its data (see `contract`)."""

    name: str
    id: str
    data: JsonObject


class _EventReading:
    """The events of one invocation, read without I/O over as many connections as needed.

    Another implementation of the relay may send events without ids, name them in `type` alone, and put text into
    `data.text`, `data.output_text` or `data.message`. The events returned here have the contract's form, with each
    piece of the text once.

    Args:
        relay: of the invocation.
        invocation_id: of the invocation.
        token: of the invocation.
        last_event_id: the last event that was read before; empty for all events.
        timeout: of the whole reading.
    """

    def __init__(
        self, relay: RelayCalls, invocation_id: str, token: str, last_event_id: str, timeout: float | Deadline | None
    ) -> None:
        self.until = relay.deadline_of(timeout)
        self._ended = False
        self._url = f"{relay.base_url}{path_of(invocation_id)}/events"
        self._headers = {**token_header(token), "Accept": "text/event-stream"}
        self._id, self._token = invocation_id, token
        self._last = last_event_id
        self._pause = FIRST_PAUSE
        self._pieces: list[str] = []
        self._had = 0  # characters of the text read so far
        self._place = 0  # offset of the next piece, for a relay that sends no offsets

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Return the request of the next connection."""
        self._place = self._had if self._last else 0  # a relay without event ids starts over
        headers = {**self._headers, LAST_EVENT_HEADER: self._last} if self._last else self._headers
        return http.build_request("GET", self._url, headers=headers, timeout=_EVENT_TIMEOUT)

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Suppress the failure of one connection, after which the stream is resumed on the next.

        Raises:
            RelayError: the relay refused for good, or the client is closed.
        """
        try:
            yield
        except RelayError:
            raise
        except ClosedClientError as error:
            raise client_closed(error) from error
        except EXPECTED:
            pass

    def begin(self, response: httpx.Response) -> bool:
        """Return True if the answer is a stream of events. Raise RelayError if the relay refused for good."""
        if response.status_code == 204:  # the final event was read before
            self._ended = True
        elif response.status_code >= 400 and response.status_code not in PASSING:
            raise refusal(response)
        return response.status_code == 200

    def event(self, sse: Event) -> RelayEvent | None:
        """Return an event in the contract's form; None if it is not one of the contract's, or has been read before."""
        try:
            data = within_depth(read_json(sse.data))
        except ValueError:
            return None
        self._last = sse.id or self._last
        self._pause = FIRST_PAUSE
        name = sse.name if sse.name in _EVENTS else data.get("type")
        inner = data["data"] if isinstance(data.get("data"), dict) else {}
        if name == "output_text":
            return self._piece(sse.id, data, inner)
        if name in ("completed", "error"):
            return self._end(name, sse.id, data, inner)
        if name != "status":
            return None
        status = read_status(data.get("status"))
        if status in TERMINAL - {"completed"}:  # the only final event of some relays
            return self._end("error", sse.id, data, inner)
        return RelayEvent("status", sse.id, {**data, "status": status})

    def _piece(self, id: str, data: JsonObject, inner: JsonObject) -> RelayEvent | None:
        delta = next((text for text in (data.get("delta"), inner.get("text")) if isinstance(text, str)), "")
        # A relay without offsets sends all pieces again on a new connection, in the same order.
        offset = data.get("offset")
        start = offset if type(offset) is int and offset >= 0 else self._place
        self._place = start + len(delta)
        delta = delta[max(0, self._had - start) :]  # without the part that was read before
        if not delta:
            return None
        self._had = self._place
        self._pieces.append(delta)
        return RelayEvent("output_text", id, {**data, "delta": delta, "offset": self._had - len(delta)})

    def _end(self, name: str, id: str, data: JsonObject, inner: JsonObject) -> RelayEvent | None:
        status = read_status(data.get("status"))
        failed = status if status in TERMINAL - {"completed"} else "failed"
        text = next((text for text in (data.get("output_text"), inner.get("output_text")) if text), None)
        given = {
            **data,
            "invocation_id": data.get("invocation_id") or self._id,
            "status": "completed" if name == "completed" else failed,
            "output_text": text or "".join(self._pieces) or None,
            "error_message": data.get("error_message") or inner.get("message"),
        }
        try:
            view = read_view(given)
        except ValueError:
            return None
        self._ended = True
        return RelayEvent(name, id, {**data, **view.model_dump(mode="json")})

    def ended(self) -> bool:
        """Has the final event been read, now or before?"""
        return self._ended

    def pause(self) -> float:
        """Return the seconds until the next connection. Raise ResearchRunningError if the deadline comes first."""
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        if pause >= self.until.remaining():
            raise still_running(self._id, self._token)
        return pause


class RelayClient(RelayCalls):
    """A blocking client of a relay.

    Args:
        base_url: the relay's root; by default `RELAY_BASE_URL`, else `http://127.0.0.1:8080`.
        api_key: of the relay, if it requires one; by default `RELAY_API_KEY`.
        timeout: seconds for a whole call, reconnects included; None for no limit.
        payer: billing identity of the runs that it submits; by default from `LITELLM_TAGS` and `LITELLM_END_USER`.

    Every method accepts a `timeout` in seconds. It raises `RelayError`, or `ResearchRunningError` if the deadline
    passes while a run continues.
    """

    _http_type = LiteLLMHttpxClient

    def check(self, *, timeout: float | None = None) -> None:
        """Raise `RelayError` unless the relay is ready."""
        return self._run(self.check_operation(), timeout)

    def invoke(
        self, arguments: Arguments, *, idempotency_key: str | None = None, timeout: float | None = None
    ) -> AcceptedInvocation:
        """Submit a research run, and wait for it unless `background` or `stream` is set in the arguments.

        Args:
            arguments: of the run; see `research.arguments`. With a `window` ("2h" or "8h") set `background` too: a run
                may take that long.
            idempotency_key: a repeat under the same key returns the run of the first call; random by default.
            timeout: seconds.

        Raises:
            ResearchUnconfirmedError: the run may have been accepted, but no answer confirms it. A repeat with the
                error's `arguments` and `idempotency_key` finds the run.
            RelayError: nothing was accepted.
            ValueError: the key is not 1 to 255 visible ASCII characters; nothing was sent.
        """
        return self._run(self.invoke_operation(arguments, idempotency_key), timeout)

    def get(self, invocation_id: str, token: str, *, timeout: float | None = None) -> Invocation:
        """Return the current view of an invocation."""
        return self._run(self.until_answered(read_view, "GET", path_of(invocation_id), token_header(token)), timeout)

    def wait(
        self,
        invocation_id: str,
        token: str,
        timeout: float | None = None,
        *,
        on_view: Callable[[Invocation], None] | None = None,
    ) -> Invocation:
        """Wait until an invocation has ended, and return its final view.

        Args:
            invocation_id: of the invocation.
            token: of the invocation.
            timeout: seconds.
            on_view: called with the view of every poll.
        """
        return self._run(self.wait_operation(invocation_id, token, on_view), timeout)

    def cancel(self, invocation_id: str, token: str, *, timeout: float | None = None) -> Invocation:
        """Cancel an invocation, and return its view."""
        path = f"{path_of(invocation_id)}/cancel"
        return self._run(self.until_answered(read_view, "POST", path, token_header(token)), timeout)

    def events(
        self, invocation_id: str, token: str, *, last_event_id: str = "", timeout: float | Deadline | None = None
    ) -> Iterator[RelayEvent]:
        """Yield the events of an invocation up to the final one, over as many connections as needed.

        Args:
            invocation_id: of the invocation.
            token: of the invocation.
            last_event_id: yield the events after this one; by default all.
            timeout: seconds for all events together.
        """
        reading = _EventReading(self, invocation_id, token, last_event_id, timeout)
        while not reading.ended():
            with reading.connection():
                with deadline(reading.until):
                    response = self._http.send(reading.request(self._http), stream=True)
                try:
                    if response.status_code >= 400:
                        response.read()
                    if reading.begin(response):
                        for sse in Events(response):
                            event = reading.event(sse)
                            if event is not None:
                                yield event
                            if reading.ended():
                                return
                finally:
                    response.close()
            if not reading.ended():
                time.sleep(reading.pause())

    def _run(self, operation: Operation[T], timeout: float | None) -> T:
        with closing(operation), deadline(self.deadline_of(timeout)):
            return run(self._http, operation)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncRelayClient(RelayCalls):
    """An asynchronous client of a relay; see `RelayClient`, which has the same methods."""

    _http_type = AsyncLiteLLMHttpxClient

    check = awaitable(RelayClient.check)
    invoke = awaitable(RelayClient.invoke)
    get = awaitable(RelayClient.get)
    wait = awaitable(RelayClient.wait)
    cancel = awaitable(RelayClient.cancel)

    async def events(
        self, invocation_id: str, token: str, *, last_event_id: str = "", timeout: float | Deadline | None = None
    ) -> AsyncIterator[RelayEvent]:
        """See `RelayClient.events`."""
        reading = _EventReading(self, invocation_id, token, last_event_id, timeout)
        while not reading.ended():
            with reading.connection():
                with deadline(reading.until):
                    response = await self._http.send(reading.request(self._http), stream=True)
                try:
                    if response.status_code >= 400:
                        await response.aread()
                    if reading.begin(response):
                        async for sse in Events(response):
                            event = reading.event(sse)
                            if event is not None:
                                yield event
                            if reading.ended():
                                return
                finally:
                    await response.aclose()
            if not reading.ended():
                await anyio.sleep(reading.pause())

    async def _run(self, operation: Operation[T], timeout: float | None) -> T:
        with closing(operation), deadline(self.deadline_of(timeout)):
            return await run_async(self._http, operation)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
