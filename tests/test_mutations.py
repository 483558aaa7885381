"""Valid answers with parts replaced, removed or doubled: the command still keeps its promises."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from litellm_openai_example.errors import INTERNAL_ERROR

from .cli.running import NOT_SEARCHED
from .conftest import RunCommand
from .fakes.scripted import (
    KEY,
    Answer,
    ScriptedServer,
    chat_body,
    chat_events,
    reply,
    response_body,
    response_events,
    sse,
)
from .fakes.served import FakeGateway
from .fakes.tool_calling import ARGUMENTS, AUTO, FakeRelay, Turns, view
from .tools.chance import SEED

ODD: list[Any] = [
    None, True, 0, -1, 1e308, 10**30, float("nan"), "", "x" * 3000, "\ud800", "한", "\x1b[31m", [], {}, [None],
    {"message": None}, {"error": {"message": f"boo {KEY}"}}, "completed", "failed", KEY,
]  # fmt: skip
TEXT = "Hello"
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "deep_research", "arguments": ARGUMENTS}
SEARCHED = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
WHOLE = response_body(TEXT)
WHOLE["output"] = [{"type": "reasoning", "id": "rs_1", "summary": []}, SEARCHED, *WHOLE["output"]]
MODES: dict[str, tuple[list[str], Any]] = {
    "chat": ([], chat_body(TEXT)),
    "responses": (["--api", "responses", "--web-search"], WHOLE),
    "json": (["--api", "responses", "--json"], WHOLE),
    "background": (["--api", "responses", "--background"], response_body(None, "queued", output=[])),
    "chat stream": (["--stream"], None),
    "responses stream": (["--api", "responses", "--stream"], None),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def mutated(value: Any, luck: random.Random) -> Any:
    """Return a copy of `value` with one to three random changes."""
    value = copy.deepcopy(value)
    for _ in range(luck.randint(1, 3)):
        found = list(places(value))
        if not found:
            break
        *parents, last = luck.choice(found)
        holder = value
        for key in parents:
            holder = holder[key]
        change = luck.choice(["replace", "replace", "remove", "double"])
        if change == "replace":
            holder[last] = copy.deepcopy(luck.choice(ODD))
        elif change == "remove":
            del holder[last]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
    return value


def streamed(mode: str, luck: random.Random) -> Answer:
    end = {"type": "response.completed", "response": WHOLE}
    events = chat_events("Hel", "lo") if mode == "chat stream" else response_events("Hel", "lo", end=end)
    return sse(*(mutated(event, luck) if luck.random() < 0.4 else event for event in events))


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(SEED, SEED + 40))
@pytest.mark.parametrize("mode", MODES)
def test_mutated_answers_break_no_promise(
    mode: str, seed: int, configured: ScriptedServer, command: RunCommand
) -> None:
    luck = random.Random(f"{mode} {seed}")
    arguments, body = MODES[mode]
    status = luck.choice([200, 200, 200, 400, 401, 404, 500, 502])
    if status != 200:
        said = json.dumps({"error": {"message": f"no {KEY}", "code": "c"}})
        body = {"error": {"message": f"litellm.X: OpenAIException - {said}", "type": "t", "code": str(status)}}
    configured.answers(streamed(mode, luck) if body is None else reply(mutated(body, luck), status))
    run = command(*arguments, "--timeout", "5", "hi")
    assert run.code in (0, 1, 3), run
    assert "Traceback" not in run.err
    assert INTERNAL_ERROR not in run.err
    assert KEY not in run.out + run.err
    assert run.code in (0, 3) if run.out.strip() else run.code == 1 or "is cut short" in run.err, run
    assert (run.code == 0) <= (status == 200 or "stream" in mode)
    assert bool(run.err.replace(NOT_SEARCHED, "")) == (run.code != 0)


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(SEED, SEED + 40))
@pytest.mark.parametrize("where", ["call", "acceptance", "end", "final"])
def test_mutated_answers_in_tool_calling_break_no_promise(
    where: str, seed: int, configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    luck = random.Random(f"{where} {seed}")
    bodies: dict[str, Any] = {
        "call": response_body(None, id="resp_1", output=[CALL, {**CALL, "id": "fc_2", "call_id": "call_2"}]),
        "acceptance": view("running", None),
        "end": view(),
        "final": response_body(TEXT, id="resp_2"),
    }
    bodies[where] = mutated(bodies[where], luck)
    with FakeGateway() as server:
        monkeypatch.setenv("RELAY_BASE_URL", server.url)
        relay = FakeRelay(server)
        relay.accepts, relay.ends = reply(bodies["acceptance"], 202), reply(bodies["end"])
        Turns(configured, reply(bodies["call"]), reply(bodies["final"]))
        run = command(*AUTO, "--timeout", "3", "Research noodles")
    assert run.code in (0, 1, 3, 4), run
    assert "Traceback" not in run.err
    assert INTERNAL_ERROR not in run.err
    assert KEY not in run.out + run.err
    assert run.code != 0 or run.out.strip()
    if where == "final":  # the research is paid, so its report must be shown even if the last turn fails
        assert "RESEARCHED" in run.out or TEXT in run.out or run.code == 0, run
