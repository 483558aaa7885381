"""Clients in forked processes open new connections and keep their deadlines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

from ..fakes.raw import RawServer
from ..fakes.scripted import KEY, Answer, Seen, reply, response_body

SLOW = {
    "hangs": Answer(pause=30),
    "drips": Answer(body=b" " * 1000, drip=0.05),
    "drips from the first byte": Answer(body=b" " * 1000, drip_head=0.05),
}

# Two of the clients have open connections when the process forks. Its children run concurrently, so that children
# that inherited a connection would read each other's answers.
FORKED = """
import asyncio, json, os, sys, time
from litellm_openai_example import AsyncLiteLLM, LiteLLM
url, key, *slow = sys.argv[1:]

def in_threads(sdk):
    def ask(*texts):
        return [sdk.responses.create(model="m", input=text, timeout=limit(text)).output_text for text in texts]
    return ask

def in_a_loop(sdk):
    async def ask(*texts):
        return [(await sdk.responses.create(model="m", input=t, timeout=limit(t))).output_text for t in texts]
    return lambda *texts: asyncio.run(ask(*texts))

def limit(text):
    return 1 if text.split(": ")[-1] in slow else 30

def child(ask, *rounds):
    if os.fork() != 0:
        return
    started, told = time.monotonic(), []
    for texts in rounds:
        try: told += ask(*texts)
        except Exception as error: told.append(type(error).__name__)
    os.write(1, (json.dumps([rounds[-1][-1], told, time.monotonic() - started < 25]) + "\\n").encode())
    os._exit(0)

blocking = in_threads(LiteLLM(base_url=url, api_key=key))
used, unused = (in_a_loop(AsyncLiteLLM(base_url=url, api_key=key)) for _ in range(2))
blocking("first")
used("first")
for way, ask in {"blocking": blocking, "used": used, "unused": unused}.items():
    for text in slow:
        child(ask, [f"{way}: before {text}", f"{way}: {text}"])
    child(ask, [f"{way}: before"], [f"{way}: second loop"])
for _ in range(12):
    os.wait()
os.write(1, (json.dumps(blocking("parent")) + "\\n").encode())
"""


def test_forked_processes(raw_gateway: RawServer) -> None:
    def script(seen: Seen) -> Answer:
        text = seen.json["input"]
        return SLOW.get(text.partition(": ")[2]) or reply(response_body(text))

    raw_gateway.script = script
    code = [sys.executable, "-c", FORKED, raw_gateway.url, KEY, *SLOW]
    run = subprocess.run(code, capture_output=True, text=True, timeout=100, check=False)
    *children, parent = [json.loads(line) for line in run.stdout.splitlines()] or [run.stderr]

    expected: list[Any] = []
    for way in ("blocking", "used", "unused"):
        for text in SLOW:
            expected.append([f"{way}: {text}", ["DeadlineExceededError"], True])
        expected.append([f"{way}: second loop", [f"{way}: before", f"{way}: second loop"], True])
    assert sorted(children) == sorted(expected), run.stderr
    assert parent == ["parent"]
    sent = Counter(post.json["input"] for post in raw_gateway.posts)
    assert sent.pop("first") == 2
    assert set(sent.values()) == {1}
    assert {f"{way}: {text}" for way in ("blocking", "used", "unused") for text in SLOW} < set(sent)
    assert raw_gateway.connections >= 2 + len(expected)
