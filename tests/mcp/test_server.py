"""The relay's tools with the MCP SDK's client, on stdio and over HTTP: runs survive restarts and are paid for once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("mcp", reason="the extra [mcp] is not installed")

from mcp import Client, MCPError

from litellm_openai_example.mcp.server import Caller, create_server
from litellm_openai_example.payer import Payer
from litellm_openai_example.research.arguments import ToolArguments
from litellm_openai_example.research.contract import Invocation
from litellm_openai_example.research.relay_answers import RelayError, ResearchRunningError, read_view

from ..fakes.gateway import Fault, Gateway, Json, message
from ..fakes.raw import RawServer
from ..fakes.scripted import Answer, eventually, free_port, reply
from ..relay.conftest import StartRelay, assert_clean
from ..relay.running import RelayProcess, ThreadedRelay, body, environment
from .agents import KEY, Reach, agent, call, on_stdio, over_http, over_http_of_2025, tell

NOTE = {"type": "url_citation", "url": "https://a.example/1", "title": "One", "start_index": 0, "end_index": 3}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home directory, whose secret the agents on stdio use."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)


@pytest.fixture(params=[on_stdio, over_http, over_http_of_2025], ids=lambda way: way.__name__)
def reach(request: pytest.FixtureRequest) -> Reach:
    way: Reach = request.param
    return way


@pytest.fixture
def relay(start_relay: StartRelay) -> ThreadedRelay:
    return start_relay(api_key=KEY)


def report(request: Json) -> Json:
    text = "The report. " * 500
    part = {"type": "output_text", "text": text, "annotations": [NOTE]}
    return message(text) | {"output": [{"type": "message", "role": "assistant", "content": [part]}]}


def test_a_restarted_agent_finds_its_run(reach: Reach, relay: ThreadedRelay, upstream: Gateway) -> None:
    let_go = threading.Event()
    upstream.seconds = 600.0
    upstream.final = report
    upstream.on_get = lambda work, count: _end(work, let_go)
    ids: list[str] = []

    async def start_and_die(client: Client) -> None:
        for _ in range(2):
            told = await call(client, "deep_research", research_question="Why?", context=["a"])
            ids.append(told["id"])
            assert told["ask_again_in_seconds"] > 0
        with anyio.move_on_after(0.3):  # the agent goes away during a wait
            await call(client, "research_status", id=ids[0], wait_seconds=50)

    async def read(client: Client) -> None:
        seen: list[tuple[float, float | None, str | None]] = []

        async def progress(done: float, total: float | None, text: str | None) -> None:
            seen.append((done, total, text))
            let_go.set()

        told = await call(client, "research_status", id=ids[0], wait_seconds=50, progress=progress)
        assert told["status"] == "completed"
        assert "report" not in told
        assert "sources" not in told
        assert len(json.dumps(told)) < 1024
        assert seen[0][1:] == (50, "research running")
        told = await call(client, "research_status", id=ids[0], include_report=True)
        assert told["report"].startswith("The report. ")
        assert told["sources"] == [{"url": NOTE["url"], "title": "One"}]
        assert (await call(client, "deep_research", research_question="Why?", context=["a"]))["id"] == ids[0]

    agent(reach, relay.api.base_url, start_and_die)
    agent(reach, relay.api.base_url, read)
    assert ids[0] == ids[1]
    assert len(upstream.posts) == 1


def test_a_start_gives_the_link_for_a_person(reach: Reach, start_relay: StartRelay) -> None:
    relay = start_relay(api_key=KEY, public_url="https://relay.example.org")

    async def work(client: Client) -> None:
        told = await call(client, "deep_research", research_question="Why?")
        invocation_id, _, token = told["id"].partition(".")
        assert told["url"] == f"https://relay.example.org/runs/{invocation_id}#{token}"
        told = await call(client, "research_status", id=told["id"], wait_seconds=50)
        assert "url" not in told  # it would cost an agent tokens with every poll

    agent(reach, relay.api.base_url, work)


def _end(work: Any, when: threading.Event) -> Fault | None:
    if when.is_set():
        work.seconds = 0.0
    return None


def test_only_new_run_pays_again(relay: ThreadedRelay, upstream: Gateway) -> None:
    async def work(client: Client) -> None:
        first = await call(client, "deep_research", research_question="Why?")
        ids = {first["id"]}
        for arguments, sent in (
            ({"new_run": True}, None),
            ({}, {"idempotency_key": "k 1"}),
            ({"new_run": True}, {"idempotency_key": "k 1"}),
        ):
            ids.add((await call(client, "deep_research", sent, research_question="Why?", **arguments))["id"])
        assert len(ids) == 3
        meta: Any = {"idempotency_key": "k 1"}
        answer = await client.call_tool("deep_research", {"research_question": "Who?"}, meta=meta)
        assert "used with other arguments" in getattr(answer.content[0], "text", "")

    agent(over_http, relay.api.base_url, work)


@pytest.mark.parametrize("reach", [on_stdio, over_http], ids=lambda way: way.__name__, indirect=True)
def test_a_relay_killed_during_a_run(reach: Reach, sqlite_url: str, upstream: Gateway) -> None:
    upstream.seconds = 2.0
    upstream.final = report
    port = free_port()
    env = environment(sqlite_url, upstream, RELAY_API_KEY=KEY)
    relays = [RelayProcess(env, "--port", str(port)).ready()]

    def restart() -> None:
        relays[0].kill()
        relays.append(RelayProcess(env, "--port", str(port)).ready())

    async def wait(id: str, told: Json) -> None:
        while told.get("status") != "completed":
            try:
                async with reach(relays[0].api.base_url) as client:
                    told.update(await call(client, "research_status", id=id, wait_seconds=50))
            except (MCPError, BaseExceptionGroup):
                # Over HTTP the answer is lost with the relay, and the agent polls again.
                await anyio.sleep(0.2)

    async def work(client: Client) -> None:
        id = (await call(client, "deep_research", research_question="Why?"))["id"]
        while (await call(client, "research_status", id=id))["status"] != "running":
            await anyio.sleep(0.05)
        told: Json = {}
        with anyio.fail_after(100):
            async with anyio.create_task_group() as both:
                both.start_soon(wait, id, told)
                await anyio.sleep(0.5)
                await anyio.to_thread.run_sync(restart)

    async def read(client: Client) -> None:
        id = (await call(client, "deep_research", research_question="Why?"))["id"]
        told = await call(client, "research_status", id=id, include_report=True)
        assert told["report"].startswith("The report. ")
        assert [page["url"] for page in told["sources"]] == [NOTE["url"]]

    try:
        agent(reach, relays[0].api.base_url, work)
        agent(reach, relays[0].api.base_url, read)
    finally:
        for process in relays:
            process.ensure_ended()
    assert len(upstream.posts) == 1
    assert_clean("\n".join(process.log for process in relays), upstream)


@pytest.mark.parametrize("reach", [on_stdio, over_http], ids=lambda way: way.__name__, indirect=True)
def test_errors_tell_an_agent_how_to_proceed(reach: Reach, relay: ThreadedRelay, upstream: Gateway) -> None:
    upstream.seconds = 60.0

    async def work(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"deep_research", "research_status", "research_cancel"}
        for tool in tools.values():
            assert all(field.get("description") for field in tool.input_schema["properties"].values())
        for id in (
            "",
            "inv_1",
            "inv_1.",
            "inv_1.wrong",
            "x" * 100_000 + ".y",
            "inv_1/cancel.x",
            "a\nb.c",
            "x.\0",
            "x.ü",
        ):
            is_error, text = await tell(client, "research_status", id=id)
            assert is_error
            assert "pass the whole id" in text
        for given, told in (
            ({"research_question": " "}, "is not blank"),
            ({"research_question": "x" * 100_001}, "at most 100000 characters"),
            ({"research_question": "x", "context": ["y"] * 101}, "at most 100 items"),
            ({"research_question": "a\0b"}, "holds a NUL character"),
            ({"research_question": "x", "deliverable_format": "pdf"}, "'markdown_report'"),
        ):
            is_error, text = await tell(client, "deep_research", **given)
            assert is_error
            assert told in text
        for seconds in (51, -1, "NaN", 0.5):
            is_error, text = await tell(client, "research_status", id="inv_1.x", wait_seconds=seconds)
            assert is_error
            assert "wait_seconds" in text
        started = await call(client, "deep_research", research_question="Why?", constraints=["b"], language="Korean")
        while (await call(client, "research_status", id=started["id"]))["status"] != "running":
            await anyio.sleep(0.05)
        cancelled = await call(client, "research_cancel", id=started["id"])
        assert cancelled["status"] == "cancelled"
        assert "new_run=true" in cancelled["next"]

    agent(reach, relay.api.base_url, work)
    assert "# Language of the report\n\nKorean" in upstream.posts[0]["input"]


@pytest.mark.parametrize("reach", [on_stdio, over_http], ids=lambda way: way.__name__, indirect=True)
def test_unknown_arguments_are_refused(reach: Reach, relay: ThreadedRelay, upstream: Gateway) -> None:
    """The API refuses them too: otherwise a misspelt argument would be missing from a paid run."""

    async def work(client: Client) -> None:
        for tool, given, near in (
            ("deep_research", {"constraint": ["b"]}, "constraints"),
            ("deep_research", {"question": "Why?"}, "research_question"),
            ("deep_research", {"Language": "Korean"}, "language"),
            ("deep_research", {"newRun": True}, "new_run"),
            ("research_status", {"include_reports": True}, "include_report"),
            ("research_status", {"waitSeconds": 5}, "wait_seconds"),
            ("research_cancel", {"ID": "inv_1.x"}, "id"),
        ):
            rest = {"research_question": "Why?"} if tool == "deep_research" else {"id": "inv_1.x"}
            is_error, text = await tell(client, tool, **rest, **given)
            assert is_error
            assert f"did you mean {near}?" in text or near == "id"
            assert "Known: " in text
        is_error, text = await tell(client, "deep_research", research_question="Why?", **{"x\x1b[0m" * 9999: 1})
        assert is_error
        assert len(text) < 500

    agent(reach, relay.api.base_url, work)
    assert not upstream.posts


@pytest.mark.parametrize("reach", [on_stdio, over_http], ids=lambda way: way.__name__, indirect=True)
def test_null_means_absent(reach: Reach, relay: ThreadedRelay, upstream: Gateway) -> None:
    upstream.seconds = 60.0

    async def work(client: Client) -> None:
        names = dict.fromkeys([*ToolArguments.model_fields, "new_run", "unknown"])
        ids = {
            (await call(client, "deep_research", **(given | {"research_question": "Why?"})))["id"]
            for given in (names, {})
        }
        assert len(ids) == 1
        assert (await call(client, "research_status", id=ids.pop(), wait_seconds=None, include_report=None))["status"]
        is_error, text = await tell(client, "research_status", id=None)
        assert is_error
        assert "id" in text

    agent(reach, relay.api.base_url, work)


@pytest.mark.parametrize("params", [{"_meta": {"progressToken": None}}, {"_meta": None}, {"cursor": None, "_meta": {}}])
def test_null_in_a_field_of_the_protocol_means_absent(relay: ThreadedRelay, params: Json) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}
    answer = relay.api.call("POST", "/mcp", json=message, headers={"Authorization": f"Bearer {KEY}"})
    assert "tools" in answer.json()["result"]


AWAY = {"a proxy without it": reply(b"<html>Bad Gateway", 502), "silence": Answer(pause=600.0)}


@pytest.mark.parametrize("answer", [None, *AWAY])
def test_an_absent_relay_is_reported_soon(answer: str | None) -> None:
    """The error comes before the client's time limit of 30 s."""
    took: list[float] = []

    async def work(client: Client) -> None:
        began = time.monotonic()
        is_error, text = await tell(client, "deep_research", research_question="Why?")
        took.append(time.monotonic() - began)
        assert is_error
        assert "the relay" in text

    with RawServer() as server:
        if answer is not None:
            server.answers(AWAY[answer])
        agent(on_stdio, server.url if answer else f"http://127.0.0.1:{free_port()}", work)
        assert not server.posts
    assert took[0] < 25


MARK = "ZwischenrufXYZ"


@pytest.mark.parametrize("reach", [over_http, over_http_of_2025], ids=lambda way: way.__name__, indirect=True)
def test_the_log_repeats_nothing_that_an_agent_sent(
    reach: Reach, relay: ThreadedRelay, caplog: pytest.LogCaptureFixture
) -> None:
    """All libraries log at DEBUG, and still no line repeats the agent's words."""
    caplog.set_level(logging.DEBUG)

    async def work(client: Client) -> None:
        for tool, given in (
            (MARK, {}),
            ("research_status", {"id": MARK}),
            ("research_status", {"id": [MARK]}),
            ("research_status", {"id": "inv_1.x", "wait_seconds": MARK}),
            ("deep_research", {"research_question": "Why?", "context": MARK}),
            ("deep_research", {"research_question": "Why?", MARK: MARK}),
        ):
            assert (await tell(client, tool, **given))[0]

    agent(reach, relay.api.base_url, work)
    of_the_relay = [record for record in caplog.records if record.name.startswith(("mcp.server", "litellm"))]
    assert not [text for record in of_the_relay if MARK in (text := record.getMessage())]
    assert MARK not in "".join(str(record.exc_info) for record in of_the_relay)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json, text/event-stream", "text/event-stream"),
        ("text/event-stream", "text/event-stream"),
        ("text/*;q=0.8, application/json;q=0.5", "text/event-stream"),
        ("application/json", "application/json"),
        ("APPLICATION/JSON; charset=utf-8", "application/json"),
        ("application/json, text/event-stream;q=0", "application/json"),
        ("application/json, text/event-stream;q=0.5", "application/json"),
        ("application/*", "application/json"),
        ("*/*", "application/json"),
        ("", "application/json"),
        (None, "application/json"),
        ("text/html, ;;q=x,", "application/json"),
    ],
)
@pytest.mark.parametrize("version", [None, "2025-06-18"])
def test_a_client_gets_a_type_that_it_accepts(
    relay: ThreadedRelay, accept: str | None, kind: str, version: str | None
) -> None:
    headers = {"Authorization": f"Bearer {KEY}"} | ({"MCP-Protocol-Version": version} if version else {})
    headers |= {} if accept is None else {"Accept": accept}
    request = relay.api.http.build_request("POST", "/mcp", json=PING, headers=headers)
    if accept is None:
        del request.headers["Accept"]
    answer = relay.api.http.send(request)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
    text = answer.text if kind == "application/json" else answer.text.partition("data: ")[2].partition("\n")[0]
    assert len(json.loads(text)["result"]["tools"]) == 3


@pytest.mark.parametrize("kind", ["APPLICATION/JSON", "Application/Json; charset=UTF-8"])
def test_the_content_type_is_case_insensitive(relay: ThreadedRelay, kind: str) -> None:
    headers = ACCEPT | {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
    assert relay.api.call("POST", "/mcp", json=PING, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://relay.example", 200),
        ("https://relay.example:8443", 200),
        ("http://localhost:6274", 200),
        ("https://relay.example.evil.example", 403),
        ("https://evil.example", 403),
    ],
)
def test_a_page_of_the_relay_itself_is_admitted(start_relay: StartRelay, origin: str, status: int) -> None:
    relay = start_relay(host="0.0.0.0", api_key=KEY)  # so that its host name is not loopback
    headers = ACCEPT | {"Authorization": f"Bearer {KEY}", "Host": "relay.example", "Origin": origin}
    assert relay.api.call("POST", "/mcp", json=PING, headers=headers).status_code == status


PING = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.mark.parametrize(
    ("method", "headers", "status", "code"),
    [
        ("POST", {}, 401, "unauthorized"),
        ("POST", {"Authorization": "Bearer wrong"}, 401, "unauthorized"),
        ("POST", {"Authorization": f"Basic {KEY}"}, 401, "unauthorized"),
        ("POST", {"Host": "rebound.example"}, 400, "host_not_allowed"),
        ("POST", {"Origin": "https://a.example", "Authorization": f"Bearer {KEY}"}, 403, "forbidden"),
        ("POST", {"Origin": "null", "Authorization": f"Bearer {KEY}"}, 403, "forbidden"),
        ("POST", {"Origin": "http://[", "Authorization": f"Bearer {KEY}"}, 403, "forbidden"),
        ("POST", {"Content-Type": "text/plain", "Authorization": f"Bearer {KEY}"}, 415, "unsupported_media_type"),
        ("GET", {"Authorization": f"Bearer {KEY}"}, 405, "method_not_allowed"),
    ],
)
def test_only_the_key_admits(
    relay: ThreadedRelay, method: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = relay.api.call(method, "/mcp", json=PING, headers=ACCEPT | headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_messages_have_a_size_limit(relay: ThreadedRelay) -> None:
    headers = ACCEPT | {"Authorization": f"Bearer {KEY}"}
    assert relay.api.call("POST", "/mcp", json=PING | {"x": "x" * 2_000_000}, headers=headers).status_code == 413
    answer = relay.api.call("POST", "/mcp", json=PING, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("newest", [True, False], ids=["2026", "2025"])
def test_a_disconnected_agent_leaves_nothing_behind(newest: bool, relay: ThreadedRelay, upstream: Gateway) -> None:
    """No waiter, task or session remains in the relay."""
    upstream.seconds = 60.0
    authorization = {"Authorization": f"Bearer {KEY}"}
    started = relay.api.post(body("Why?", background=True), **authorization).json()
    meta: Json = {"progressToken": 1}
    headers = ACCEPT | authorization
    if newest:
        headers |= {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "research_status"}
        prefix = "io.modelcontextprotocol"
        meta |= {f"{prefix}/protocolVersion": "2026-07-28", f"{prefix}/clientCapabilities": {}}
    arguments = {"id": f"{started['invocation_id']}.{started['invocation_token']}", "wait_seconds": 50}
    params = {"name": "research_status", "arguments": arguments, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

    def leave(times: int) -> None:
        for _ in range(times):
            with relay.api.http.stream("POST", "/mcp", json=message, headers=headers) as answer:
                assert answer.status_code == 200
                assert "notifications/progress" in next(
                    line for line in answer.iter_lines() if line.startswith("data:")
                )

    def tasks() -> int:
        return len(asyncio.all_tasks(relay.loop))

    # The count begins after a first connection, which may start tasks that stay.
    leave(1)
    assert eventually(lambda: relay.relay.hub.watchers == 0)
    before = tasks()
    leave(20)
    assert eventually(lambda: relay.relay.hub.watchers == 0 and tasks() <= before)


def test_the_command_explains_itself() -> None:
    command = [sys.executable, "-m", "litellm_openai_example.mcp"]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
    for word in (
        "RELAY_BASE_URL",
        "RELAY_API_KEY",
        "claude mcp add",
        "deep_research",
        "research_status",
        "docs/mcp.md",
    ):
        assert word in told.stdout
    refused = subprocess.run(
        command, env={"RELAY_BASE_URL": "ftp://x"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("Error: RELAY_BASE_URL")
    assert not refused.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_a_closed_stream_is_one_line(closed: str) -> None:
    script = f'exec "{sys.executable}" -m litellm_openai_example.mcp {closed}'
    refused = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, text=True, timeout=60)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == "Error: stdin or stdout is closed: an agent needs both"


def test_ctrl_c_during_the_start_prints_no_traceback() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "litellm_openai_example.mcp"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:  # the SDK, which takes most of the start
            if line.rstrip().endswith("openai._types"):
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130
    assert "Traceback" not in said
    assert "[mcp] interrupted" in said


DOCS = Path(__file__).parents[2] / "docs"


def test_the_documented_client_settings_are_valid() -> None:
    text = (DOCS / "mcp.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    for kind, block in blocks:
        if kind == "toml":
            (server,) = tomllib.loads(block)["mcp_servers"].values()
        elif kind == "json":
            (server,) = json.loads(block)["mcpServers"].values()
        else:
            continue
        assert server.get("url", "").endswith("/mcp") or server["command"] == "litellm-relay-mcp"
    (server,) = json.loads((DOCS / "examples" / "mcp.json").read_text())["mcpServers"].values()
    scripts = tomllib.loads((DOCS / ".." / "pyproject.toml").read_text())["project"]["scripts"]
    assert server["command"] in scripts
    for variable in server["env"]:
        assert variable in text


def test_a_wait_through_an_outage_polls_at_intervals() -> None:
    """The intervals hold even if the relay, or a proxy before it, fails each poll at once."""
    asked: list[float] = []
    running = read_view({"invocation_id": "inv_1", "status": "running"})

    class Relay:
        async def get(self, *_: object) -> Invocation:
            return running

        async def wait(self, *_: object, timeout: float) -> None:
            asked.append(timeout)
            raise ResearchRunningError("away", invocation_id="inv_1", invocation_token="x")

    @asynccontextmanager
    async def connect(_: object) -> AsyncIterator[Any]:
        yield Relay()

    async def main() -> None:
        async with Client(create_server(connect, lambda _: Caller("ann"))) as client:
            assert (await call(client, "research_status", id="inv_1.x", wait_seconds=1))["status"] == "running"

    began = time.monotonic()
    anyio.run(main)
    assert 1 <= len(asked) <= 2
    assert time.monotonic() - began >= 1


def test_the_key_of_a_call_is_stable_across_releases() -> None:
    """Otherwise a call repeated after an upgrade would be paid for again."""
    invoked: list[tuple[Json, str]] = []

    class Relay:
        payer = Payer(("team-a",))

        async def invoke(self, arguments: Json, *, idempotency_key: str) -> None:
            invoked.append((arguments, idempotency_key))
            raise RelayError("seen")

    @asynccontextmanager
    async def connect(_: object) -> AsyncIterator[Any]:
        yield Relay()

    async def main() -> None:
        async with Client(create_server(connect, lambda _: Caller("ann"))) as client:
            given: Json = {"research_question": "Why?"}
            offered = (await client.list_tools()).tools[0].input_schema["properties"]
            assert {*offered} == {*ToolArguments.model_fields} - {"require_citations"} | {"window", "new_run"}
            assert offered["window"]["enum"] == ["2h", "8h"]
            # Omitted, empty and null arguments are the same call, so they must have the same key.
            nulls = dict.fromkeys({*offered} - {"new_run"})
            for arguments in (given, given | {"context": [], "constraints": []}, nulls | given | {"new_run": None}):
                await client.call_tool("deep_research", arguments)
            answer = await client.call_tool("deep_research", {"research_question": " "})
            assert "must be a text that is not blank" in getattr(answer.content[0], "text", "")

    anyio.run(main)
    sent = {
        "research_question": "Why?",
        "deliverable_format": "markdown_brief",
        "context": [],
        "constraints": [],
        "background": True,
    }
    # Computed here independently of the product: a change of the formula must fail this test.
    whose = json.dumps(["ann", {"x-litellm-tags": "team-a"}])
    key = hashlib.sha256(f"mcp arguments\n{whose}\n{json.dumps(sent, sort_keys=True)}".encode()).hexdigest()
    assert invoked == [(sent, key)] * 3


def test_an_agent_may_accept_a_window(relay: ThreadedRelay, upstream: Gateway) -> None:
    upstream.seconds = 3600.0

    async def work(client: Client) -> None:
        failed, text = await tell(client, "deep_research", research_question="Why?", window="3h")
        assert failed
        assert "2h" in text
        told = await call(client, "deep_research", research_question="Why?", window="8h")
        assert (told["window"], told["ask_again_in_seconds"]) == ("8h", 300)
        assert "T" in told["may_take_until"]
        again = await call(client, "deep_research", research_question="Why?", window="8h")
        usual = await call(client, "deep_research", research_question="Why?")
        assert again["id"] == told["id"] != usual["id"]
        assert {*usual} & {"window", "may_take_until", "cost_note"} == set()

    agent(over_http, relay.api.base_url, work)
    assert eventually(lambda: len(upstream.posts) == 2)
    windows = [(post.get("extra_body") or {}).get("background_options") for post in upstream.posts]
    assert sorted(windows, key=str) == [None, {"completion_window": "8h"}]
