"""The child's side of `children.Server`: LiteLLM or the relay, on an inherited socket, until the parent ends.

A parent that is killed cannot stop its children. So it holds one end of a pipe and the child reads the other: however
the parent ends, the pipe closes, and the child stops.

This file also runs as a script in LiteLLM's environment, where this package is not installed: import nothing from it.
"""

import functools
import json
import os
import pkgutil
import re
import runpy
import signal
import socket
import sys
import threading
from typing import Any

RELAY = "--relay"
DEMO = "--demo"
# Both servers finish what is in flight when they are asked to stop; after these seconds they are killed.
_LITELLM_STOP_SECONDS = 5.0
_RELAY_STOP_SECONDS = 8.0
# The routes of the offline demo. LiteLLM has hundreds more, and many of them go straight to a provider.
_SERVED = re.compile(
    r"(/v1)?/(chat/completions|embeddings|(responses|files|models)(/.*)?)"
    r"|/openai/v1/responses(/.*)?|(/openai/deployments|/engines)/.+/(chat/completions|embeddings)"
    r"|/v1/messages|/v1beta/models/[^/]+:\w+"  # for clients of Anthropic and Google, answered by the same models
    r"|/|/docs|/redoc|/openapi\.json|/swagger/.*|/favicon\.ico|(/v1)?/model/info|/model_group/info"
    r"|/health(/liveliness|/liveness|/readiness)?"
)


def stop_with_parent(pipe: int, seconds: float) -> None:
    """Send this process SIGTERM once the pipe's other end is closed, and kill its process group `seconds` later."""

    def watch() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        # If the server stops in time, this daemon thread ends with it.
        threading.Event().wait(seconds)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def demo_only(app: Any, models: list[str]) -> Any:
    """Wrap an ASGI application so that it serves the routes of the offline demo and lists `models` alone."""

    async def guarded(scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "lifespan" or (scope["type"] == "http" and _SERVED.fullmatch(path.rstrip("/") or "/")):
            listing = path.rstrip("/") in ("/models", "/v1/models")
            await app(scope, receive, listed(send, models) if listing else send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        asked = re.sub(r"^(/openai)?(/v1)?/", "", path).split("/")[0]
        message = (
            f"The offline demo has no {asked!r}: it serves chat completions, responses, embeddings, files and models. "
            "For more set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY."
        )
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "not_in_offline_demo"}
        body = json.dumps({"error": error}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return guarded


def listed(send: Any, models: list[str]) -> Any:
    """Wrap an ASGI `send` so that a list of models holds `models` alone: LiteLLM adds its whole price table."""
    start: dict[str, Any] = {}
    body = b""

    async def filtered(message: dict[str, Any]) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
            return
        body += message.get("body", b"")
        if message.get("more_body"):
            return
        if start["status"] == 200:
            answer = json.loads(body)
            for field, name in (("data", "id"), ("models", "slug")):  # the second is a catalogue for Codex
                if field in answer:
                    answer[field] = [one for one in answer[field] if one[name] in models]
            body = json.dumps(answer).encode()
            # The length has changed, and the head is sent only now for that reason.
            others = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            start = {**start, "headers": [*others, (b"content-length", str(len(body)).encode())]}
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return filtered


def serve(listener: socket.socket, models: list[str], app: str, **options: Any) -> None:
    """Serve as `uvicorn.run` does, but on a socket that already listens."""
    import uvicorn

    application = pkgutil.resolve_name(app)
    if models:
        application = demo_only(application, models)
    server = uvicorn.Server(uvicorn.Config(application, **options))
    server.run(sockets=[listener])
    if not server.started:
        sys.exit("the proxy did not start")


def run_litellm(descriptor: int, options: list[str]) -> None:
    """Run LiteLLM's command on a socket; `--demo MODELS` may stand before its own options."""
    models: list[str] = []
    if options[0] == DEMO:
        models, options = options[1].split(","), options[2:]
    sys.argv = ["litellm", *options]
    import uvicorn

    # LiteLLM's command takes a host and a port, but no socket.
    uvicorn.run = functools.partial(serve, socket.socket(fileno=descriptor), models)
    from litellm import run_server  # type: ignore[import-not-found]

    run_server()


def run_relay(descriptor: int) -> None:
    """Run the relay's command on a socket."""
    sys.argv = ["litellm-relay", "--host", "127.0.0.1", "--fd", str(descriptor)]
    runpy.run_module("litellm_openai_example.relay", run_name="__main__", alter_sys=True)


def main() -> None:
    """Run a server. Arguments: the descriptors of pipe and socket, then `--relay` or the options of LiteLLM."""
    pipe, descriptor, *options = sys.argv[1:]
    if options == [RELAY]:
        stop_with_parent(int(pipe), _RELAY_STOP_SECONDS)
        run_relay(int(descriptor))
    else:
        stop_with_parent(int(pipe), _LITELLM_STOP_SECONDS)
        run_litellm(int(descriptor), options)


if __name__ == "__main__":
    main()
