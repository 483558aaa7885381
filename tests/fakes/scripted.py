"""A server that does to its clients whatever a test has written down, byte by byte if need be."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    """What to send back.

    `pause` is waited before the head, `drip` after each byte of the body, `drip_head` after each byte of everything;
    `cut` closes the connection after that many bytes of the body; `drop` closes it without a word.
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


Script = Callable[[Seen], Answer]


def reply(body: object, status: int = 200, /, **headers: str) -> Answer:
    """An answer with JSON, or with bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    named = {name if "-" in name else name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, content, {"content-type": "application/json", **named})


def sse(*events: object, pause: float = 0.0, done: bool = True) -> Answer:
    """A stream of events, JSON or raw bytes, each sent after a pause in seconds."""
    parts = [
        event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n" for event in events
    ]
    if done:
        parts.append(b"data: [DONE]\n\n")
    return Answer(headers={"content-type": "text/event-stream"}, events=[(pause, part) for part in parts])


def zipped(body: bytes) -> Answer:
    return Answer(200, gzip.compress(body), {"content-type": "application/json", "content-encoding": "gzip"})


class ScriptedServer:
    """Answers each request as `script` says; keeps what it has seen."""

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or (lambda seen: reply({"error": {"message": "not scripted"}}, 404))
        self.seen: list[Seen] = []
        self._stopped = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def connections(self) -> int:
        """How many have been made."""
        return len(self._connections)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "POST"]

    def answers(self, *answers: Answer) -> None:
        """Give these answers one after the other, the last one again and again."""
        left = list(answers)
        lock = threading.Lock()

        def script(_: Seen) -> Answer:
            with lock:
                return left.pop(0) if len(left) > 1 else left[0]

        self.script = script

    def wrap(self, connection: socket.socket) -> socket.socket:
        """The connection as it is spoken over; TLS in a subclass."""
        return connection

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in [self._accepting, *self._threads]:
            thread.join(5)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._connections.append(connection)
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with plain, self.wrap(plain) as connection, connection.makefile("rb") as file:
                while (seen := _read(file)) is not None:
                    self.seen.append(seen)
                    if not self._send(connection, self.script(seen)):
                        return
        except (OSError, ValueError):
            pass

    def _send(self, connection: socket.socket, answer: Answer) -> bool:
        """Send an answer; whether the connection can be used again."""
        if answer.drop:
            return False
        self._stopped.wait(answer.pause)
        streams = bool(answer.events)
        length = {} if streams else {"content-length": str(len(answer.body))}
        headers = {**length, **({"connection": "close"} if streams else {}), **answer.headers}
        head = f"HTTP/1.1 {answer.status} Status\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        if answer.drip_head:
            self._drip(connection, head.encode() + answer.body, answer.drip_head)
            return True
        connection.sendall(head.encode())
        for pause, event in answer.events:
            self._stopped.wait(pause)
            connection.sendall(event)
        if streams:
            return False
        body = answer.body if answer.cut is None else answer.body[: answer.cut]
        if answer.drip:
            self._drip(connection, body, answer.drip)
        else:
            connection.sendall(body)
        return answer.cut is None

    def _drip(self, connection: socket.socket, content: bytes, pause: float) -> None:
        for byte in content:
            if self._stopped.wait(pause):
                return
            connection.sendall(bytes([byte]))


def _read(file: Any) -> Seen | None:
    line = file.readline().decode("latin-1")
    if not line.strip():
        return None
    method, path, _ = line.split(" ", 2)
    headers = {}
    while (line := file.readline().decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Seen(method, path, headers, file.read(int(headers.get("content-length", 0))))


def chat_body(text: object = "OK", reason: object = "stop", **message: object) -> Json:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o", "choices": [choice], "usage": usage}


def response_body(text: object = "OK", status: object = "completed", **fields: object) -> Json:
    """A response of the Responses API."""
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
    """The chunks of a chat stream; without an end when `reason` is None."""
    base = {"id": "chatcmpl-1", "model": "gpt-4o"}
    events = [{**base, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    end = [{**base, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}] if reason else []
    return [*events, *end]


def response_events(*texts: str, end: Json | None = None) -> list[Json]:
    """The events of a response stream, with a last one of the test's choice or none at all."""
    created = {"type": "response.created", "response": response_body(None, "in_progress")}
    deltas = [{"type": "response.output_text.delta", "delta": text, "output_index": 0} for text in texts]
    return [created, *deltas, *([end] if end else [])]


COMPLETED = {"type": "response.completed", "response": response_body("OK")}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether a condition comes true within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())
