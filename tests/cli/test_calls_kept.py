"""The calls of --auto-tool-call are in the journal: a kill loses none, and a lost answer is not a failure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from litellm_openai_example.cli import journal

from ..conftest import RunCommand
from ..fakes.keyed_relay import (
    HELD,
    TWO,
    KeyedRelay,
    arguments_of,
    held_start,
    listed,
    nothing_held,
    relay,
    typed_lines,
)
from ..fakes.scripted import Answer, ScriptedServer, Seen, eventually, reply
from ..fakes.tool_calling import ARGUMENTS, FINAL, Turns, calling
from .running import start

__all__ = ["relay"]


# Points at which a command with two concurrent calls is killed with -9: the request whose answer is held back, the
# condition that the test waits for, and the records that must be left.
def _wait_of(number: int) -> Callable[[Seen], bool]:
    return lambda seen: f"inv_{number}/wait" in seen.path


def _start_of(question: str) -> Callable[[Seen], bool]:
    return lambda seen: held_start(seen) and question.encode() in seen.content


POINTS: dict[str, tuple[Callable[[Seen], bool], Callable[[KeyedRelay, ScriptedServer], bool], int]] = {
    "first turn": (nothing_held, lambda relay, gateway: len(gateway.posts) == 1, 0),
    "both posted": (held_start, lambda relay, gateway: len(relay.posts) == 2, 2),
    "one accepted": (_start_of("rice"), lambda relay, gateway: _kept_ids() and len(relay.posts) == 2, 2),
    "both running": (
        lambda seen: "/wait" in seen.path,
        lambda relay, gateway: sum("/wait" in seen.path for seen in relay.server.seen) == 2,
        2,
    ),
    "one ended": (
        _wait_of(2),
        lambda relay, gateway: sum("/wait" in seen.path for seen in relay.server.seen) == 2,
        2,
    ),
    "last turn": (nothing_held, lambda relay, gateway: len(gateway.posts) == 2, 2),
}


def _kept_ids() -> bool:
    return any(entry.confirmed for entry in journal.all_records())


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_loses_no_call(point: str, configured: ScriptedServer, relay: KeyedRelay, command: RunCommand) -> None:
    held, reached, entries = POINTS[point]
    turns = Turns(configured, calling(*TWO), FINAL)
    relay.holds = held

    def script(seen: Seen) -> Answer:
        answer = turns.answer(seen)
        if seen.method == "POST" and len(configured.posts) == {"first turn": 1, "last turn": 2}.get(point):
            answer = Answer(pause=HELD)
        return answer

    configured.script = script
    with start(configured, "--auto-tool-call", "--timeout", "60", "Research food") as process:
        assert eventually(lambda: reached(relay, configured))
        process.kill()
    found = listed(command)
    assert len(found) == entries
    # One resume finishes both calls and the answer, and posts no run a second time.
    relay.holds = nothing_held
    configured.script = lambda seen: FINAL
    if found:
        run = command("--invocation", found[-1]["id"], "--timeout", "20")
        assert (run.code, run.out) == (0, "The answer\n")
        assert len(configured.posts[-1].json["input"]) == 2
    assert listed(command) == []
    assert len(relay.accepted) == entries


@pytest.mark.parametrize("arguments", [[ARGUMENTS], TWO], ids=["one", "two"])
def test_a_lost_answer_is_not_reported_to_the_model(
    arguments: list[str], configured: ScriptedServer, relay: KeyedRelay, command: RunCommand
) -> None:
    Turns(configured, calling(*arguments), FINAL)
    relay.holds = held_start
    run = command("--auto-tool-call", "--timeout", "3", "Research food")
    assert (run.code, run.out) == (4, "")
    assert len(configured.posts) == 1
    (line,) = typed_lines(run.err)  # one line finishes the answer
    assert len(listed(command)) == len(arguments)
    relay.holds = nothing_held
    configured.script = lambda seen: FINAL
    assert command(*arguments_of(line)).out == "The answer\n"
    assert len(relay.accepted) == len(arguments)
    assert listed(command) == []


def test_a_refused_repeat_is_not_reported_to_the_model(
    configured: ScriptedServer, relay: KeyedRelay, command: RunCommand
) -> None:
    Turns(configured, calling(ARGUMENTS), FINAL)
    relay.holds = held_start
    assert command("--auto-tool-call", "--timeout", "3", "Research food").code == 4
    (entry,) = listed(command)
    # The refusal is about this request: the first start may have been accepted, so its outcome stays open.
    relay.server.script = lambda seen: reply({}, 401)
    run = command("--invocation", entry["id"], "--timeout", "3")
    assert (run.code, run.out) == (4, "")
    assert len(configured.posts) == 1
    assert len(listed(command)) == 1


def test_a_run_without_a_final_view_keeps_its_record(
    configured: ScriptedServer, relay: KeyedRelay, command: RunCommand
) -> None:
    Turns(configured, calling(ARGUMENTS), FINAL)
    good = relay.server.script
    relay.server.script = lambda seen: reply({}, 404) if "/wait" in seen.path else good(seen)
    assert command("--auto-tool-call", "Research food").code == 3
    assert [entry["id"] for entry in listed(command)] == ["inv_1"]
