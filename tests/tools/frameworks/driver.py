"""Drive one library with one client: `driver.py NAME plain|ours URL CODE`, in the environment of that library.

CODE is the library's example from docs/frameworks*.md. Each situation has a separate client, and an address that tells
the gateway which failure to play. A JSON line for each goes to stdout.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

TIMEOUT = 2.0
PROMPT = "Name a colour, as JSON."
SITUATIONS = ("answer", "stream", "500", "dropped", "hangs")
Use = Callable[[Any, Any], str | None]


def namespace(kind: str, url: str) -> dict[str, Any]:
    """Return the initial names of the examples: our clients, or the SDK's under the same names."""
    import openai

    import litellm_openai_example as ours

    address: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "sk-key", "timeout": TIMEOUT}
    made: tuple[Any, ...]
    if kind == "ours":
        made = (ours.LiteLLM, ours.AsyncLiteLLM, ours.LiteLLMHttpxClient, ours.AsyncLiteLLMHttpxClient)
    else:
        made = (openai.OpenAI, openai.AsyncOpenAI, openai.DefaultHttpxClient, openai.DefaultAsyncHttpxClient)
    return {
        "client": made[0](**address),
        "async_client": made[1](**address),
        "LiteLLMHttpxClient": functools.partial(made[2], timeout=TIMEOUT),
        "AsyncLiteLLMHttpxClient": functools.partial(made[3], timeout=TIMEOUT),
    }


async def _joined(parts: AsyncIterator[str]) -> str:
    return "".join([part async for part in parts])


def _text(parts: Iterable[str | None]) -> str:
    return "".join(part or "" for part in parts)


def langchain(model: Any, _: Any) -> str:
    return str(model.invoke(PROMPT).text)


def langchain_stream(model: Any, _: Any) -> str:
    return _text(chunk.text for chunk in model.stream(PROMPT))


def llama_index(model: Any, _: Any) -> str:
    return str(model.complete(PROMPT).text)


def llama_index_stream(model: Any, _: Any) -> str:
    return _text(chunk.delta for chunk in model.stream_complete(PROMPT))


def haystack(model: Any, _: Any) -> str:
    from haystack.dataclasses import ChatMessage

    return str(model.run([ChatMessage.from_user(PROMPT)])["replies"][0].text)


def haystack_stream(model: Any, _: Any) -> str:
    from haystack.dataclasses import ChatMessage

    parts: list[str] = []
    model.run([ChatMessage.from_user(PROMPT)], streaming_callback=lambda chunk: parts.append(chunk.content))
    return _text(parts)


def _colour() -> Any:
    from pydantic import BaseModel

    class Colour(BaseModel):
        name: str

    return Colour


def instructor(model: Any, _: Any) -> str:
    asked = [{"role": "user", "content": PROMPT}]
    made = model.chat.completions.create(model="gpt-4o", response_model=_colour(), messages=asked, max_retries=0)
    return str(made.model_dump_json())


def instructor_stream(model: Any, _: Any) -> str:
    asked = [{"role": "user", "content": PROMPT}]
    *_others, last = model.chat.completions.create_partial(model="gpt-4o", response_model=_colour(), messages=asked)
    return str(last.model_dump_json())


def pydantic_ai(model: Any, _: Any) -> str:
    from pydantic_ai import Agent

    return str(Agent(model).run_sync(PROMPT).output)


def pydantic_ai_stream(model: Any, _: Any) -> str:
    from pydantic_ai import Agent

    async def parts() -> AsyncIterator[str]:
        async with Agent(model).run_stream(PROMPT) as run:
            async for part in run.stream_text(delta=True):
                yield part

    return asyncio.run(_joined(parts()))


def openai_agents(model: Any, _: Any) -> str:
    from agents import Agent, Runner

    return str(Runner.run_sync(Agent(name="one", model=model), PROMPT).final_output)


def openai_agents_stream(model: Any, _: Any) -> str:
    from agents import Agent, Runner

    async def parts() -> AsyncIterator[str]:
        async for event in Runner.run_streamed(Agent(name="one", model=model), PROMPT).stream_events():
            if getattr(getattr(event, "data", None), "type", None) == "response.output_text.delta":
                yield event.data.delta

    return asyncio.run(_joined(parts()))


def agent_framework(model: Any, _: Any) -> str:
    from agent_framework import Agent

    async def ask() -> str:
        return str((await Agent(client=model).run(PROMPT)).text)

    return asyncio.run(ask())


def agent_framework_stream(model: Any, _: Any) -> str:
    from agent_framework import Agent

    async def ask() -> str:
        stream = Agent(client=model).run(PROMPT, stream=True)
        async for _update in stream:  # an update adds to the text so far, or replaces it
            pass
        return str((await stream.get_final_response()).text)

    return asyncio.run(ask())


def autogen(model: Any, _: Any) -> str:
    from autogen_core.models import UserMessage

    async def ask() -> str:
        return str((await model.create([UserMessage(content=PROMPT, source="user")])).content)

    return asyncio.run(ask())


def autogen_stream(model: Any, _: Any) -> str:
    from autogen_core.models import UserMessage

    async def parts() -> AsyncIterator[str]:
        async for part in model.create_stream([UserMessage(content=PROMPT, source="user")]):
            if isinstance(part, str):
                yield part

    return asyncio.run(_joined(parts()))


def crewai(model: Any, _: Any) -> str:
    return str(model.call(PROMPT))


def smolagents(model: Any, _: Any) -> str:
    from smolagents import ChatMessage

    return str(model.generate([ChatMessage(role="user", content=PROMPT)]).content)


def smolagents_stream(model: Any, _: Any) -> str:
    from smolagents import ChatMessage

    return _text(delta.content for delta in model.generate_stream([ChatMessage(role="user", content=PROMPT)]))


def dspy(model: Any, _: Any) -> str:
    return str(model(PROMPT)[0])


def tool_runner(model: Any, client: Any) -> str:
    return str(model.run(client, {"model": "gpt-4o", "input": PROMPT}).output_text)


def tool_runner_stream(model: Any, client: Any) -> str:
    return str(model.run(client, {"model": "gpt-4o", "input": PROMPT}, stream=True).output_text)


def main(name: str, kind: str, url: str, code: str) -> None:
    family = name.replace("-responses", "").replace("-http", "").replace("-", "_")
    ask: Use = globals()[family]
    stream: Use | None = globals().get(f"{family}_stream")
    for situation in SITUATIONS:
        use = stream if situation == "stream" else ask
        if use is None:
            continue
        names = namespace(kind, f"{url}/{situation}")
        exec(compile(code, f"docs/frameworks*.md: {name}", "exec"), names)
        answer = error = None
        started = time.monotonic()
        try:
            answer = use(names["model"], names["client"])
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"[:300]
        seconds = time.monotonic() - started
        report = {"situation": situation, "answer": answer, "error": error, "seconds": seconds}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
