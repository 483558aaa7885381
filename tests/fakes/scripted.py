"""Scripted answers, recorded requests, and common bodies for fake gateways and relays."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

KEY = "sk-test-5ecret-k3y-of-the-gateway"

Json = dict[str, Any]


@dataclass
class Seen:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class Answer:
    """One scripted answer.

    Attributes:
        pause: seconds before the head.
        drip, drip_head: seconds after each byte of the body, or of the whole answer.
        cut: bytes of the body after which the connection is closed.
        drop: close the connection without an answer.
        events: the pieces of a stream, each after a pause in seconds.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    pause: float = 0.0
    drip: float = 0.0
    drip_head: float = 0.0
    cut: int | None = None
    drop: bool = False
    events: Sequence[tuple[float, bytes]] = ()

    @property
    def breaks_http(self) -> bool:
        """True if this needs a raw socket."""
        return self.drop or self.cut is not None or bool(self.drip or self.drip_head)


Script = Callable[[Seen], Answer]


def reply(body: object, status: int = 200, /, **headers: str) -> Answer:
    """Return an answer with a JSON body, or with raw bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    named = {name if "-" in name else name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, content, {"content-type": "application/json", **named})


def sse(*events: object, pause: float = 0.0, done: bool = True) -> Answer:
    """Return a stream of events, JSON or raw bytes, each sent after a pause in seconds."""
    parts = [
        event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n" for event in events
    ]
    if done:
        parts.append(b"data: [DONE]\n\n")
    return Answer(headers={"content-type": "text/event-stream"}, events=[(pause, part) for part in parts])


def zipped(body: bytes) -> Answer:
    return Answer(200, gzip.compress(body), {"content-type": "application/json", "content-encoding": "gzip"})


class ScriptedServer(ABC):
    """A server that answers each request by `script` and records it.

    `fakes.served.FakeGateway` speaks plain HTTP, and `fakes.raw.RawServer` keeps connections.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or (lambda seen: reply({"error": {"message": "not scripted"}}, 404))
        self.seen: list[Seen] = []

    @property
    @abstractmethod
    def port(self) -> int:
        """The listening port."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "POST"]

    def answers(self, *answers: Answer) -> None:
        """Answer with these in order, then repeat the last."""
        left = list(answers)
        lock = threading.Lock()

        def script(_: Seen) -> Answer:
            with lock:
                return left.pop(0) if len(left) > 1 else left[0]

        self.script = script

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exc: object) -> None: ...


def chat_body(text: object = "OK", reason: object = "stop", **message: object) -> Json:
    """Return a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o", "choices": [choice], "usage": usage}


def response_body(text: object = "OK", status: object = "completed", **fields: object) -> Json:
    """Return a response of the Responses API."""
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    return {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-4o",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": [] if text is None else [message],
        "usage": {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4},
        **fields,
    }


def chat_events(*texts: str, reason: str | None = "stop") -> list[Json]:
    """Return the chunks of a chat stream; without an end when `reason` is None."""
    base = {"id": "chatcmpl-1", "model": "gpt-4o"}
    events = [{**base, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    end = [{**base, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}] if reason else []
    return [*events, *end]


def response_events(*texts: str, end: Json | None = None) -> list[Json]:
    """Return the events of a response stream; `end` is the last one, if any."""
    created = {"type": "response.created", "response": response_body(None, "in_progress")}
    deltas = [{"type": "response.output_text.delta", "delta": text, "output_index": 0} for text in texts]
    return [created, *deltas, *([end] if end else [])]


COMPLETED = {"type": "response.completed", "response": response_body("OK")}


def free_port() -> int:
    """Return a local port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], object], seconds: float = 150.0) -> bool:
    """Poll a condition; return True once it holds, or its last value after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())
