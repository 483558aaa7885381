"""Reading the events of an invocation without I/O, from this relay or from another.

Another relay may give its events no ids, name them in `type` alone, and hold text in `data.text`, `data.output_text`
or `data.message`. What is handed on has the contract's form, each piece of the text once.
"""

from __future__ import annotations

from ..calls.lenient import read_json
from ..calls.sse import Event
from ..http_library import httpx
from ..json_object import JsonObject, within_depth
from ..transport.deadline import Deadline
from . import contract
from .relay_calls import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PASSING,
    RelayCalls,
    RelayEvent,
    invocation_path,
    research_running,
    token_header,
)
from .views import read_status, read_view

_EVENTS = frozenset({"status", "output_text", "completed", "error"})

# The relay sends a comment every 15 s: a longer silence means that the connection is dead.
EVENT_TIMEOUT = httpx.Timeout(45.0, connect=5.0)


class EventReading:
    """One invocation's events over as many connections as it takes, without I/O."""

    def __init__(self, relay: RelayCalls, invocation_id: str, token: str, last_event_id: str, until: Deadline) -> None:
        self.until = until
        self._ended = False
        self._relay = relay
        self._id, self._token = invocation_id, token
        self._last = last_event_id
        self._pause = FIRST_PAUSE
        self._pieces: list[str] = []
        self._had = 0  # characters of the text
        self._place = 0  # of the next piece, where a relay does not tell

    def request(self) -> tuple[str, dict[str, str]]:
        headers = {**token_header(self._token), "Accept": "text/event-stream"}
        if self._last:
            headers[contract.LAST_EVENT_HEADER] = self._last
        self._place = self._had if self._last else 0  # a relay without event ids begins anew
        return f"{self._relay.base_url}{invocation_path(self._id)}/events", headers

    def answered(self, response: httpx.Response) -> None:
        """Take the head of an answer. Raises RelayError when it is a refusal for good."""
        if response.status_code == 204:  # the last event was had before
            self._ended = True
        elif response.status_code >= 400 and response.status_code not in PASSING:
            raise self._relay.refused(response)

    def event(self, sse: Event) -> RelayEvent | None:
        """Take one event; None for what is not one of the contract's."""
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
        if status in contract.TERMINAL - {"completed"}:  # some relays say no more than that
            return self._end("error", sse.id, data, inner)
        return RelayEvent("status", sse.id, {**data, "status": status})

    def _piece(self, id: str, data: JsonObject, inner: JsonObject) -> RelayEvent | None:
        delta = next((text for text in (data.get("delta"), inner.get("text")) if isinstance(text, str)), "")
        offset = data.get("offset")
        start = offset if type(offset) is int and offset >= 0 else self._place
        self._place = start + len(delta)
        delta = delta[max(0, self._had - start) :]  # what was had before is not told again
        if not delta:
            return None
        self._had = self._place
        self._pieces.append(delta)
        return RelayEvent("output_text", id, {**data, "delta": delta, "offset": self._had - len(delta)})

    def _end(self, name: str, id: str, data: JsonObject, inner: JsonObject) -> RelayEvent | None:
        said = read_status(data.get("status"))
        failed = said if said in contract.TERMINAL - {"completed"} else "failed"
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
        """Whether the last event was had."""
        return self._ended

    def pause(self) -> float:
        """Seconds until the next connection. Raises ResearchRunningError when that would be too late."""
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        if pause >= self.until.remaining():
            raise research_running(self._id, self._token)
        return pause
