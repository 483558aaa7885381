"""A paid report can always be read, no matter how deeply the rest of the response is nested."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from litellm_openai_example.calls.lenient import parse_json
from litellm_openai_example.json_object import DEEPEST, within_depth
from litellm_openai_example.relay.ledger.records import when
from litellm_openai_example.relay.report import cost_of_runs, list_runs
from litellm_openai_example.research.contract import INVOCATIONS_PATH
from litellm_openai_example.research.relay_answers import read_view
from litellm_openai_example.research.relay_client import RelayClient

from ..fakes.raw import RawServer
from ..fakes.scripted import Answer, Seen, reply, sse
from .running import Json, ThreadedRelay, body, settings, token

TEXT, URL = "The report.", "https://a.example/1"


def lists(levels: int) -> str:
    return "[" * levels + "]" * levels


def objects(levels: int) -> str:
    return '{"a":' * levels + '"]}\\"["' + "}" * levels


# JSON that is odd but within the limit of depth: it is kept whole.
WHOLE = {
    "200 lists": lists(200),
    "220 objects": objects(220),
    "a wide list": json.dumps([{"a": [number]} for number in range(20_000)]),
    "a long number": "9" * 4000,
    "a number too long for Python": "-" + "9" * 5000,
    "NaN": "NaN",
    "Infinity": "[-Infinity, Infinity, 1e999]",
    "a name twice": '{"a": 1, "a": {"b": 2}}',
    "halves of characters": '{"\\ud800": "\\udc00"}',
    "NUL": '{"\\u0000": "\\u0000"}',
}
# JSON deeper than a parser or a database takes: it is cut, and the report beside it must survive.
DEEP = {f"{levels} {kind.__name__}": kind(levels) for kind in (lists, objects) for levels in (300, 900, 100_000)}
TELLING = ("220 objects", "NaN", "300 lists", "900 objects", "100000 objects")
MESSAGE = json.dumps(
    {
        "type": "message",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": TEXT, "annotations": [{"type": "url_citation", "url": URL, "title": "One"}]}
        ],
    }
)
# Positions of the odd JSON in a response: outside and inside the message that holds the report.
PLACES = {
    "a tool's output": f'"output": [{{"type": "function_call_output", "output": ODD}}, {MESSAGE}]',
    "usage": f'"usage": {{"total_tokens": 7, "details": ODD}}, "output": [{MESSAGE}]',
    "the message": f'"output": [{MESSAGE[:-1]}, "details": ODD}}]',
    "an unknown field": f'"output": [{MESSAGE}], "unknown": ODD',
}


def response(odd: str, place: str) -> bytes:
    fields = PLACES[place].replace("ODD", odd)
    return f'{{"id": "resp_1", "object": "response", "model": "m", "status": "completed", {fields}}}'.encode()


class Upstream(RawServer):
    """A gateway that returns `final` on a poll, at once, or as the last event of a stream."""

    final = b""
    at_once = False

    def answer(self, seen: Seen) -> Answer:
        if seen.method == "GET" or self.at_once:
            return reply(self.final)
        if seen.json.get("stream"):
            delta = {"type": "response.output_text.delta", "delta": TEXT}
            return sse({"type": "response.created", "response": {"id": "resp_1"}}, delta, self.last)
        return reply({"id": "resp_1", "object": "response", "status": "queued", "output": []})

    @property
    def last(self) -> bytes:
        return b'data: {"type": "response.completed", "response": ' + self.final + b"}\n\n"


@pytest.fixture
def gateway() -> Iterator[Upstream]:
    server = Upstream()
    server.script = server.answer
    with server:
        yield server


@pytest.fixture
def relay(sqlite_url: str, gateway: Upstream) -> Iterator[ThreadedRelay]:
    upstream: Any = SimpleNamespace(base_url=gateway.url)
    with ThreadedRelay(settings(sqlite_url, upstream)) as relay:
        yield relay


@pytest.fixture
def client(relay: ThreadedRelay) -> Iterator[RelayClient]:
    with RelayClient(relay.api.base_url) as client:
        yield client


def read_everywhere(relay: ThreadedRelay, client: RelayClient, started: Json) -> list[Json]:
    """Return the views of an ended run from every endpoint that shows one."""
    path = f"{INVOCATIONS_PATH}/{started['invocation_id']}"
    id, secret = started["invocation_id"], started["invocation_token"]
    views = [relay.api.wait(started), relay.api.view(started), relay.api.cancel(started)]
    views.append(relay.api.events(started)[-1].data)
    for view in (client.get(id, secret), client.wait(id, secret), client.cancel(id, secret)):
        views.append(json.loads(view.model_dump_json()))
    views.append(list(client.events(id, secret))[-1].data)
    assert relay.api.call("GET", path, headers=token(started)).status_code == 200
    return views


@pytest.mark.parametrize(
    ("place", "way"),
    [(place, "in the background") for place in PLACES]
    + [("a tool's output", way) for way in ("at once", "in a stream")],
)
def test_text_and_sources_survive(
    relay: ThreadedRelay, client: RelayClient, gateway: Upstream, way: str, place: str
) -> None:
    gateway.at_once = way == "at once"
    every = (place, way) == ("a tool's output", "in the background")
    for name, odd in {**WHOLE, **DEEP}.items():
        if not (every or name in TELLING):
            continue
        gateway.final = response(odd, place)
        started = relay.api.start(name, stream=way == "in a stream")
        for view in read_everywhere(relay, client, started):
            assert (view["status"], view["output_text"]) == ("completed", TEXT), name
            assert view["sources"] == [{"url": URL, "title": "One"}], name
            assert view["response"]["output"][-1]["content"][0]["text"] == TEXT, name
            cut = name in DEEP and place != "an unknown field"
            assert view["response"].get("shortened", False) is cut, name


def test_a_repeated_start_returns_the_report(relay: ThreadedRelay, gateway: Upstream) -> None:
    gateway.final = response(lists(300), "usage")
    for _ in range(2):
        answer = relay.api.post(body("Why?"), Idempotency_Key="k")
        assert (answer.status_code, answer.json()["output_text"]) == (200, TEXT)


@pytest.mark.parametrize("odd", [lists(300), objects(900), lists(5000), lists(100_000), "NaN", "9" * 5000])
def test_a_row_of_an_older_release_is_read(
    relay: ThreadedRelay, client: RelayClient, gateway: Upstream, tmp_path: Path, odd: str
) -> None:
    gateway.final = response("1", "usage")
    started = relay.api.start()
    relay.api.wait(started)
    stored = json.loads(response('"ODD"', "usage")) | {"sources": [{"url": URL, "title": "One"}], "cost_usd": 0.5}
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as ledger:
        ledger.execute("UPDATE relay_invocations SET response = ?", [json.dumps(stored).replace('"ODD"', odd)])
        ledger.commit()
    for view in read_everywhere(relay, client, started):
        assert (view["output_text"], view["cost_usd"]) == (TEXT, 0.5)
        assert view["sources"] == [{"url": URL, "title": "One"}]
        assert view["response"].get("shortened", False) is (odd[0] in "[{")
    url = relay.settings.database_url
    assert started["invocation_id"] in list_runs(url, "completed", as_json=False)
    assert "1 runs" in cost_of_runs(url, when(0), as_json=False)


def test_only_the_deepest_levels_are_dropped() -> None:
    data: Json = {"a": json.loads(lists(DEEPEST)), "b": {"c": [1, {"d": 2}]}}
    cut = within_depth(data)
    assert json.dumps(cut["a"]) == lists(DEEPEST - 1).replace("[]", "[null]")
    assert cut["b"] == data["b"]
    whole: Json = {"a": json.loads(lists(DEEPEST - 1)), "b": {}}
    assert within_depth(whole) is whole


@pytest.mark.parametrize("levels", [999, 1000, 5000, 100_000])
def test_brackets_in_texts_do_not_count(levels: int) -> None:
    texts = '"[{", "\\"[[", "\\\\", "}]\\\\\\""'
    read = parse_json(f'[{texts}, {lists(levels)}, [{texts}], {{"]": {objects(levels)}}}, {texts}]')
    assert isinstance(read, list)
    expected = json.loads(f"[{texts}]")
    assert read[: len(expected)] == read[-len(expected) :] == read[-len(expected) - 2] == expected


@pytest.mark.parametrize("broken", [lists(3000)[:-1], lists(3000) + "]", "[" * 3000, '["' + lists(3000)])
def test_broken_deep_json_is_not_repaired(broken: str) -> None:
    with pytest.raises(ValueError, match=re.compile("Expecting|Extra|Unterminated|delimiter")):
        parse_json(broken)


def test_a_foreign_relays_deep_view_can_be_serialised() -> None:
    data = {"invocation_id": "inv_1", "status": "completed", "response": {"output": json.loads(lists(300))}}
    view = read_view({**data, "output_text": TEXT})
    assert json.loads(view.model_dump_json())["response"]["shortened"] is True
    assert view.output_text == TEXT
