"""Batched calls: concurrent items share a call, and no caller hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from litellm_openai_example.relay.tasks import Batch


def test_items_that_arrive_during_a_call_share_the_next_one() -> None:
    async def main() -> None:
        groups: list[list[int]] = []
        go = asyncio.Event()

        async def answer(items: Sequence[int]) -> list[int | Exception]:
            groups.append(list(items))
            await go.wait()
            return [ValueError(item) if item == 7 else item * 2 for item in items]

        batch = Batch(answer, largest=3)
        first = asyncio.create_task(batch(1))
        while not groups:
            await asyncio.sleep(0)
        others = [asyncio.create_task(batch(item)) for item in (2, 3, 7, 5)]
        gone = asyncio.create_task(batch(6))  # answered nevertheless: it may be a change that must not be lost
        await asyncio.sleep(0)
        gone.cancel()
        go.set()
        assert await first == 2
        two, three, seven, five = await asyncio.gather(*others, return_exceptions=True)
        assert (two, three, five) == (4, 6, 10)
        assert isinstance(seven, ValueError)
        assert groups == [[1], [2, 3, 7], [5, 6]]
        assert await batch(8) == 16

    asyncio.run(main())


def test_concurrent_items_join_the_first_call() -> None:
    async def main() -> None:
        groups: list[list[int]] = []

        async def answer(items: Sequence[int]) -> list[int]:
            groups.append(list(items))
            return list(items)

        batch = Batch(answer, largest=10)

        async def later(turns: int) -> int:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await batch(turns)

        assert await asyncio.gather(*map(later, range(3))) == [0, 1, 2]
        assert groups == [[0, 1, 2]]

    asyncio.run(main())


def test_a_failed_call_fails_only_its_own_items() -> None:
    async def main() -> None:
        calls = 0

        async def answer(items: Sequence[int]) -> list[int]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError("away")
            return list(items)

        batch = Batch(answer, largest=10)
        with pytest.raises(OSError, match="away"):
            await batch(1)
        assert await batch(2) == 2

    asyncio.run(main())


def test_no_caller_hangs_if_the_batch_is_cancelled_before_a_call() -> None:
    async def main() -> None:
        async def answer(items: Sequence[int]) -> list[int]:
            return list(items)

        batch = Batch(answer, largest=1)
        ours = asyncio.current_task()
        waiting = [asyncio.create_task(batch(item)) for item in (1, 2)]
        await asyncio.sleep(0)
        (gathering,) = asyncio.all_tasks() - {ours, *waiting}
        await asyncio.sleep(0)
        gathering.cancel()
        await asyncio.wait(waiting, timeout=60)
        assert [task.cancelled() for task in waiting] == [True, True]
        assert await batch(3) == 3

    asyncio.run(main())


def test_no_caller_hangs_if_a_call_is_cancelled() -> None:
    async def main() -> None:
        async def answer(items: Sequence[int]) -> list[int]:
            raise asyncio.CancelledError

        batch = Batch(answer, largest=1)
        waiting = [asyncio.create_task(batch(item)) for item in (1, 2)]
        await asyncio.wait(waiting, timeout=60)
        assert [task.cancelled() for task in waiting] == [True, True]

    asyncio.run(main())
