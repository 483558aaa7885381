"""The relay client: `RelayClient` and `AsyncRelayClient`, on the HTTP client that the SDK itself uses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any, Self, TypeVar

import anyio

from ..calls.sse import Events
from ..calls.steps import Operation, run, run_async
from ..payer import Payer
from ..transport.bodies import MAX_ANSWER
from ..transport.deadline import Deadline, deadline
from ..transport.environment import tls_options
from ..transport.http_clients import AsyncLiteLLMHttpxClient, LiteLLMHttpxClient
from .contract import AcceptedInvocation, Invocation
from .relay_calls import Arguments, RelayCalls
from .relay_events import EVENT_TIMEOUT, RelayEvent

T = TypeVar("T")


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

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | None = 30.0,
        *,
        payer: Payer | None = None,
        **options: Any,
    ) -> None:
        super().__init__(base_url, api_key, timeout, payer)
        self._http = LiteLLMHttpxClient(**tls_options(self.base_url, {"max_answer": MAX_ANSWER, **options}))

    def check(self, *, timeout: float | None = None) -> None:
        """Raise `RelayError` unless the relay is ready."""
        self._run(self.check_operation(), timeout)

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
        return self._run(self.get_operation(invocation_id, token), timeout)

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
        return self._run(self.cancel_operation(invocation_id, token), timeout)

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
        reading = self.event_reading(invocation_id, token, last_event_id, timeout)
        while not reading.ended():
            url, headers = reading.request()
            with reading.connection():
                with deadline(reading.until):
                    request = self._http.build_request("GET", url, headers=headers, timeout=EVENT_TIMEOUT)
                    response = self._http.send(request, stream=True)
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

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | None = 30.0,
        *,
        payer: Payer | None = None,
        **options: Any,
    ) -> None:
        super().__init__(base_url, api_key, timeout, payer)
        self._http = AsyncLiteLLMHttpxClient(**tls_options(self.base_url, {"max_answer": MAX_ANSWER, **options}))

    async def check(self, *, timeout: float | None = None) -> None:
        """See `RelayClient.check`."""
        await self._run(self.check_operation(), timeout)

    async def invoke(
        self, arguments: Arguments, *, idempotency_key: str | None = None, timeout: float | None = None
    ) -> AcceptedInvocation:
        """See `RelayClient.invoke`."""
        return await self._run(self.invoke_operation(arguments, idempotency_key), timeout)

    async def get(self, invocation_id: str, token: str, *, timeout: float | None = None) -> Invocation:
        """See `RelayClient.get`."""
        return await self._run(self.get_operation(invocation_id, token), timeout)

    async def wait(
        self,
        invocation_id: str,
        token: str,
        timeout: float | None = None,
        *,
        on_view: Callable[[Invocation], None] | None = None,
    ) -> Invocation:
        """See `RelayClient.wait`."""
        return await self._run(self.wait_operation(invocation_id, token, on_view), timeout)

    async def cancel(self, invocation_id: str, token: str, *, timeout: float | None = None) -> Invocation:
        """See `RelayClient.cancel`."""
        return await self._run(self.cancel_operation(invocation_id, token), timeout)

    async def events(
        self, invocation_id: str, token: str, *, last_event_id: str = "", timeout: float | Deadline | None = None
    ) -> AsyncIterator[RelayEvent]:
        """See `RelayClient.events`."""
        reading = self.event_reading(invocation_id, token, last_event_id, timeout)
        while not reading.ended():
            url, headers = reading.request()
            with reading.connection():
                with deadline(reading.until):
                    request = self._http.build_request("GET", url, headers=headers, timeout=EVENT_TIMEOUT)
                    response = await self._http.send(request, stream=True)
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
