"""An upstream that answers at once: what is left is the time of the client.

`python -m tests.bench.stub` prints its port. It counts requests (`GET /counts`), sends streams piece by piece, and
plays a background provider: a submitted response is finished after the seconds in the model's name (`research-5`).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

TEXT = "The quick brown fox jumps over the lazy dog. " * 8
PIECES = 20

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
    """The server's state: counts, and the responses that were submitted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.submitted: dict[str, float] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and not writer.is_closing():
                lines = head.decode("latin-1").split("\r\n")
                method, path, _ = lines[0].split(" ", 2)
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self.answer(writer, method, path, json.loads(body) if body else {})
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, method: str, path: str, body: dict[str, object]) -> None:
        self.counts[f"{method} {path.split('/')[2] if path.count('/') > 1 else path}"] += 1
        if path == "/counts":
            self.counts["GET /counts"] -= 1
            return _send(writer, dict(self.counts))
        if method == "GET":
            return _send(writer, self.retrieve(path.rsplit("/", 1)[1]))
        if body.get("stream"):
            return await _send_events(writer, _chunks() if "chat" in path else _events())
        if body.get("background"):
            return _send(writer, self.submit(str(body["model"])))
        return _send(writer, _CHAT if "chat" in path else _RESPONSE)

    def submit(self, model: str) -> dict[str, object]:
        seconds = float(model.rpartition("-")[2]) if model.startswith("research-") else 0.0
        response_id = f"resp_{len(self.submitted)}"
        self.submitted[response_id] = time.monotonic() + seconds
        return {**_RESPONSE, "id": response_id, "status": "queued", "output": []}

    def retrieve(self, response_id: str) -> dict[str, object]:
        done = time.monotonic() >= self.submitted.get(response_id, 0.0)
        return {**_RESPONSE, "id": response_id} | ({} if done else {"status": "in_progress", "output": []})


def _send(writer: asyncio.StreamWriter, answer: object) -> None:
    content = json.dumps(answer).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)


async def _send_events(writer: asyncio.StreamWriter, events: list[dict[str, object]]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    for event in events:
        writer.write(f"data: {json.dumps(event)}\n\n".encode())
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()
    writer.close()


def _pieces() -> list[str]:
    size = len(TEXT) // PIECES
    return [TEXT[start : start + size] for start in range(0, len(TEXT), size)]


def _chunks() -> list[dict[str, object]]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": piece}, None) for piece in _pieces()]
    return [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in [*deltas, ({}, "stop")]
    ]


def _events() -> list[dict[str, object]]:
    started = {**_RESPONSE, "status": "in_progress", "output": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, object]] = [
        {"type": "response.created", "response": started},
        {"type": "response.output_item.added", "output_index": 0, "item": {**_MESSAGE, "content": []}},
        {"type": "response.content_part.added", **place, "part": {**_PART, "text": ""}},
        *({"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []} for piece in _pieces()),
        {"type": "response.output_text.done", **place, "text": TEXT, "logprobs": []},
        {"type": "response.output_item.done", "output_index": 0, "item": _MESSAGE},
        {"type": "response.completed", "response": _RESPONSE},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


async def main() -> None:
    server = await asyncio.start_server(Stub().serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The process that started us holds our stdin: its end is ours.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
