"""The payer of a run: every owner forwards it with the create and every poll, and no other header."""

from __future__ import annotations

import pytest

from ..fakes.gateway import Gateway
from .conftest import StartRelay
from .running import ThreadedRelay, body

WANTED = {"x-litellm-tags": "team-a,team-b", "x-litellm-end-user-id": "kim", "x-litellm-session-id": "s-1"}


def test_the_payer_is_forwarded(start_relay: StartRelay, upstream: Gateway) -> None:
    upstream.seconds = 1.5
    relay = start_relay()
    others = {"x-litellm-tags": "team-a,team-b", "x-litellm-api-key": "sk-other", "x-litellm-timeout": "1"}
    answer = relay.api.post(body("Why?", background=True), **WANTED, **{k: others[k] for k in list(others)[1:]})
    started = answer.json()
    relay.api.submitted(started)
    relay.stop()
    before = len(upstream.get_headers)
    assert start_relay().api.wait(started)["status"] == "completed"
    assert len(upstream.get_headers) > before
    for headers in [*upstream.post_headers, *upstream.get_headers]:
        assert {name: headers.get(name) for name in WANTED} == WANTED
        assert not headers.keys() & {"x-litellm-api-key", "x-litellm-timeout"}


def test_a_run_without_a_payer_sends_no_headers(relay: ThreadedRelay, upstream: Gateway) -> None:
    relay.api.wait(relay.api.start())
    assert not any(headers.keys() & WANTED.keys() for headers in [*upstream.post_headers, *upstream.get_headers])


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in WANTED for value in ("x" * 201, "a b", "caf\xe9")]
    + [("x-litellm-tags", ",".join(map(str, range(21))))],
)
def test_an_invalid_payer_is_refused(name: str, value: str, relay: ThreadedRelay, upstream: Gateway) -> None:
    headers = {name: value.encode("latin-1")}
    answer = relay.api.call("POST", "/api/v1/tool-invocations", json=body("Why?"), headers=headers)
    assert answer.status_code == 422
    (detail,) = answer.json()["error"]["details"]
    assert detail["where"] == name
    assert value not in answer.text
    assert upstream.posts == []


def test_a_duplicate_header_is_refused(relay: ThreadedRelay) -> None:
    twice = [("x-litellm-tags", "a"), ("x-litellm-tags", "b")]
    answer = relay.api.call("POST", "/api/v1/tool-invocations", json=body("Why?"), headers=twice)
    assert answer.status_code == 422
