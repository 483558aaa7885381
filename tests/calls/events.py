"""Bodies and events of both APIs for the tests of the readers."""

from __future__ import annotations

import json
from typing import Any

from litellm_openai_example.calls.accumulator import Accumulator

Json = dict[str, Any]


def chunk(
    text: str | None = None, reason: object = None, index: object = 0, *, delta: Json | None = None, **more: Any
) -> Json:
    """Return a chunk of a chat stream; `delta` and `more` are further fields of its delta and its choice."""
    content = {} if text is None else {"content": text}
    choice = {"index": index, "delta": {**content, **(delta or {})}, "finish_reason": reason, **more}
    return {"id": "c1", "choices": [choice]}


def whole(text: str | None, reason: str = "stop", **more: Any) -> Json:
    """Return a whole chat answer; `more` are further fields of its message."""
    return {"id": "c1", "choices": [{"index": 0, "message": {"content": text, **more}, "finish_reason": reason}]}


def message(text: str, **more: Any) -> Json:
    """Return a message, as an output item of a response."""
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **more}


def delta(text: str, **more: Any) -> Json:
    """Return the event for a piece of a response's text."""
    return {"type": "response.output_text.delta", "delta": text, **more}


def completed(*output: Json, **more: Any) -> Json:
    """Return the last event of a response with these items."""
    response = {"id": "r", "status": "completed", "output": list(output), **more}
    return {"type": "response.completed", "response": response}


def lines(*events: object, before: str = "data: ", after: str = "\n\n", between: str = "") -> str:
    """Return the events as a server sends them."""
    return between.join(f"{before}{json.dumps(event)}{after}" for event in events)


def fed(reader: Accumulator, *events: object) -> str:
    """Feed these events to the reader, each freshly parsed, and return the text that it shows."""
    return "".join(reader.feed(json.loads(json.dumps(event))) for event in events) + reader.rest()
