"""The assembled relay: requests that wait for the ledger while it closes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from litellm_openai_example.relay.ledger.failures import LedgerUnavailable
from litellm_openai_example.relay.service import Relay

from ..fakes.gateway import Gateway
from .running import FAST, settings


def test_requests_fail_cleanly_if_the_relay_closes_after_a_suspension(
    sqlite_url: str, upstream: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed process gets SIGTERM at once: its requests are past their time limit and have not noticed yet."""

    async def main() -> None:
        relay = Relay(settings(sqlite_url, upstream, timings=replace(FAST, ledger=0.05)))

        async def silent(*_: Any) -> None:
            await asyncio.sleep(3600)

        monkeypatch.setattr(relay.ledger, "get", silent)
        loop = asyncio.get_running_loop()
        closed = loop.create_future()

        def close() -> None:
            try:
                relay.close()
                closed.set_result(None)
            except BaseException as error:
                closed.set_exception(error)

        waiting = asyncio.create_task(relay.get("inv_1"))
        await asyncio.sleep(0)
        loop.call_later(0.1, close)
        time.sleep(0.2)  # both timers are due at once
        await closed
        with pytest.raises(LedgerUnavailable):
            await waiting

    asyncio.run(main())
