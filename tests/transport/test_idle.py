"""One poll object per connection detects that the server has closed it."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from typing import Any

import pytest

from litellm_openai_example import AsyncLiteLLMClient
from litellm_openai_example.transport.connections import keep_poll

from ..fakes.raw import RawServer
from ..fakes.scripted import KEY, Answer, eventually, response_body


class Stream:
    """A network stream on one end of a pair of sockets."""

    def __init__(self, near: socket.socket | None) -> None:
        self.near = near

    def get_extra_info(self, info: str) -> Any:
        return self.near if info == "socket" else f"usual {info}"


def test_an_idle_connection_is_readable_after_data_or_close() -> None:
    near, far = socket.socketpair()
    with near, far:
        stream = Stream(near)
        keep_poll(stream)
        assert stream.get_extra_info("is_readable") is False
        assert stream.get_extra_info("socket") is near
        assert stream.get_extra_info("server_addr") == "usual server_addr"
        far.send(b"x")
        assert stream.get_extra_info("is_readable") is True
        near.recv(1)
        assert stream.get_extra_info("is_readable") is False
        far.close()
        assert stream.get_extra_info("is_readable") is True
        near.close()
        assert stream.get_extra_info("is_readable") is True


def test_without_socket_or_poll_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = socket.socket()
    closed.close()
    stream = Stream(closed)
    keep_poll(stream)
    assert stream.get_extra_info("is_readable") == "usual is_readable"
    without = Stream(None)
    keep_poll(without)
    assert without.get_extra_info("is_readable") == "usual is_readable"
    monkeypatch.delattr(select, "poll")
    with socket.socket() as near:
        stream = Stream(near)
        keep_poll(stream)
        assert stream.get_extra_info("is_readable") == "usual is_readable"


def test_a_connection_keeps_one_poll_object_and_is_dropped_once_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, poll = [], select.poll

    def counted() -> object:
        made.append(1)
        return poll()

    monkeypatch.setattr(select, "poll", counted)

    body = json.dumps(response_body()).encode()
    answers = [Answer(body=body), Answer(body=body), Answer(body=body, cut=len(body)), Answer(body=body)]

    async def ask() -> list[int]:
        with RawServer(lambda _: answers.pop(0)) as gateway:
            async with AsyncLiteLLMClient(gateway.url, KEY, timeout=60) as client:
                for _ in range(3):
                    assert await client.create_response("hi") == "OK"
                before = [len(made), gateway.connections]
                closed = await asyncio.to_thread(eventually, lambda: gateway.closed)  # after its third answer
                assert closed
                assert await client.create_response("hi") == "OK"
                return [*before, len(made), gateway.connections]

    assert asyncio.run(ask()) == [1, 1, 2, 2]
