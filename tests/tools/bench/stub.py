"""An upstream that answers at once, so that only the client is measured. A threaded server would add to the time.

`python -m tests.tools.bench.stub` prints its port. It counts requests (`GET /counts`), sends streams piece by piece,
and plays a background provider: a response of the model `research-5` is finished after 5 s, one of
`research-3600-every-5` asks to be polled every 5 s, and one of `accepts-1-research-5` is accepted after 1 s. The
model `stamped` streams the monotonic clock as its first piece, and `pieces-5000` as many pieces.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence

from .measure import raise_file_limit

if sys.platform != "win32":
    import uvloop

TEXT = "The quick brown fox jumps over the lazy dog. " * 8
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PIECES = [TEXT[start : start + 18] for start in range(0, len(TEXT), 18)]
PAUSE = 0.05  # seconds before and after the stamp

_CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 80, "total_tokens": 89},
}
_PART = {"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}
_MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [_PART]}
_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "gpt-4o",
    "output": [_MESSAGE],
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 80,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 89,
    },
}


class Stub:
    """The server's state: counts, and the responses that were submitted.

    `closest` is the shortest time in seconds between two polls of a response, or between its submission and a poll.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.closest: float | None = None
        self.submitted: dict[str, tuple[str, float, float]] = {}
        self.cancelled: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and not writer.is_closing():
                method, path, _ = head.decode("latin-1").split(" ", 2)
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                await self.answer(writer, method, path, json.loads(body) if body else {})
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, method: str, path: str, body: dict[str, object]) -> None:
        if path == "/counts":
            counts, self.counts = {**self.counts, "closest": self.closest}, Counter()
            self.closest = None
            return _send(writer, counts)
        if path.endswith("/models"):  # asked for once by a process, so it is not counted among a run's looks
            return _send(writer, {"object": "list", "data": []})
        self.counts[method] += 1
        if method == "GET":
            return self.retrieve(writer, path.rsplit("/", 1)[1])
        if path.endswith("/cancel"):
            self.cancelled.add(path.split("/")[-2])
            return self.retrieve(writer, path.split("/")[-2])
        if body.get("stream"):
            model = str(body["model"])
            pieces = ["word "] * int(model[7:]) if model.startswith("pieces-") else _PIECES
            events = _chunks(pieces) if "chat" in path else _events(pieces)
            return await _send_events(writer, events, stamped=model == "stamped")
        if body.get("background"):
            model = str(body["model"])
            if model.startswith("accepts-"):
                _, seconds, model = model.split("-", 2)
                await asyncio.sleep(float(seconds))
            return self.submit(writer, model)
        writer.write(_WHOLE_CHAT if "chat" in path else _WHOLE_RESPONSE)
        return None

    def submit(self, writer: asyncio.StreamWriter, model: str) -> None:
        _, seconds, *rest = model.split("-")
        response_id, now = f"resp_{len(self.submitted)}", time.monotonic()
        self.submitted[response_id] = rest[-1] if rest else "", now + float(seconds), now
        _send(writer, {**_RESPONSE, "id": response_id, "status": "queued", "output": []}, every=rest[-1:])

    def retrieve(self, writer: asyncio.StreamWriter, response_id: str) -> None:
        every, end, looked = self.submitted[response_id]
        now = time.monotonic()
        self.closest = min(self.closest or 1e9, now - looked)
        self.submitted[response_id] = every, end, now
        answer = {**_RESPONSE, "id": response_id}
        if response_id in self.cancelled:
            answer |= {"status": "cancelled", "output": []}
        elif now < end:
            answer |= {"status": "in_progress", "output": []}
        _send(writer, answer, every=[every] if every else [])


def _send(writer: asyncio.StreamWriter, answer: object, every: Sequence[str] = ()) -> None:
    writer.write(_whole(answer, every))


def _whole(answer: object, every: Sequence[str] = ()) -> bytes:
    content = json.dumps(answer).encode()
    wish = "".join(f"openai-poll-after-ms: {float(seconds) * 1000:.0f}\r\n" for seconds in every)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{wish}content-length: {len(content)}\r\n\r\n"
    return head.encode() + content


_WHOLE_CHAT, _WHOLE_RESPONSE = _whole(_CHAT), _whole(_RESPONSE)


async def _send_events(writer: asyncio.StreamWriter, events: list[dict[str, object]], *, stamped: bool) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    for event in events:
        if stamped and _PIECES[0] in (line := json.dumps(event)):
            stamped = False
            await asyncio.sleep(PAUSE)
            writer.write(f"data: {line.replace(_PIECES[0], f'{time.monotonic_ns()} ')}\n\n".encode())
            await asyncio.sleep(PAUSE)
        else:
            writer.write(f"data: {json.dumps(event)}\n\n".encode())
            await writer.drain()
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()
    writer.close()


def _chunks(pieces: list[str]) -> list[dict[str, object]]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": piece}, None) for piece in pieces]
    return [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in [*deltas, ({}, "stop")]
    ]


def _events(pieces: list[str]) -> list[dict[str, object]]:
    text = "".join(pieces)
    part = {**_PART, "text": text}
    message = {**_MESSAGE, "content": [part]}
    started = {**_RESPONSE, "status": "in_progress", "output": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, object]] = [
        {"type": "response.created", "response": started},
        {"type": "response.output_item.added", "output_index": 0, "item": {**_MESSAGE, "content": []}},
        {"type": "response.content_part.added", **place, "part": {**_PART, "text": ""}},
        *({"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []} for piece in pieces),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.output_item.done", "output_index": 0, "item": message},
        {"type": "response.completed", "response": {**_RESPONSE, "output": [message]}},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


async def main() -> None:
    raise_file_limit()
    server = await asyncio.start_server(Stub().serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The parent holds the other end of stdin: end with it.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    (asyncio if sys.platform == "win32" else uvloop).run(main())
