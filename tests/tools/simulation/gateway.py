"""A simulated LiteLLM gateway: it bills each executed create once, and its books are the ground truth.

It fails as real gateways, and the proxies before them, have been seen to fail: it answers late, it refuses, it fails
before or after execution, or a proxy answers in its place with a page.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .loop import Clock, Process
from .network import Exchange

_NONCE = re.compile(r"q\d+x")
_PAGE = b"<!doctype html><html><body>Please sign in</body></html>"
_UNKNOWN = b'{"error": {"message": "No response found with id", "type": "invalid_request_error", "code": 404}}'

# The fates of a create: whether it is executed, and the status that the client gets (None: no answer).
SUBMITS = {
    "ok": (True, 200),
    "slow": (True, 200),
    "hangs": (True, None),
    "breaks after": (True, None),
    "500 after": (True, 500),
    "502 after": (True, 502),
    "breaks before": (False, None),
    "500 before": (False, 500),
    "429": (False, 429),
    "400": (False, 400),
    "page": (False, 200),
    "404 page": (False, 404),
}
# Fates that leave the client unsure whether the create was executed.
AMBIGUOUS = frozenset({"hangs", "breaks after", "500 after", "502 after", "breaks before", "500 before"})
OUTAGES = ("503", "502 page", "404 page", "410 page", "401 page", "403 page", "200 page", "refused", "silent")


class Create(NamedTuple):
    """A received submission: its time, its fate (see SUBMITS), and the process that sent it."""

    at: float
    fate: str
    sender: Process | None


@dataclass
class Response:
    """A paid response."""

    id: str
    call_id: str
    nonce: str
    created: float
    ends: float
    cancelled: float | None = None
    cancels: list[tuple[float, str]] = field(default_factory=list)  # time of each cancel, and its answer
    polled: list[float] = field(default_factory=list)  # time of each poll

    def status(self, now: float) -> str:
        if self.cancelled is not None:
            return "cancelled"
        return "completed" if now >= self.ends else "in_progress"

    @property
    def text(self) -> str:
        return f"The report on {self.nonce}."


class Gateway:
    """The gateway's state and routes.

    Attributes:
        responses: responses of research runs, by id.
        creates: submissions received, by call id.
        answered: time at which the last submission under a call id was answered.
        turns: executed creates that the client itself made, by session.
        submits: weights for drawing a create's fate from SUBMITS.
        outage: the failure of every call, and the time until which it lasts.
        duration: draws the duration of a run in seconds.
        blocks: the model answers only when it is done.
        polls: number of polls of research runs.
        on_create: called after each executed create.
    """

    def __init__(self, clock: Clock, chance: random.Random, log: Callable[[str], None]) -> None:
        self.responses: dict[str, Response] = {}
        self.creates: dict[str, list[Create]] = defaultdict(list)
        self.answered: dict[str, float] = {}
        self.turns: dict[str, int] = defaultdict(int)
        self.submits: dict[str, float] = {"ok": 1.0}
        self.outage: tuple[str, float] = ("", 0.0)
        self.durations: tuple[float, float] = (5.0, 60.0)
        self.slow: tuple[float, float] = (2.5, 12.0)
        self.blocks = False
        self.polls = 0
        self.on_create: Callable[[], None] = lambda: None
        self._stored: dict[str, Any] = {}
        self._clock = clock
        self._chance = chance
        self._log = log

    async def serve(self, exchange: Exchange) -> None:
        kind, until = self.outage
        method, path = exchange.method, exchange.url.path.removeprefix("/v1")
        if self._clock.now < until:
            if path.endswith("/cancel"):
                self._note_cancel(path.split("/")[2], kind)
            self._log(f"gateway: {method} {path} meets an outage ({kind})")
            return await fail(exchange, kind)
        if path == "/responses":
            return await self._create(exchange, json.loads(exchange.body))
        if path == "/models":
            return exchange.send(200, b'{"data": [{"id": "gpt-6.1-sol"}]}')
        _, _, response_id, *action = path.split("/")
        if response_id in self._stored:
            return exchange.send(200, json.dumps(self._stored[response_id]).encode())
        response = self.responses.get(response_id)
        if response is None:
            return exchange.send(404, _UNKNOWN)
        if method == "GET":
            self.polls += 1
            response.polled.append(self._clock.now)
        if action == ["cancel"]:
            if response.status(self._clock.now) == "in_progress":
                response.cancelled = self._clock.now
            self._note_cancel(response_id, response.status(self._clock.now))
        return exchange.send(200, self._json(response))

    def _note_cancel(self, response_id: str, answer: str) -> None:
        if response := self.responses.get(response_id):
            response.cancels.append((self._clock.now, answer))
            self._log(f"gateway: cancel of {response.nonce} {response_id}: {answer}")

    # Creates

    async def _create(self, exchange: Exchange, body: dict[str, Any]) -> None:
        if not body.get("background"):
            return await self._turn(exchange, body)
        call_id = exchange.headers.get("x-litellm-call-id", "")
        fates, weights = zip(*self.submits.items(), strict=True)
        fate: str = self._chance.choices(fates, weights)[0]
        executed, status = SUBMITS[fate]
        self.creates[call_id].append(Create(self._clock.now, fate, exchange.client))
        self._log(f"gateway: create for {call_id}: {fate}")
        response = self._execute(call_id, str(body["input"])) if executed else None
        if fate == "slow":
            await asyncio.sleep(self._chance.uniform(*self.slow))
        if fate == "hangs":
            return await fail(exchange, "silent")
        if fate in ("breaks after", "breaks before"):
            return await fail(exchange, "refused")
        if fate in ("page", "404 page"):
            return await fail(exchange, f"{status} page")
        if response is None or status != 200:
            return await fail(exchange, str(status))
        if body.get("stream"):
            self.answered[call_id] = self._clock.now
            return await self._stream(exchange, response)
        if self.blocks:
            await asyncio.sleep(max(0.0, response.ends - self._clock.now))
        self.answered[call_id] = self._clock.now
        return exchange.send(200, self._json(response))

    def _execute(self, call_id: str, question: str) -> Response:
        found = _NONCE.search(question)
        number = len(self.responses) + 1
        ends = self._clock.now + self._chance.uniform(*self.durations)
        response = Response(f"resp_{number}", call_id, found[0] if found else "?", self._clock.now, ends)
        self.responses[response.id] = response
        self._log(f"gateway: bills {response.nonce} {response.id} for {call_id}, until {ends - 100_000:.3f}")
        self.on_create()
        return response

    async def _stream(self, exchange: Exchange, response: Response) -> None:
        exchange.start(200, [("content-type", "text/event-stream")])
        exchange.write(_event("response.created", response=self._object(response)))
        half = len(response.text) // 2
        for piece in (response.text[:half], response.text[half:]):
            await asyncio.sleep(max(0.0, response.ends - self._clock.now) / 2)
            if response.cancelled is None:
                exchange.write(_event("response.output_text.delta", delta=piece, output_index=0, content_index=0))
        await asyncio.sleep(max(0.0, response.ends - self._clock.now))
        exchange.write(_event(f"response.{response.status(self._clock.now)}", response=self._object(response)))
        exchange.end()

    async def _turn(self, exchange: Exchange, body: dict[str, Any]) -> None:
        """Answer a turn: call deep_research for each nonce of the question, then quote every report."""
        session = exchange.headers.get("x-litellm-session-id", "")
        self.turns[session] += 1
        number = len(self._stored) + 1
        text = json.dumps(body["input"])
        answered = "function_call_output" in text
        output: list[Any] = []
        if answered:
            said = " ".join(dict.fromkeys(re.findall(r"(?:The report on q\d+x|Error:[^\"]*)", text)))
            part = {"type": "output_text", "text": f"In short: {said}", "annotations": []}
            output = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}]
        else:
            for index, nonce in enumerate(dict.fromkeys(_NONCE.findall(text))):
                arguments = json.dumps({"research_question": f"What about {nonce}?"})
                call = {"call_id": f"call_{number}_{index}", "name": "deep_research", "arguments": arguments}
                output.append({"type": "function_call", "id": f"fc{number}", "status": "completed", **call})
        whole = {"id": f"turn_{number}", "object": "response", "status": "completed", "model": "m", "output": output}
        self._stored[f"turn_{number}"] = whole
        self._log(f"gateway: turn {number} of {session[:8]}")
        exchange.send(200, json.dumps(whole).encode())

    def _object(self, response: Response) -> dict[str, Any]:
        status = response.status(self._clock.now)
        output = []
        if status == "completed":
            part = {"type": "output_text", "text": response.text, "annotations": []}
            output = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}]
        return {"id": response.id, "object": "response", "status": status, "model": "gpt-6.1-sol", "output": output}

    def _json(self, response: Response) -> bytes:
        return json.dumps(self._object(response)).encode()


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


async def fail(exchange: Exchange, kind: str) -> None:
    """Fail as one of OUTAGES: with an error of LiteLLM, a proxy's page, or no answer."""
    status, _, page = kind.partition(" ")
    if kind == "refused":
        exchange.cut()
    elif kind == "silent":
        await exchange.gone.wait()
    elif page:
        exchange.send(int(status), _PAGE, "text/html")
    else:
        exchange.send(int(status), b'{"error": {"message": "no", "type": "x", "code": "%s"}}' % status.encode())
