"""A provider whose model names select its failures, and the real LiteLLM proxy in front of it.

A model of `UpstreamControl.model` carries a program in its name: steps joined by `-then-`, one for each POST; the last
one repeats (`429-then-ok`). Steps for the polls of a background response follow a `+` (`ok+500-then-404-then-ok`).
Other models are the offline provider's. All requests are counted by model.

`serve(DIRECTORY)` runs both as long as a process holds a shared lock on DIRECTORY/users: pytest's workers share one
proxy, and none of them has to know that it is the last.
"""

from __future__ import annotations

import fcntl
import json
import re
import socket
import struct
import threading
import time
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from litellm_openai_example.gateway.directory import GatewayDirectory
from litellm_openai_example.gateway.offline import wire
from litellm_openai_example.gateway.offline.provider import Handler, OfflineProvider
from litellm_openai_example.gateway.offline.storage import Stored
from litellm_openai_example.gateway.proxy import Proxy, route, with_settings
from litellm_openai_example.json_object import JsonObject

from . import formats

MODELS = ("gpt-6-luna", "gpt-6.1-sol", "gpt-4o", "gpt-4o-mini", "o3-deep-research", "o4-mini-deep-research")
# Reached by LiteLLM in other ways than OpenAI's; a name belongs to whom it begins with.
OTHERS = (
    "azure/gpt-6.1-sol",
    "azure/gpt-4o",
    "azure/o3-deep-research",
    "anthropic/claude-opus-5-5",
    "gemini/gemini-3.8-flash",
)
READY = "running.json"
USERS = "users"
LOGGED = "calls.jsonl"  # what LiteLLM logs, in its state directory
# Run by LiteLLM, in its own environment.
_RECORDER = f"""
import json, pathlib
from litellm.integrations.custom_logger import CustomLogger

FIELDS = "call_type status model_group request_tags end_user trace_id response_cost litellm_call_id".split()

class Recorder(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        logged = kwargs.get("standard_logging_object") or {{}}
        with (pathlib.Path(__file__).parent / {LOGGED!r}).open("a") as file:
            file.write(json.dumps({{name: logged.get(name) for name in FIELDS}}) + "\\n")

recorder = Recorder()
"""
# A name that the proxy's configuration does not have.
UNKNOWN_MODEL = "no-such-model"

# As names of fine-tuned models these are in LiteLLM's price table: it streams others of unknown names only in the end.
_PROGRAMMED = "ft:gpt-4o-2024-08-06:e2e:{}.{}:0"
_PROGRAM = re.compile(r"ft:[^:]+:e2e:([^.+]*)\+?([^.]*)\..*")

_CALLBACK = "record_calls.recorder"
_SLOW_SECONDS = 3.0
_PAUSE = 0.1
_WHOLE_EVENTS = 7  # of a stream that is cut; the text has begun by then


@dataclass
class Seen:
    """One request that arrived at the provider."""

    method: str
    path: str
    body: JsonObject | None


def _message(whole: JsonObject) -> JsonObject:
    found: JsonObject = next(item for item in whole["output"] if item["type"] == "message")
    return found


def _failed(whole: JsonObject) -> None:
    whole.update(status="failed", output=[], error={"code": "server_error", "message": "The model has failed."})


def _incomplete(whole: JsonObject) -> None:
    _message(whole)["status"] = "incomplete"
    whole.update(status="incomplete", incomplete_details={"reason": "max_output_tokens"})


def _refusal(whole: JsonObject) -> None:
    _message(whole)["content"] = [{"type": "refusal", "refusal": "I cannot help with that."}]


def _empty(whole: JsonObject) -> None:
    whole["output"] = []


OUTCOMES: dict[str, Callable[[JsonObject], None]] = {
    "failed": _failed,
    "incomplete": _incomplete,
    "refusal": _refusal,
    "empty": _empty,
}


class FaultyHandler(Handler):
    """The offline provider's handler, preceded by a step of the model's program."""

    provider: Upstream
    cut = False
    _written = 0

    def has_key(self) -> bool:
        return True  # each provider that it plays has another way to send one

    def parts(self) -> list[str]:
        parts = super().parts()
        return parts[2:] if parts[:2] == ["openai", "v1"] else parts  # as on Azure

    def post(self, parts: list[str]) -> None:
        if parts == ["messages"]:
            return self._post_message(self.body())
        if parts[:1] == ["models"] and len(parts) == 2:
            return self._post_content(parts[1])
        return super().post(parts)

    def _post_message(self, body: JsonObject) -> None:
        self.provider.next_step(body["model"], Seen("POST", self.path, body))
        whole = formats.message(body)
        return self.send_events(formats.message_events(whole)) if body.get("stream") else self.send_json(200, whole)

    def _post_content(self, name: str) -> None:
        model, _, method = name.partition(":")
        body = self.body()
        self.provider.next_step(model, Seen("POST", self.path, body))
        whole = formats.content(body)
        return self.send_events([whole]) if method.startswith("stream") else self.send_json(200, whole)

    def chat(self, body: JsonObject) -> None:
        self._post(body, super().chat)

    def respond(self, body: JsonObject) -> None:
        self._post(body, super().respond)

    def get(self, parts: list[str]) -> None:
        if parts[:1] == ["_seen"]:
            seen = self.provider.seen[unquote(parts[1])]
            return self.send_json(200, {"seen": [asdict(one) for one in seen]})
        stored = self.provider.responses.find(parts[1]) if len(parts) == 2 and parts[0] == "responses" else None
        if stored is None:
            return super().get(parts)
        model = str(stored.whole["model"])
        step = self.provider.next_step(model, Seen("GET", self.path, None))
        if step == "running":
            return self.send_json(200, wire.unfinished(stored.whole, "in_progress"))
        return self._take(step, lambda: super(FaultyHandler, self).get(parts))

    def cancel(self, parts: list[str]) -> None:
        stored = self.provider.responses.find(parts[1])
        if stored is not None:
            self.provider.seen[str(stored.whole["model"])].append(Seen("CANCEL", self.path, None))
        super().cancel(parts)

    def send_json(self, status: int, answer: JsonObject, headers: Any = ()) -> None:
        if not self.cut:
            return super().send_json(status, answer, headers)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True
        return None

    def write_chunk(self, text: str) -> None:
        self._written += 1
        if self.cut:
            time.sleep(_PAUSE)  # otherwise the client sees the break before the complete events
            if self._written > _WHOLE_EVENTS:
                raise ConnectionAbortedError
        super().write_chunk(text)

    def _post(self, body: JsonObject, answer: Callable[[JsonObject], None]) -> None:
        model = str(body.get("model"))
        step = self.provider.next_step(model, Seen("POST", self.path, body))
        if step == "zero-retention":
            if body.get("store"):
                text = "Unsupported value: 'store' must be false: this project has Zero Data Retention."
                return self.send_error_json(400, text, "unsupported_value", "store")
            return answer(body)
        if step in OUTCOMES or step == "slow":
            stored = self.provider.create_response(body)
            self._alter(stored, step)
            return self.send_stored(body, stored)
        return self._take(step, lambda: answer(body))

    def _alter(self, stored: Stored, step: str) -> None:
        if step == "slow":
            stored.seconds = _SLOW_SECONDS
        else:
            OUTCOMES[step](stored.whole)

    def _take(self, step: str, answer: Callable[[], None]) -> None:
        self.cut, self._written = step == "cut", 0
        if step in ("ok", "cut"):
            return answer()
        if step.isdigit():
            headers = {"retry-after": "1"} if step == "429" else {}
            return self.send_error_json(int(step), f"The provider says {step}.", f"upstream_{step}", **headers)
        if step == "html":
            return self._send_raw("text/html", b"<html><body>Bad gateway</body></html>")
        if step == "garbage":
            return self._send_raw("application/json", b'{"id": "resp_1", "output": [')
        self.close_connection = True
        if step == "hang":
            self.provider.stopping.wait(60)
        elif step == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif step != "drop":
            self.send_error_json(400, f"unknown step {step}")
        return None

    def _send_raw(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Upstream(OfflineProvider):
    """The offline provider with faults.

    Attributes:
        seen: the requests received, by model.
        stopping: set when the provider ends, so that no request keeps hanging.
    """

    handler = FaultyHandler

    def __init__(self) -> None:
        super().__init__(research_seconds=1.5, background_seconds=0.8)
        self.seen: defaultdict[str, list[Seen]] = defaultdict(list)
        self.stopping = threading.Event()
        self._steps = threading.Lock()

    def next_step(self, model: str, request: Seen) -> str:
        """Record a request, and return the step that it gets."""
        with self._steps:
            earlier = sum(one.method == request.method for one in self.seen[model])
            self.seen[model].append(request)
        program = _PROGRAM.fullmatch(model)
        steps = program[1 if request.method == "POST" else 2] if program else ""
        steps_in_turn = (steps or "ok").split("-then-")
        return steps_in_turn[min(earlier, len(steps_in_turn) - 1)]

    def stop(self) -> None:
        self.stopping.set()
        super().stop()


class UpstreamControl:
    """A test's control of the provider: it creates models that fail, and reads the requests that arrived."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def model(self, posts: str = "ok", polls: str = "", *, bridged: bool = False, research: bool = False) -> str:
        """Return the name of a new model on the proxy.

        Args:
            posts: steps for its POSTs, joined by `-then-`. A step is `ok`, a status such as `503` (429 comes with
                Retry-After: 1), `hang`, `drop`, `reset`, `cut` (half an answer, or a stream cut halfway), `html`,
                `garbage`, `zero-retention` (refuses `store: true`), and for responses `slow` (3 s), `failed`,
                `incomplete`, `refusal`, `empty`.
            polls: likewise for the GETs of its background responses; `running` reports one as in progress.
            bridged: True if LiteLLM is to reach it through Chat Completions.
            research: True for a deep-research model.
        """
        program = f"{posts}+{polls}" if polls else posts
        unique = f"deep-research-{uuid.uuid4().hex}" if research else uuid.uuid4().hex
        return f"{'faulty-bridged' if bridged else 'faulty'}/{_PROGRAMMED.format(program, unique)}"

    def requests(self, model: str) -> list[Seen]:
        """Return the requests for a model, `POST`, `GET` and `CANCEL`, oldest first."""
        name = quote(model.partition("/")[2] or model, safe="")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.base_url}/_seen/{name}", timeout=60) as answer:
            return [Seen(**one) for one in json.load(answer)["seen"]]

    def posts(self, model: str) -> int:
        """Return the number of creates for a model."""
        return sum(one.method == "POST" for one in self.requests(model))


def configuration(base_url: str) -> dict[str, Any]:
    """Return LiteLLM's configuration: models by name, so that others are unknown, and two families of faulty ones."""
    to = {"api_base": base_url, "api_key": "sk-upstream"}
    routes = [route(name, {"model": f"openai/{name}", **to}) for name in MODELS]
    bridge = {"use_chat_completions_api": True}
    routes += [
        route("bridged", {"model": "openai/bridged", **to, **bridge}),
        *(route(name, {"model": name, **to, "api_base": _base_of(name, base_url)}) for name in OTHERS),
        route("faulty/*", {"model": "openai/*", **to}),
        route("faulty-bridged/*", {"model": "openai/*", **to, **bridge}),
    ]
    settings: dict[str, Any] = with_settings(routes)
    return {**settings, "litellm_settings": {**settings["litellm_settings"], "callbacks": [_CALLBACK]}}


def _base_of(name: str, base_url: str) -> str:
    return base_url if name.startswith("gemini/") else base_url.removesuffix("/v1")


def serve(folder: Path) -> None:
    """Run provider and proxy until the last user has gone."""
    directory = GatewayDirectory(folder / "state")
    directory.write(f"{_CALLBACK.partition('.')[0]}.py", _RECORDER)
    with Upstream() as upstream, Proxy(configuration(upstream.base_url), directory=directory, env={}) as proxy:
        proxy.wait_until_ready()
        place = {"base_url": proxy.base_url, "api_key": proxy.api_key, "upstream": upstream.base_url}
        GatewayDirectory(folder).write(READY, json.dumps(place))
        try:
            with (folder / USERS).open("w") as users:
                fcntl.flock(users, fcntl.LOCK_EX)
        finally:
            (folder / READY).unlink()
