"""The command and the library against the bare SDK and other ways to make the same call."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from .llm import install_llm
from .measure import Figures, interleaved, run_process
from .node import install_node
from .sdk2 import install_sdk2

PROMPT = "Say something about foxes."
CALLS = 500
_BLOCK = 10
_REQUEST: dict[str, Any] = {"model": "gpt-4o", "input": PROMPT}

# The same call in five lines with the bare SDK and its types, as in its documentation.
BARE = {
    "chat": """from openai import OpenAI
client = OpenAI()
reply = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": PROMPT}])
print(reply.choices[0].message.content)""",
    "responses": """from openai import OpenAI
client = OpenAI()
reply = client.responses.create(model="gpt-4o", input=PROMPT)
print(reply.output_text)""",
    "responses stream": """from openai import OpenAI
client = OpenAI()
for event in client.responses.create(model="gpt-4o", input=PROMPT, stream=True):
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)""",
}
OURS = {
    "chat": [],
    "responses": ["--api", "responses"],
    "responses stream": ["--api", "responses", "--stream"],
}
URLLIB = """import json, os, urllib.request
body = json.dumps({"model": "gpt-4o", "input": PROMPT}).encode()
headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}
request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/responses", body, headers)
print(json.load(urllib.request.urlopen(request))["output"][0]["content"][0]["text"])"""
COMMAND = str(Path(sys.executable).parent / "litellm-example")
HELLO = "import click\n@click.command()\ndef hello(): click.echo('hello')\nhello()"


def environment(port: int) -> dict[str, str]:
    """Return the environment of every measured process: the same gateway for all, bytecode allowed."""
    url = f"http://127.0.0.1:{port}"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **env,
        "LITELLM_BASE_URL": url,
        "LITELLM_API_KEY": "sk-bench",
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "sk-bench",
        "NO_PROXY": "127.0.0.1",
    }


def one_shot(port: int, runs: int) -> dict[str, Figures]:
    """Measure whole processes, from start to exit."""
    env = environment(port)
    commands: dict[str, list[str]] = {}
    for name, script in BARE.items():
        commands[f"{name}: litellm-example"] = [COMMAND, *OURS[name], PROMPT]
        commands[f"{name}: bare SDK"] = [sys.executable, "-c", f"PROMPT = {PROMPT!r}\n{script}"]
    if older := install_sdk2():
        script = f"PROMPT = {PROMPT!r}\n{BARE['chat']}"
        commands["chat, openai 2: litellm-example"] = [str(older / "litellm-example"), *OURS["chat"], PROMPT]
        commands["chat, openai 2: bare SDK"] = [str(older / "python"), "-c", script]
    commands["responses: urllib"] = [sys.executable, "-c", f"PROMPT = {PROMPT!r}\n{URLLIB}"]
    if curl := shutil.which("curl"):
        data = f'{{"model": "gpt-4o", "input": "{PROMPT}"}}'
        headers = ["-H", "authorization: Bearer sk-bench", "-H", "content-type: application/json"]
        commands["responses: curl"] = [curl, "-sS", *headers, "-d", data, f"{env['OPENAI_BASE_URL']}/responses"]
    else:
        print("curl: left out, there is none", file=sys.stderr)
    commands["help: litellm-example"] = [COMMAND, "--help"]
    commands["help: hello-world Click"] = [sys.executable, "-c", HELLO]
    if llm := install_llm(env["OPENAI_BASE_URL"]):
        env["LLM_USER_PATH"] = str(llm.parent.parent / "home")
        options = ["--no-log", "--key", "sk-bench", PROMPT]
        commands["chat: llm"] = [str(llm), "-m", "bench-chat", "--no-stream", *options]
        commands["responses: llm"] = [str(llm), "-m", "bench-responses", "--no-stream", *options]
        commands["responses stream: llm"] = [str(llm), "-m", "bench-responses", *options]
    for name, command in install_node(PROMPT).items():
        commands[f"{name}: Node SDK"] = command
    runs_of = {name: partial(run_process, command, env) for name, command in commands.items()}
    if make := shutil.which("make"):
        runs_of["chat: make run"] = partial(run_process, [make, "run", f"PROMPT={PROMPT}"], _of_a_user(env))
    # The shortest processes run more often: a busy machine disturbs them most.
    often = {name: runs_of.pop(name) for name in ("help: litellm-example", "help: hello-world Click")}
    return {**interleaved(runs_of, runs), **interleaved(often, 4 * runs)}


def _of_a_user(env: dict[str, str]) -> dict[str, str]:
    """Drop the variables of `make bench`, as for a user; the uncounted first round installs missing packages."""
    ours = ("MAKE", "MFLAGS", "UV_", "VIRTUAL_ENV", "PROMPT", "ARGS")
    return {name: value for name, value in env.items() if not name.startswith(ours)}


def first_piece(port: int, runs: int) -> dict[str, Figures]:
    """Measure the seconds between sending the first text piece of a stream and reading it from our command's stdout.

    The piece is the sender's monotonic clock, which all processes of a machine share; the next one follows later.
    """
    env = environment(port)
    figures = {name: Figures(name) for name in ("first piece: chat", "first piece: responses")}
    for round_ in range(runs + 1):
        for name, found in figures.items():
            command = [COMMAND, "--api", name.partition(": ")[2], "--stream", "--model", "stamped", PROMPT]
            with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                first = os.read(process.stdout.fileno(), 4096)
                arrived = time.monotonic_ns()
                rest = process.stdout.read()
            if process.returncode or not first.strip().isdigit() or not rest:
                raise RuntimeError(f"{command} failed or held the first piece back: {first!r}")
            if round_:
                found.seconds.append((arrived - int(first)) / 1e9)
    return figures


def library(port: int) -> dict[str, Figures]:
    """Measure one call of 500 in one process: ours, the typed SDK's and the drop-in's, in alternating blocks."""
    url = f"http://127.0.0.1:{port}"
    return {**_library_sync(url), **asyncio.run(_library_async(url))}


def _library_sync(url: str) -> dict[str, Figures]:
    from openai import OpenAI

    from litellm_openai_example import LiteLLM, LiteLLMClient

    with (
        OpenAI(base_url=f"{url}/v1", api_key="sk") as typed,
        LiteLLM(base_url=url, api_key="sk") as drop_in,
        LiteLLMClient(url, "sk") as ours,
    ):
        calls: dict[str, Callable[[], object]] = {
            "sync: create_response": lambda: ours.create_response(PROMPT),
            "sync: typed SDK": lambda: typed.responses.create(**_REQUEST).output_text,
            "sync: drop-in": lambda: drop_in.responses.create(**_REQUEST).output_text,
        }
        figures = {name: Figures(name) for name in calls}
        for round_ in range(CALLS // _BLOCK + 1):
            for name, call in calls.items():
                started = time.perf_counter()
                for _ in range(_BLOCK):
                    call()
                if round_:
                    figures[name].seconds.append((time.perf_counter() - started) / _BLOCK)
    return figures


async def _library_async(url: str) -> dict[str, Figures]:
    from openai import AsyncOpenAI

    from litellm_openai_example import AsyncLiteLLM, AsyncLiteLLMClient

    async with (
        AsyncOpenAI(base_url=f"{url}/v1", api_key="sk") as typed,
        AsyncLiteLLM(base_url=url, api_key="sk") as drop_in,
        AsyncLiteLLMClient(url, "sk") as ours,
    ):
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "async: create_response": lambda: ours.create_response(PROMPT),
            "async: typed SDK": lambda: typed.responses.create(**_REQUEST),
            "async: drop-in": lambda: drop_in.responses.create(**_REQUEST),
        }
        figures = {name: Figures(name) for name in calls}
        for round_ in range(CALLS // _BLOCK + 1):
            for name, call in calls.items():
                started = time.perf_counter()
                for _ in range(_BLOCK):
                    answer: Any = await call()
                    _ = answer if isinstance(answer, str) else answer.output_text
                if round_:
                    figures[name].seconds.append((time.perf_counter() - started) / _BLOCK)
    return figures
