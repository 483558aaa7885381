"""Call a fake gateway with the command and the library, as CI does on macOS and Windows: python -m tests.tools.smoke

It needs the package and pytest-httpserver, and nothing else of the tests' tools.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from litellm_openai_example import LiteLLM, LiteLLMClient

from ..fakes.scripted import COMPLETED, KEY, Answer, Seen, chat_body, reply, response_body, response_events, sse
from ..fakes.served import FakeGateway

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_COMMANDS = (
    ["Reply with exactly: OK"],
    ["--api", "responses", "Reply with exactly: OK"],
    ["--api", "responses", "--background", "--wait", "Reply with exactly: OK"],
)


def _answer(seen: Seen) -> Answer:
    if seen.headers.get("authorization") != f"Bearer {KEY}":
        return reply({"error": {"message": "Invalid key"}}, 401)
    if "chat" in seen.path:
        return reply(chat_body("OK"))
    if seen.method == "POST" and seen.json.get("stream"):
        return sse(*response_events("OK", end=COMPLETED))
    background = seen.method == "POST" and seen.json.get("background")
    return reply(response_body(None, "queued") if background else response_body("OK"))


def main() -> None:
    """Exit with 0 if each call prints or returns the gateway's answer."""
    with FakeGateway(_answer) as gateway, tempfile.TemporaryDirectory() as state:
        inherited = {name: value for name, value in os.environ.items() if name.lower() not in _PROXIES}
        env = {**inherited, "LITELLM_BASE_URL": gateway.url, "LITELLM_API_KEY": KEY, "XDG_STATE_HOME": state}
        for arguments in _COMMANDS:
            command = [sys.executable, "-m", "litellm_openai_example", *arguments]
            done = subprocess.run(
                command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
            )
            if (done.returncode, done.stdout) != (0, "OK\n"):
                sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        with LiteLLMClient(gateway.url, KEY) as client:
            answers = [client.create_chat_completion("hi"), "".join(client.stream_response("hi"))]
        with LiteLLM(base_url=gateway.url, api_key=KEY) as drop_in:
            answers.append(drop_in.responses.create(model="gpt-6-luna", input="hi").output_text)
        if answers != ["OK"] * 3:
            sys.exit(f"the library returned {answers}")
        print(f"{len(gateway.seen)} requests, {len(_COMMANDS) + len(answers)} answers")


if __name__ == "__main__":
    main()
