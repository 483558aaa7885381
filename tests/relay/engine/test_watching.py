"""A watcher that is busy when a change comes does not miss it: no second notification follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from litellm_openai_example.relay.engine.hub import Topic
from litellm_openai_example.relay.http import routes
from litellm_openai_example.relay.http.routes import events, wait
from litellm_openai_example.relay.ledger.records import Record

RUNNING = Record(
    id="inv_1",
    mode="background",
    deliverable_format="markdown_brief",
    arguments="{}",
    state="running",
    owner="me",
    cancel_requested=False,
    attempts=1,
    upstream_id="resp_1",
    output_text=None,
    response=None,
    error_code=None,
    created_at=1.0,
    started_at=1.0,
    updated_at=2.0,
    cost_usd=None,
    tags=None,
    token_hash=None,
    unsent=None,
    followed=None,
    stop_reason=None,
)
ENDED = Record(**{**vars(RUNNING), "state": "completed", "owner": None, "output_text": "the report", "updated_at": 3.0})


class Watched:
    """A relay with one invocation; it also stands for the request that watches it."""

    closing = False

    def __init__(self) -> None:
        self.topic = Topic(RUNNING, [])
        self.hub = self
        self.settings = SimpleNamespace(wait=60.0, timings=SimpleNamespace(keep_alive=60.0))
        self.app = SimpleNamespace(state=SimpleNamespace(relay=self))

    def end(self) -> None:
        self.topic.update(ENDED, [])

    async def get(self, invocation_id: str) -> Record:
        return RUNNING

    async def is_disconnected(self) -> bool:
        return True

    @asynccontextmanager
    async def watch(self, record: Record) -> AsyncIterator[Topic]:
        yield self.topic


class Ending(Watched):
    """An invocation that ends right after a watcher has read it as running."""

    @property
    def closing(self) -> bool:  # type: ignore[override]
        self.end()
        return False


def test_a_change_during_a_wait_is_seen() -> None:
    async def use() -> Any:
        async with asyncio.timeout(60):
            return await wait(Ending(), RUNNING)  # type: ignore[arg-type]

    assert asyncio.run(use()).status_code == 200


def test_a_wait_ends_for_a_disconnected_client_despite_constant_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_LIVENESS", 0.2)

    async def use() -> Any:
        relay = Watched()

        # Notifications faster than the check for a disconnect: each wakes the wait, and none may postpone the check.
        async def happen() -> None:
            while True:
                await asyncio.sleep(0.01)
                relay.topic.wake()

        happening = asyncio.create_task(happen())
        try:
            async with asyncio.timeout(60):
                return await wait(relay, RUNNING)  # type: ignore[arg-type]
        finally:
            happening.cancel()

    assert asyncio.run(use()).status_code == 202


def test_a_slow_reader_of_events_gets_the_end() -> None:
    async def use() -> str:
        relay, told = Watched(), ""
        async with asyncio.timeout(60):
            async for piece in (await events(relay, RUNNING)).body_iterator:  # type: ignore[arg-type, attr-defined]
                told += bytes(piece).decode()
                if '"running"' in told:
                    relay.end()
        return told

    # The run ended while the reader was busy with the first event; no further notification was sent.
    assert asyncio.run(use()).count("event: completed") == 1
