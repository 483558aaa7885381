"""The offline provider: an HTTP server on loopback, in a thread of its caller's process."""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import parse_qs, urlsplit

from ...config import names_loopback
from ...json_object import JsonObject
from . import wire
from .embeddings import embeddings
from .model import MODELS, BadRequest, Item, complete
from .storage import Files, Responses, Stored

_LARGEST_BODY = 64 * 1024 * 1024


class Handler(BaseHTTPRequestHandler):
    """A client's connection."""

    provider: OfflineProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Longer than LiteLLM keeps an idle connection, so that LiteLLM never reuses one that is closed here.
    timeout = 300

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: prompts do not belong in a log."""

    def do_GET(self) -> None:
        self.answer(self.get)

    def do_POST(self) -> None:
        self.answer(self.post)

    def do_DELETE(self) -> None:
        self.answer(self.delete)

    def do_CONNECT(self) -> None:
        """Refuse to act as an HTTP proxy, through which LiteLLM could leave this machine."""
        self.close_connection = True
        self.send_error_json(403, "The offline demo does not leave this machine.", "not_in_offline_demo")

    def answer(self, method: Callable[[list[str]], None]) -> None:
        """Answer with `method`, or with the error that it raises."""
        try:
            if not self.names_this_machine():
                # DNS rebinding: a web page can point its name here, but its browser then sends that name as the host.
                self.close_connection = True
                return self.send_error_json(
                    403, "This server answers to loopback addresses only.", "host_not_allowed", connection="close"
                )
            if not self.has_key():
                self.close_connection = True
                return self.send_error_json(401, "Incorrect API key provided.", "invalid_api_key", connection="close")
            method(self.parts())
        except BadRequest as error:
            self.send_error_json(400, str(error), error.code, error.param)
        except ConnectionError:
            self.close_connection = True  # the client went away

    def names_this_machine(self) -> bool:
        """Return True if the request is for a name of the loopback interface."""
        hosts = self.headers.get_all("host", [])
        return len(hosts) == 1 and names_loopback(hosts[0]) and self.path.startswith("/")

    def has_key(self) -> bool:
        """Return True if the request carries the provider's key."""
        given = self.headers.get("authorization", "")
        # In constant time, and as bytes, because `compare_digest` refuses text that is not ASCII.
        return hmac.compare_digest(given.encode(), f"Bearer {self.provider.api_key}".encode())

    def get(self, parts: list[str]) -> None:
        files, responses = self.provider.files, self.provider.responses
        match parts:
            case ["models"]:
                data = [{"id": name, "object": "model", "created": 0, "owned_by": "offline-demo"} for name in MODELS]
                return self.send_json(200, {"object": "list", "data": data})
            case ["files"]:
                asked = parse_qs(urlsplit(self.path).query)
                return self.send_json(200, files.list(asked.get("purpose", [""])[0]))
            case ["files", file_id, *rest]:
                found = files.find(file_id)
                if found is None:
                    return self.send_error_json(404, f"No such File object: {file_id}")
                about, content = found
                if not rest:
                    return self.send_json(200, about)
                if rest == ["content"]:
                    return self.send_content(200, "application/octet-stream", content)
            case ["responses", response_id] if stored := responses.find(response_id):
                return self.send_json(200, stored.now())
            case ["responses", response_id, "input_items"] if stored := responses.find(response_id):
                return self.send_json(200, {"object": "list", "data": stored.items[::-1], "has_more": False})
        return self.not_found(parts)

    def delete(self, parts: list[str]) -> None:
        match parts:
            case ["files", file_id] if self.provider.files.delete(file_id):
                self.send_json(200, {"id": file_id, "object": "file", "deleted": True})
            case ["responses", response_id] if self.provider.responses.delete(response_id):
                self.send_json(200, {"id": response_id, "object": "response", "deleted": True})
            case _:
                self.not_found(parts)

    def post(self, parts: list[str]) -> None:
        if parts == ["files"]:
            return self.send_json(200, self.provider.files.upload(self.headers.get("content-type", ""), self.raw()))
        body = self.body()
        match parts:
            case ["chat", "completions"]:
                return self.chat(body)
            case ["responses"]:
                return self.respond(body)
            case ["embeddings"]:
                return self.send_json(200, embeddings(body))
            case ["responses", _, "cancel"]:
                return self.cancel(parts)
        return self.not_found(parts)

    def chat(self, body: JsonObject) -> None:
        request = wire.chat_request(body)
        completion = wire.chat_completion(request, complete(request))
        if not body.get("stream"):
            return self.send_json(200, completion)
        options = body.get("stream_options")
        with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        return self.send_events(wire.chat_chunks(completion, with_usage=with_usage))

    def respond(self, body: JsonObject) -> None:
        self.send_stored(body, self.provider.create_response(body))

    def send_stored(self, body: JsonObject, stored: Stored) -> None:
        if body.get("stream"):
            events = ({**event, "sequence_number": n} for n, event in enumerate(wire.response_events(stored.whole)))
            return self.send_events(events, wait=stored.left)
        # Like the real API, which answers a foreground request only at its end.
        if not body.get("background"):
            time.sleep(stored.left)
        return self.send_json(200, stored.now())

    def cancel(self, parts: list[str]) -> None:
        stored = self.provider.responses.find(parts[1])
        if stored is None:
            return self.not_found(parts)
        if not stored.whole["background"]:
            raise BadRequest("Only responses created with background=true can be cancelled.")
        # As at OpenAI: a second cancel succeeds, and the cancel of a finished response fails.
        if stored.left == 0 and not stored.cancelled:
            raise BadRequest("Cannot cancel a completed response.")
        stored.cancelled = True
        self.provider.responses.keep(stored)
        return self.send_json(200, stored.now())

    def parts(self) -> list[str]:
        """Return the segments of the request's path below `/v1`."""
        parts = [part for part in self.path.partition("?")[0].split("/") if part]
        return parts[1:] if parts[:1] == ["v1"] else parts

    def raw(self) -> bytes:
        """Return the body of the request. Raises BadRequest."""
        length = self.headers.get("content-length") or "0"
        if not length.isdecimal() or int(length) > _LARGEST_BODY or self.headers.get("transfer-encoding"):
            self.close_connection = True  # the start of the next request is unknown
            raise BadRequest("We could not parse the JSON body of your request.")
        return self.rfile.read(int(length))

    def body(self) -> JsonObject:
        """Return the JSON object in the body. Raises BadRequest."""
        content = self.raw()
        try:
            body = json.loads(content or b"{}")
        except (ValueError, RecursionError):
            self.close_connection = True
            raise BadRequest("We could not parse the JSON body of your request.") from None
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object.")
        return body

    def send_json(self, status: int, answer: JsonObject, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.send_content(status, "application/json", json.dumps(answer).encode(), headers)

    def send_content(self, status: int, kind: str, content: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.send_response(status)
        for name, value in (("content-type", kind), *headers):
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_error_json(
        self, status: int, message: str, code: str | None = None, param: str | None = None, **headers: str
    ) -> None:
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.send_json(status, {"error": error}, headers.items())

    def send_events(self, events: Iterable[JsonObject], wait: float = 0.0) -> None:
        """Send a stream of events, with a pause of `wait` seconds after the first two, which announce the response."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        # With chunks a client can tell the end of the stream from a broken connection.
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(events):
            if number == 2:
                time.sleep(wait)
            name = f"event: {event['type']}\n" if "type" in event else ""
            self.write_chunk(f"{name}data: {json.dumps(event)}\n\n")
        self.write_chunk("data: [DONE]\n\n")
        self.write_chunk("")

    def write_chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def not_found(self, parts: list[str]) -> None:
        if parts[:1] == ["responses"] and len(parts) > 1 and (self.command != "POST" or parts[2:] == ["cancel"]):
            return self.send_error_json(404, f"Response with id '{parts[1]}' not found.")
        message = f"The offline demo has no such thing: {self.command} /{'/'.join(parts)}."
        return self.send_error_json(404, message, "unknown_url")


class OfflineProvider:
    """The demo model behind `http://127.0.0.1:<port>/v1`.

    As a context manager it serves until the end of the block.

    Args:
        research_seconds: the duration of a research run.
        background_seconds: the duration of any other background response.
        folder: the directory that keeps responses for the next provider; None forgets them with this one.

    Attributes:
        api_key: the key that every request needs; each provider generates one.
    """

    handler: ClassVar[type[Handler]] = Handler

    def __init__(
        self,
        *,
        research_seconds: float = 3.0,
        background_seconds: float = 1.0,
        folder: Path | None = None,
    ) -> None:
        # Other users of this machine reach the port too, but not the prompts behind it.
        self.api_key = secrets.token_urlsafe(32)
        self._seconds = {True: research_seconds, False: background_seconds}
        self.files = Files()
        self.responses = Responses(folder)
        self._server = _Server(("127.0.0.1", 0), type("BoundHandler", (self.handler,), {"provider": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def base_url(self) -> str:
        """The address, including `/v1`."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def start(self) -> Self:
        """Start serving in a thread."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving; open streams run to their end."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def create_response(self, body: JsonObject) -> Stored:
        """Answer a responses request, and store the response unless `store` is false. Raises BadRequest."""
        earlier: Sequence[Item] = ()
        previous = body.get("previous_response_id")
        if previous:
            stored = self.responses.find(str(previous))
            if stored is None:
                raise BadRequest(f"Previous response with id '{previous}' not found.", "previous_response_not_found")
            earlier = stored.conversation
        request = wire.response_request(body, earlier)
        whole = wire.response(body, request, complete(request))
        seconds = self._seconds[request.is_research] if request.is_research or body.get("background") else 0.0
        items = [{"id": f"in_{number}_{whole['id']}", **item} for number, item in enumerate(wire.input_items(body))]
        created = Stored(whole, items, wire.conversation_after(request, whole), seconds)
        if whole["store"]:
            self.responses.keep(created)
        return created


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The default of 5 would refuse connections in a burst.
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of a connection: clients may leave at any time."""
