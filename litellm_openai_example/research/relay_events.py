"""Relay events: the event stream of an invocation, from this relay or another implementation, read without I/O.

Another relay may send events without ids, name them in `type` alone, and put text into `data.text`, `data.output_text`
or `data.message`. The events returned here have the contract's form, with each piece of the text once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..calls.lenient import read_json
from ..calls.sse import Event
from ..calls.steps import EXPECTED
from ..errors import ClosedClientError
from ..http_library import httpx
from ..json_object import JsonObject, within_depth
from ..transport.deadline import Deadline
from .contract import LAST_EVENT_HEADER, TERMINAL
from .relay_answers import PASSING, RelayError, client_closed, read_status, read_view, refusal, still_running

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 3.0  # seconds between two attempts; each pause is twice the one before

_EVENTS = frozenset({"status", "output_text", "completed", "error"})

# The relay sends a comment every 15 s, so a longer silence means a dead connection.
EVENT_TIMEOUT = httpx.Timeout(45.0, connect=5.0)


class RelayEvent(NamedTuple):
    """One server-sent event: its name, its id, and its data (see `contract`)."""

    name: str
    id: str
    data: JsonObject


class EventReading:
    """The events of one invocation, read over as many connections as needed.

    Args:
        url: of the event stream.
        headers: of every request.
        invocation_id: of the invocation.
        token: of the invocation.
        last_event_id: the last event that was read before; empty for all events.
        until: the deadline of the whole reading.
    """

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        invocation_id: str,
        token: str,
        last_event_id: str,
        until: Deadline,
    ) -> None:
        self.until = until
        self._ended = False
        self._url = url
        self._headers = {**headers, "Accept": "text/event-stream"}
        self._id, self._token = invocation_id, token
        self._last = last_event_id
        self._pause = FIRST_PAUSE
        self._pieces: list[str] = []
        self._had = 0  # characters of the text read so far
        self._place = 0  # offset of the next piece, for a relay that sends no offsets

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the URL and the headers of the next connection."""
        self._place = self._had if self._last else 0  # a relay without event ids starts over
        return self._url, {**self._headers, LAST_EVENT_HEADER: self._last} if self._last else self._headers

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
