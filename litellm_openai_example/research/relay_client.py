"""The relay helper: `RelayClient` and `AsyncRelayClient`, on the HTTP client that the SDK itself uses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any, Self, TypeVar

import anyio

from ..calls.sse import Events
from ..calls.steps import EXPECTED, Operation, run, run_async
from ..errors import ClosedClientError
from ..payer import Payer
from ..transport.bodies import MAX_ANSWER
from ..transport.deadline import Deadline, deadline
from ..transport.environment import tls_options
from ..transport.http_clients import AsyncLiteLLMHttpxClient, LiteLLMHttpxClient
from .contract import AcceptedInvocation, Invocation
from .event_reading import EVENT_TIMEOUT, EventReading
from .relay_calls import Arguments, RelayCalls, RelayError, RelayEvent, closed, until_of

T = TypeVar("T")


class RelayClient(RelayCalls):
    """Talks to a relay, blocking.

    Args:
        base_url: the relay's root; else `RELAY_BASE_URL`, else `http://127.0.0.1:8080`.
        api_key: of the relay, if it wants one; else `RELAY_API_KEY`.
        timeout: seconds that a whole call may take, reconnects included; None for no limit.
        payer: who pays for the runs that it starts; else by `LITELLM_TAGS` and `LITELLM_END_USER`.

    Every method accepts a `timeout` in seconds, and raises `RelayError` or, when the deadline passes while a run
    goes on, `ResearchRunningError`.
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
        """Return if the relay is ready."""
        self._run(self.check_operation(), timeout)

    def invoke(
        self, arguments: Arguments, *, idempotency_key: str | None = None, timeout: float | None = None
    ) -> AcceptedInvocation:
        """Start a research run. In the foreground (neither `background` nor `stream` in the arguments) wait for it.

        Args:
            arguments: of the run; see `contract`.
            idempotency_key: makes a repeat return the run that the first call started; else a new one.
            timeout: seconds.

        Raises:
            ResearchUnconfirmedError: the run may have been accepted, and no answer tells. A repeat with its `arguments`
                and `idempotency_key` finds the run.
            RelayError: nothing was accepted.
            ValueError: the key is not 1 to 255 visible ASCII characters; nothing was sent.
        """
        return self._run(self.invoke_operation(arguments, idempotency_key), timeout)

    def get(self, invocation_id: str, token: str, *, timeout: float | None = None) -> Invocation:
        """The invocation as it is now."""
        return self._run(self.get_operation(invocation_id, token), timeout)

    def wait(self, invocation_id: str, token: str, timeout: float | None = None) -> Invocation:
        """The invocation once it has ended."""
        return self._run(self.wait_operation(invocation_id, token), timeout)

    def cancel(self, invocation_id: str, token: str, *, timeout: float | None = None) -> Invocation:
        """Cancel the invocation."""
        return self._run(self.cancel_operation(invocation_id, token), timeout)

    def events(
        self, invocation_id: str, token: str, *, last_event_id: str = "", timeout: float | Deadline | None = None
    ) -> Iterator[RelayEvent]:
        """The invocation's events until the last one, over as many connections as it takes."""
        reading = EventReading(self, invocation_id, token, last_event_id, until_of(self, timeout))
        while not reading.ended():
            url, headers = reading.request()
            try:
                with deadline(reading.until):
                    request = self._http.build_request("GET", url, headers=headers, timeout=EVENT_TIMEOUT)
                    response = self._http.send(request, stream=True)
                try:
                    if response.status_code >= 400:
                        response.read()
                    reading.answered(response)
                    if response.status_code == 200:
                        for sse in Events(response):
                            event = reading.event(sse)
                            if event is not None:
                                yield event
                            if reading.ended():
                                return
                finally:
                    response.close()
            except RelayError:
                raise
            except ClosedClientError as error:
                raise closed(error) from error
            except EXPECTED:
                pass  # whatever broke: the stream is taken up again
            if not reading.ended():
                time.sleep(reading.pause())

    def _run(self, operation: Operation[T], timeout: float | None) -> T:
        with closing(operation), deadline(until_of(self, timeout)):
            return run(self._http, operation)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncRelayClient(RelayCalls):
    """Talks to a relay, asynchronously; see `RelayClient`, which has the same methods."""

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

    async def wait(self, invocation_id: str, token: str, timeout: float | None = None) -> Invocation:
        """See `RelayClient.wait`."""
        return await self._run(self.wait_operation(invocation_id, token), timeout)

    async def cancel(self, invocation_id: str, token: str, *, timeout: float | None = None) -> Invocation:
        """See `RelayClient.cancel`."""
        return await self._run(self.cancel_operation(invocation_id, token), timeout)

    async def events(
        self, invocation_id: str, token: str, *, last_event_id: str = "", timeout: float | Deadline | None = None
    ) -> AsyncIterator[RelayEvent]:
        """See `RelayClient.events`."""
        reading = EventReading(self, invocation_id, token, last_event_id, until_of(self, timeout))
        while not reading.ended():
            url, headers = reading.request()
            try:
                with deadline(reading.until):
                    request = self._http.build_request("GET", url, headers=headers, timeout=EVENT_TIMEOUT)
                    response = await self._http.send(request, stream=True)
                try:
                    if response.status_code >= 400:
                        await response.aread()
                    reading.answered(response)
                    if response.status_code == 200:
                        async for sse in Events(response):
                            event = reading.event(sse)
                            if event is not None:
                                yield event
                            if reading.ended():
                                return
                finally:
                    await response.aclose()
            except RelayError:
                raise
            except ClosedClientError as error:
                raise closed(error) from error
            except EXPECTED:
                pass  # whatever broke: the stream is taken up again
            if not reading.ended():
                await anyio.sleep(reading.pause())

    async def _run(self, operation: Operation[T], timeout: float | None) -> T:
        with closing(operation), deadline(until_of(self, timeout)):
            return await run_async(self._http, operation)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
