"""A gateway that answers with its turn's number, stores responses, and may be bridged or forget them."""

from __future__ import annotations

import itertools
from typing import Any

from .scripted import Answer, Json, ScriptedServer, Seen, chat_body, chat_events, reply, response_body, response_events
from .scripted import sse as stream

NOT_SUPPORTED = reply({"error": {"message": "GET responses is not supported for custom", "code": "500"}}, 500)


class Remembering:
    """The answers of a gateway: `answer N` to the N-th create, a response under the id `resp_N`.

    Attributes:
        bridged: it makes its responses out of another API, and ignores the id of the response before.
        forgets: ids that it refuses to continue.
        asked: the body of the create behind each answer of a chat.
        unknown: ids that it refuses to retrieve.
        fails: it answers every retrieval with 503.
        running: background responses that are not finished; those of `resp_N` are finished once it is removed.
    """

    def __init__(self, server: ScriptedServer, *, bridged: bool = False) -> None:
        self.server = server
        self.bridged = bridged
        self.forgets: set[str] = set()
        self.unknown: set[str] = set()
        self.running: set[str] = set()
        self.fails = False
        self.asked: dict[str, Json] = {}
        self._numbers = itertools.count(1)
        server.script = self.answer

    @property
    def bodies(self) -> list[Any]:
        """The bodies of all creates."""
        return [seen.json for seen in self.server.posts]

    @property
    def polls(self) -> int:
        return sum(seen.method == "GET" for seen in self.server.seen)

    def answer(self, seen: Seen) -> Answer:
        if seen.method == "GET":
            return self._retrieve(seen.path.rpartition("/")[2])
        body = seen.json
        if "messages" not in body:
            return self._respond(body)
        text = f"answer {next(self._numbers)}"
        self.asked[text] = body
        return stream(*chat_events(text)) if body.get("stream") else reply(chat_body(text))

    def _retrieve(self, response_id: str) -> Answer:
        if self.fails:
            return reply({"error": {"message": "busy"}}, 503)
        if self.bridged:
            return NOT_SUPPORTED
        if response_id in self.unknown:
            return _not_found(response_id)
        if response_id in self.running:
            return reply(response_body(None, "in_progress", id=response_id))
        return reply(response_body(f"answer {response_id.partition('_')[2]}", id=f"{response_id}_of_this_reply"))

    def _respond(self, body: Json) -> Answer:
        before = body.get("previous_response_id")
        if before in self.forgets and not self.bridged:
            return _not_found(before)
        number = next(self._numbers)
        text, response_id = f"answer {number}", f"resp_{number}"
        if body.get("background") and not self.bridged:
            self.running.add(response_id)
            return reply(response_body(None, "queued", id=response_id))
        whole = response_body(text, id=response_id)
        if body.get("stream"):
            created = {"type": "response.created", "response": response_body(None, "in_progress", id=response_id)}
            events = response_events(text, end={"type": "response.completed", "response": whole})
            return stream(created, *events[1:])
        return reply(whole)


def _not_found(response_id: str) -> Answer:
    error = {
        "message": f"Previous response with id '{response_id}' not found.",
        "type": "invalid_request_error",
        "param": "previous_response_id",
        "code": "previous_response_not_found",
    }
    return reply({"error": error}, 404)
