"""The offline provider's HTTP side: a threading server on loopback that lives in its caller's process."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from . import wire
from .brain import Entry, decide, is_research_model
from .wire import BadRequest, Json

_MODELS = ("gpt-4o", "gpt-4o-mini", "o3-deep-research", "o4-mini-deep-research")
_KEPT = 1000
_LARGEST_BODY = 64 * 1024 * 1024
_QUEUED_SECONDS = 0.2


class _Stored:
    """A response that can be retrieved; a background one becomes finished as time passes."""

    def __init__(self, whole: Json, conversation: list[Entry], seconds: float) -> None:
        self.whole = whole
        self.conversation = conversation
        self.cancelled = False
        self._created = time.monotonic()
        self._seconds = seconds

    @property
    def left(self) -> float:
        """Seconds until it is finished."""
        return max(0.0, self._created + self._seconds - time.monotonic())

    def now(self) -> Json:
        if self.cancelled:
            return wire.unfinished(self.whole, "cancelled")
        if self.left == 0:
            return self.whole
        young = time.monotonic() - self._created < _QUEUED_SECONDS
        return wire.unfinished(self.whole, "queued" if young else "in_progress")


class OfflineProvider:
    """The demo model behind `http://127.0.0.1:<port>/v1`.

    Args:
        port: to listen on, 0 for any free one.
        research_seconds: how long a research takes.
        background_seconds: how long another background response takes.
    """

    def __init__(self, port: int = 0, *, research_seconds: float = 3.0, background_seconds: float = 1.0) -> None:
        self._seconds = {True: research_seconds, False: background_seconds}
        self._responses: OrderedDict[str, _Stored] = OrderedDict()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"provider": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def base_url(self) -> str:
        """The address, with `/v1`."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def start(self) -> OfflineProvider:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def complete_chat(self, body: Json) -> Json:
        conversation = wire.chat_conversation(body)
        model = _model(body)
        functions, searches = wire.tools_of(body)
        return wire.chat_completion(model, conversation, decide(conversation, functions, searches, model))

    def create_response(self, body: Json) -> _Stored:
        earlier: list[Entry] = []
        if body.get("previous_response_id"):
            stored = self.find(str(body["previous_response_id"]))
            if stored is None:
                raise BadRequest(f"Previous response with id '{body['previous_response_id']}' not found.")
            earlier = stored.conversation
        model = _model(body)
        conversation = wire.response_conversation(body, earlier)
        functions, searches = wire.tools_of(body)
        whole = wire.response(body, conversation, decide(conversation, functions, searches, model))
        research = is_research_model(model)
        seconds = self._seconds[research] if research or body.get("background") else 0.0
        created = _Stored(whole, wire.conversation_after(conversation, whole), seconds)
        with self._lock:
            self._responses[whole["id"]] = created
            while len(self._responses) > _KEPT:
                self._responses.popitem(last=False)
        return created

    def find(self, response_id: str) -> _Stored | None:
        with self._lock:
            return self._responses.get(response_id)

    def delete(self, response_id: str) -> None:
        with self._lock:
            self._responses.pop(response_id, None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A burst of connections must not be refused.
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    provider: OfflineProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        """Prompts do not belong in a log."""

    def do_GET(self) -> None:
        parts = self._parts()
        if parts == ["models"]:
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "offline-demo"} for name in _MODELS]
            return self._send(200, {"object": "list", "data": data})
        if len(parts) >= 2 and parts[0] == "responses" and (stored := self.provider.find(parts[1])):
            if len(parts) == 2:
                return self._send(200, stored.now())
            if parts[2:] == ["input_items"]:
                return self._send(200, {"object": "list", "data": [], "has_more": False})
        return self._not_found(parts)

    def do_DELETE(self) -> None:
        parts = self._parts()
        if len(parts) != 2 or parts[0] != "responses" or not self.provider.find(parts[1]):
            return self._not_found(parts)
        self.provider.delete(parts[1])
        return self._send(200, {"id": parts[1], "object": "response", "deleted": True})

    def do_POST(self) -> None:
        parts = self._parts()
        try:
            body = self._body()
            if parts == ["chat", "completions"]:
                self._chat(body)
            elif parts == ["responses"]:
                self._respond(body)
            elif len(parts) == 3 and parts[0] == "responses" and parts[2] == "cancel":
                self._cancel(parts[1])
            else:
                self._not_found(parts)
        except BadRequest as error:
            self._send(400, _error(str(error), "invalid_request_error", None))

    def _chat(self, body: Json) -> None:
        completion = self.provider.complete_chat(body)
        if body.get("stream"):
            return self._send_events(wire.chat_chunks(completion))
        return self._send(200, completion)

    def _respond(self, body: Json) -> None:
        stored = self.provider.create_response(body)
        if body.get("stream"):
            events = ({**event, "sequence_number": n} for n, event in enumerate(wire.response_events(stored.whole)))
            return self._send_events(events, wait=stored.left)
        if not body.get("background"):
            time.sleep(stored.left)
        return self._send(200, stored.now())

    def _cancel(self, response_id: str) -> None:
        stored = self.provider.find(response_id)
        if stored is None:
            return self._not_found(["responses", response_id])
        if not stored.whole["background"] or (stored.left == 0 and not stored.cancelled):
            raise BadRequest("Cannot cancel a completed response.")
        stored.cancelled = True
        return self._send(200, stored.now())

    def _parts(self) -> list[str]:
        parts = [part for part in self.path.partition("?")[0].split("/") if part]
        return parts[1:] if parts[:1] == ["v1"] else parts

    def _body(self) -> Json:
        try:
            length = int(self.headers.get("content-length") or 0)
            if not 0 <= length <= _LARGEST_BODY:
                raise ValueError
            body = json.loads(self.rfile.read(length) or b"{}")
        except (ValueError, RecursionError):
            self.close_connection = True
            raise BadRequest("We could not parse the JSON body of your request.") from None
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object.")
        return body

    def _send(self, status: int, answer: Json) -> None:
        content = json.dumps(answer, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_events(self, events: Iterable[Json], wait: float = 0.0) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for number, event in enumerate(events):
            if number == 2:  # a background response or a research takes its time after it has begun
                time.sleep(wait)
            name = f"event: {event['type']}\n" if "type" in event else ""
            self._write(f"{name}data: {json.dumps(event)}\n\n")
        self._write("data: [DONE]\n\n")

    def _write(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def _not_found(self, parts: list[str]) -> None:
        if parts[:1] == ["responses"] and len(parts) > 1:
            message = f"Response with id '{parts[1]}' not found."
        else:
            message = f"Unknown request URL: {self.command} /{'/'.join(parts)}."
        self._send(404, _error(message, "invalid_request_error", None))


def _model(body: Json) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("you must provide a model parameter")
    return model


def _error(message: str, kind: str, code: str | None) -> Json:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
