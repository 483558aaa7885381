"""A record is dropped only after its result is on stdout; tried on a full disk and a closed pipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

import pytest

from litellm_openai_example.cli import journal
from litellm_openai_example.cli.journal import RESEARCH, RESPONSE

from ..conftest import RunCommand, run_main
from ..fakes.scripted import Answer, ScriptedServer, Seen, reply, response_body
from ..fakes.tool_calling import ARGUMENTS, FINAL, FakeRelay, Turns, calling, view
from .running import R, polling


def _full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def _closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


SINKS = {_full: 1, _closed_pipe: 141}


@contextmanager
def stdout_of(descriptor: int) -> Iterator[TextIOWrapper]:
    stream = TextIOWrapper(os.fdopen(descriptor, "wb"), encoding="utf-8")
    with stream:
        yield stream


def _kept(kind: str, work_id: str, **more: str) -> None:
    entry = journal.intent(kind, "Why?", **more)
    journal.write(entry._replace(id=work_id, token="tok_1" if kind == RESEARCH else None))


def _response(status: str, **fields: object) -> Callable[[ScriptedServer, FakeRelay], None]:
    def prepare(gateway: ScriptedServer, relay: FakeRelay) -> None:
        _kept(RESPONSE, "resp_1")
        gateway.answers(reply(response_body("done", status, **fields)))

    return prepare


def _submit(*statuses: str) -> Callable[[ScriptedServer, FakeRelay], None]:
    def prepare(gateway: ScriptedServer, relay: FakeRelay) -> None:
        gateway.script = polling(*statuses)

    return prepare


def _blocks(status: str) -> Callable[[ScriptedServer, FakeRelay], None]:
    return lambda gateway, relay: gateway.answers(reply(response_body("done", status)))


def _run(status: str = "completed", text: str | None = "RESEARCHED") -> Callable[[ScriptedServer, FakeRelay], None]:
    def prepare(gateway: ScriptedServer, relay: FakeRelay) -> None:
        _kept(RESEARCH, "inv_1", relay=relay.server.url)
        relay.accepts = reply(view("cancelled", None))
        relay.ends = reply(view(status, text))

    return prepare


def _new_run(status: str) -> Callable[[ScriptedServer, FakeRelay], None]:
    def prepare(gateway: ScriptedServer, relay: FakeRelay) -> None:
        relay.accepts = reply(view(status), 200 if status == "completed" else 202)

    return prepare


def _stream(gateway: ScriptedServer, relay: FakeRelay) -> None:
    last = b"event: completed\nid: 1\ndata: " + json.dumps(view()).encode() + b"\n\n"
    pieces = b'event: output_text\nid: 0\ndata: {"delta": "RESEARCHED", "offset": 0}\n\n'

    def script(seen: Seen) -> Answer:
        if seen.path.endswith("/events"):
            return Answer(headers={"content-type": "text/event-stream"}, events=[(0.0, pieces), (0.0, last)])
        return relay.answer(seen)

    relay.server.script = script


def _turns(*turns: Answer) -> Callable[[ScriptedServer, FakeRelay], None]:
    def prepare(gateway: ScriptedServer, relay: FakeRelay) -> None:
        Turns(gateway, *turns)

    return prepare


CUT = reply(response_body("Half", "incomplete"))
WAYS: dict[str, tuple[Callable[[ScriptedServer, FakeRelay], None], list[str]]] = {
    "submit and wait": (_submit("completed"), [*R, "--background", "--wait", "hi"]),
    "submit to a model that blocks": (_blocks("completed"), [*R, "--background", "hi"]),
    "submit and wait for a model that blocks": (_blocks("completed"), [*R, "--background", "--wait", "hi"]),
    "submit to a model that cuts short": (_blocks("incomplete"), [*R, "--background", "--wait", "hi"]),
    "submit to a model that fails in the middle": (_blocks("failed"), [*R, "--background", "hi"]),
    "retrieve": (_response("completed"), ["--retrieve", "resp_1"]),
    "retrieve what is cut short": (_response("incomplete"), ["--retrieve", "resp_1"]),
    "retrieve what failed in the middle": (_response("failed"), ["--retrieve", "resp_1"]),
    "retrieve and wait": (_response("completed"), ["--retrieve", "resp_1", "--wait"]),
    "retrieve and wait for JSON": (_response("completed"), ["--retrieve", "resp_1", "--wait", "--json"]),
    "cancel": (_response("cancelled"), ["--cancel", "resp_1"]),
    "cancel too late": (_response("completed"), ["--cancel", "resp_1"]),
    "pick up a run": (_run(), ["--invocation", "inv_1"]),
    "pick up a run as JSON": (_run(), ["--invocation", "inv_1", "--json"]),
    "pick up a run that is cut short": (_run("incomplete"), ["--invocation", "inv_1"]),
    "pick up a failed run as JSON": (_run("failed", None), ["--invocation", "inv_1", "--json"]),
    "cancel a run": (_run(), ["--cancel", "inv_1"]),
    "research": (_new_run("running"), ["--target", "relay", "Why?"]),
    "research that has ended at once": (_new_run("completed"), ["--target", "relay", "Why?"]),
    "research in the background": (_new_run("running"), ["--target", "relay", "--background", "Why?"]),
    "a stream of research": (_stream, ["--target", "relay", "--stream", "Why?"]),
    "an answer with research": (_turns(calling(ARGUMENTS), FINAL), ["--auto-tool-call", "Why?"]),
    "an answer with research as JSON": (_turns(calling(ARGUMENTS), FINAL), ["--auto-tool-call", "--json", "Why?"]),
    "an answer with research, cut short": (_turns(calling(ARGUMENTS), CUT), ["--auto-tool-call", "Why?"]),
}


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("way", WAYS)
def test_an_unwritable_result_keeps_its_record(
    way: str,
    sink: Callable[[], int],
    configured: ScriptedServer,
    relay: FakeRelay,
    command: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare, arguments = WAYS[way]
    prepare(configured, relay)
    with stdout_of(sink()) as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        patched.setattr(sys, "stdin", None)
        assert run_main(arguments) == SINKS[sink]
    (entry,) = journal.all_records()
    assert entry.confirmed


# After these the run continues, or the answer can still be finished.
STAY = ("research in the background", "an answer with research, cut short")


@pytest.mark.parametrize("way", [way for way in WAYS if way not in STAY])
def test_a_written_result_drops_its_record(
    way: str, configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    prepare, arguments = WAYS[way]
    prepare(configured, relay)
    assert command(*arguments).out
    assert journal.all_records() == []
