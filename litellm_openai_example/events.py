"""Server-sent events of a gateway, whatever it calls them.

The SDK's own reader takes an event without data for a broken one; the HTTP library's follows the standard.
"""

from __future__ import annotations

from collections.abc import Mapping

from httpx2 import EventSource, Response, ServerSentEvent

from .answer import load_json
from .bodies import MAX_ANSWER
from .explain import explain_body

DONE = "[DONE]"


def has_events(headers: Mapping[str, str]) -> bool:
    """Whether an answer to a request with `stream` is a stream: a gateway that ignores it answers with plain JSON."""
    content_type = headers.get("content-type", "").lower()
    return "json" not in content_type and "html" not in content_type


def events_of(response: Response) -> EventSource:
    """The events of a body; to be read with `for` or `async for`, as the client is."""
    # It may be labelled text/plain, with another charset, or not at all.
    response.headers["content-type"] = "text/event-stream"
    response.encoding = "utf-8-sig"
    return EventSource(response, max_event_size=MAX_ANSWER)


def data_of(event: ServerSentEvent) -> object:
    """The JSON of an event, None if it has none or is the `[DONE]` at the end.

    Raises:
        GatewayError: it reports an error.
        ValueError: it cannot be read.
    """
    if event.data.startswith(DONE) or not event.data.strip():
        return None
    data = load_json(event.data)
    if isinstance(data, dict):
        if data.get("error") or event.event == "error":
            raise explain_body({"error": data.get("error") or data})
        data.setdefault("type", event.event)
    return data
