"""A gateway for the relay's tests that counts paid requests and fails on demand.

It speaks plain HTTP over asyncio streams in a separate thread, so that it can cut a body, drip it or stay silent, and
so that its counts and hooks need no locks: tests set them while hundreds of responses are open. The soak uses it too.

It does not use pytest-httpserver, as `served.FakeGateway` does. Most of the relay's tests could: in a trial, those of
faults, prompts and payers took as long, 177 s against 180 s. But a request takes ten times the processor time (1.0 ms
against 0.1 ms), a waiting request takes a thread (2,000 of them for 5 s: 5.4 s of processor time against 0.6 s), and a
connection ends with each answer, so that no test could see a relay reuse one. The soak has not been tried on it, and
two fake gateways would have to be kept alike.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-gateway-key-that-must-not-leak"
SECRET_WORDS = "upstream-words-that-must-not-leak http://internal.example:9999"

Json = dict[str, Any]


@dataclass
class Fault:
    """A failure in place of a good answer.

    Attributes:
        kind: status (answer with `status` and `body`), drop, hang, hold (in a stream: ask again soon), cut (half of a
            good answer), garbage, empty, foreign
            (an answer from something other than LiteLLM: `status`, `body` as text, `headers` with its content type).
    """

    kind: str
    status: int = 500
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    paid: bool = False


def error(message: str, status: int) -> Json:
    """Return an error body in LiteLLM's format."""
    return {"error": {"message": message, "type": None, "param": None, "code": str(status)}}


@dataclass
class Work:
    """One response at the gateway."""

    id: str
    request: Json
    seconds: float
    final: Json
    pieces: list[str]
    created: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    gets: int = 0

    @property
    def prompt(self) -> str:
        return str(self.request.get("input"))

    def now(self) -> Json:
        base: Json = {"id": self.id, "object": "response", "model": self.request.get("model"), "output": []}
        if self.cancelled:
            return base | {"status": "cancelled"}
        if time.monotonic() - self.created < self.seconds:
            return base | {"status": "in_progress"}
        return base | self.final


def message(text: str, **extra: Any) -> Json:
    """Return a completed response with one text."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"status": "completed", "output": [{"type": "message", "role": "assistant", "content": [part]}], **extra}


class Gateway:
    """A fake LiteLLM that serves `/v1/responses`, and `/v1/chat/completions` without streams.

    Its settings may be changed while requests are open.

    Attributes:
        accept: seconds until a submission is answered.
        seconds: duration of a response.
        bridged: ignore `background`, block until done, and refuse polls.
        final: the response at its end, from the request.
        pieces: the deltas of a streamed text.
        on_post, on_get: may return a Fault; they get the request or the work, and the number of the attempt.
        during_stream: may return a Fault; gets the number of pieces sent, -1 before the first event.
        unasked: stream every answer, requested or not.
        answers_as: the model named in the first answer to a submission, if any.
        headers: headers of that answer.
        paid: number of executions per prompt.
    """

    def __init__(self) -> None:
        self.accept = 0.0
        self.seconds = 0.2
        self.bridged = False
        self.final: Callable[[Json], Json] = lambda request: message("The answer.")
        self.pieces = ["The ", "answer", "."]
        self.on_post: Callable[[Json, int], Fault | None] = lambda request, n: None
        self.on_get: Callable[[Work, int], Fault | None] = lambda work, n: None
        self.on_cancel: Callable[[Work], Fault | None] = lambda work: None
        self.during_stream: Callable[[int], Fault | None] = lambda sent: None
        self.unasked = False
        self.poll_after_ms: int | None = None
        self.cost = "0.25"
        self.answers_as: object = None
        self.headers: dict[str, str] = {}
        self.posts: list[Json] = []
        self.post_headers: list[dict[str, str]] = []
        self.get_headers: list[dict[str, str]] = []
        self.paid: Counter[str] = Counter()
        self.gets = 0
        self.cancels = 0
        self.works: dict[str, Work] = {}
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, port: int = 0) -> Gateway:
        self.port = port
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def finish(self) -> None:
        """Complete all running responses."""
        for work in list(self.works.values()):
            work.seconds = 0.0

    def stop(self) -> None:
        async def end() -> None:
            self._server.close()
            connections = asyncio.all_tasks() - {asyncio.current_task()}
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
            await asyncio.sleep(0.01)  # the transports close in further steps of the loop
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join(60)

    def _main(self) -> None:
        self._loop = asyncio.new_event_loop()

        async def serve() -> None:
            self._server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=2048)
            self.port = self._server.sockets[0].getsockname()[1]
            self._ready.set()

        self._loop.run_until_complete(serve())
        self._loop.run_forever()
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                line = await reader.readline()
                if not line:
                    return
                method, path, _ = line.decode().split(" ", 2)
                headers = {}
                while (line := await reader.readline()).strip():
                    name, _, value = line.decode().partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if headers.get("authorization") != f"Bearer {KEY}":
                    await self._send(writer, 401, {"error": {"message": f"wrong key {SECRET_WORDS}"}})
                    continue
                await self._route(writer, method, path, json.loads(body) if body else {}, headers)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, _Dropped):
            pass
        finally:
            writer.close()

    async def _route(
        self, writer: asyncio.StreamWriter, method: str, path: str, body: Json, headers: dict[str, str]
    ) -> None:
        parts = path.removeprefix("/v1/").split("/")
        if method == "POST" and parts == ["responses"]:
            return await self._create(writer, body, headers)
        if method == "POST" and parts == ["chat", "completions"]:
            return await self._complete(writer, body, headers)
        work = self.works.get(parts[1]) if len(parts) > 1 else None
        if work is None:
            return await self._send(writer, 404, error(f"not found {SECRET_WORDS}", 404))
        if self.bridged:
            return await self._send(writer, 500, error("GET responses is not supported for custom", 500))
        if method == "POST":
            self.cancels += 1
            fault = self.on_cancel(work)
            if fault is None and time.monotonic() - work.created >= work.seconds and not work.cancelled:
                fault = Fault("status", 400, error("Cannot cancel a completed response.", 400))
            if fault is not None:
                return await self._break(writer, fault, work)
            work.cancelled = True
            return await self._send(writer, 200, work.now())
        self.get_headers.append(headers)
        self.gets += 1
        work.gets += 1
        fault = self.on_get(work, work.gets)
        if fault is not None:
            return await self._break(writer, fault, work)
        extra = {} if self.poll_after_ms is None else {"openai-poll-after-ms": str(self.poll_after_ms)}
        if work.now()["status"] == "completed":
            extra["x-litellm-response-cost"] = self.cost
        # As LiteLLM does it: another id on each reply.
        return await self._send(writer, 200, work.now() | {"id": f"{work.id}-{work.gets}"}, extra)

    async def _create(self, writer: asyncio.StreamWriter, body: Json, headers: dict[str, str]) -> None:
        self.posts.append(body)
        self.post_headers.append(headers)
        fault = self.on_post(body, len(self.posts))
        if fault is not None and not fault.paid:
            return await self._break(writer, fault, None)
        self.paid[str(body.get("input"))] += 1
        work = Work(f"resp_{len(self.works)}", body, self.seconds, self.final(body), list(self.pieces))
        self.works[work.id] = work
        if fault is not None:
            return await self._break(writer, fault, work)
        await _passed(lambda: self.accept)
        if body.get("stream") or self.unasked:
            return await self._stream(writer, work)
        if self.bridged:
            await _passed(lambda: work.seconds)
            return await self._send(writer, 200, work.now(), {"x-litellm-response-cost": self.cost})
        queued = {"id": work.id, "status": "queued", "output": [], "model": self.answers_as}
        return await self._send(writer, 200, queued, self.headers)

    async def _complete(self, writer: asyncio.StreamWriter, body: Json, headers: dict[str, str]) -> None:
        """Answer a chat completion with its prompt."""
        self.posts.append(body)
        self.post_headers.append(headers)
        prompt = str(body["messages"][-1]["content"])
        self.paid[prompt] += 1
        await _passed(lambda: self.seconds)
        message = {"role": "assistant", "content": f"Answer to {prompt}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        completion = {"id": f"chatcmpl-{len(self.posts)}", "object": "chat.completion", "choices": [choice]}
        return await self._send(writer, 200, completion, {"x-litellm-response-cost": self.cost})

    async def _stream(self, writer: asyncio.StreamWriter, work: Work) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        created = {"id": work.id, "status": "in_progress", "output": [], "model": self.answers_as}
        begins = self.during_stream(-1)
        if begins is not None:  # before the first event
            if begins.kind == "status":
                error = {"code": "server_error", "message": SECRET_WORDS}
                failed: Json = {"id": begins.body or "resp_invented", "status": "failed", "error": error, "output": []}
                await self._event(writer, "response.failed", {"response": failed})
            raise _Dropped
        await self._event(writer, "response.created", {"response": created})
        for sent, piece in enumerate(work.pieces):
            while (fault := self.during_stream(sent)) is not None and fault.kind == "hold":
                await asyncio.sleep(0.01)
            if fault is not None:
                if fault.kind == "hang":
                    await asyncio.sleep(3600)
                if fault.kind == "status":  # as LiteLLM invents it when its own stream breaks
                    error = {"code": "server_error", "message": SECRET_WORDS}
                    failed = {"id": work.id, "status": "failed", "error": error, "output": []}
                    await self._event(writer, "response.failed", {"response": failed})
                raise _Dropped
            await self._event(writer, "response.output_text.delta", {"delta": piece})
            await _passed(lambda: work.seconds / max(1, len(work.pieces)))
        work.seconds = 0
        final = work.now()
        if self.cost:  # LiteLLM tells it there in a stream
            cost = float(self.cost) if self.cost.replace(".", "").isdigit() else self.cost
            final |= {"usage": {**final.get("usage", {}), "cost": cost}}
        await self._event(writer, f"response.{final['status']}", {"response": final})
        writer.write(b"data: [DONE]\n\n")
        raise _Dropped

    async def _event(self, writer: asyncio.StreamWriter, kind: str, data: Json) -> None:
        writer.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode())
        await writer.drain()

    async def _break(self, writer: asyncio.StreamWriter, fault: Fault, work: Work | None) -> None:
        if fault.kind == "status":
            body = error(SECRET_WORDS, fault.status) if fault.body is None else fault.body
            return await self._send(writer, fault.status, body, fault.headers)
        if fault.kind == "foreign":
            content = (fault.body or "").encode()
            lines = [f"HTTP/1.1 {fault.status} X", f"content-length: {len(content)}"]
            lines += [f"{name}: {value}" for name, value in fault.headers.items()]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
            return await writer.drain()
        if fault.kind == "hang":
            await asyncio.sleep(3600)
        if fault.kind == "cut":
            whole = json.dumps({} if work is None else work.now()).encode() + b" " * 100
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            writer.write(f"content-length: {len(whole)}\r\n\r\n".encode() + whole[:20])
            await writer.drain()
        if fault.kind in ("garbage", "empty"):
            text = b"<html>" + SECRET_WORDS.encode() if fault.kind == "garbage" else b""
            head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(text)}\r\n\r\n"
            writer.write(head.encode() + text)
            return await writer.drain()
        raise _Dropped

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, body: Any, headers: dict[str, str] | None = None
    ) -> None:
        content = json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        await writer.drain()


async def _passed(seconds: Callable[[], float]) -> None:
    """Wait for `seconds`, which may change during the wait."""
    began = time.monotonic()
    while time.monotonic() - began < seconds():
        await asyncio.sleep(0.01)


class _Dropped(Exception):
    """Raised to close the connection at once."""
