"""Each row of the API's table, and each limit."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest

from litellm_openai_example.http_library import httpx
from litellm_openai_example.research.contract import (
    API_ERRORS,
    INVOCATION_ERRORS,
    INVOCATIONS_PATH,
    ApiErrorCode,
    ErrorBody,
    Invocation,
    InvocationErrorCode,
)

from ...fakes.gateway import SECRET_WORDS, Fault, Gateway, message
from ...fakes.scripted import eventually
from ..conftest import StartRelay, assert_clean
from ..running import ThreadedRelay, body, finished, token


def error_code(answer: httpx.Response) -> str:
    return ErrorBody.model_validate(answer.json()).error.code


def test_every_error_code_is_documented() -> None:
    assert set(get_args(InvocationErrorCode)) == set(INVOCATION_ERRORS)
    assert set(get_args(ApiErrorCode)) == set(API_ERRORS)


class TestStart:
    def test_a_foreground_start_returns_the_ended_run(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.final = lambda request: message("짜장면 🍜", usage={"total_tokens": 7})
        answer = relay.api.post(body("짜장면?"))
        view = Invocation.model_validate(answer.json())
        assert answer.status_code == 200
        assert (view.status, view.mode, view.output_text) == ("completed", "foreground", "짜장면 🍜")
        assert view.deliverable_format == "markdown_brief"
        assert view.upstream_response_id == "resp_0"
        assert view.response is not None
        assert view.response["usage"] == {"total_tokens": 7}
        assert view.response["cost_usd"] == 0.25
        assert (view.error_code, view.error_message) == (None, None)
        assert view.updated_at >= view.created_at
        assert "짜장면?" in upstream.posts[0]["input"]
        assert upstream.posts[0]["background"] is True

    def test_the_keys_of_a_text_format_keep_their_order(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        properties = {"zebra": {"type": "string"}, "apple": {"default": None}, "mango": {}}
        given = {"schema": {"type": "object", "properties": properties}, "name": "n", "type": "json_schema", "a": None}
        assert relay.api.post(body(text_format=given)).status_code == 200
        assert json.dumps(upstream.posts[0]["text"]["format"]) == json.dumps(given)

    def test_a_foreground_start_returns_202_after_the_wait_limit(
        self, start_relay: StartRelay, upstream: Gateway
    ) -> None:
        upstream.seconds = 1.0
        relay = start_relay(wait=0.2)
        answer = relay.api.post(body())
        assert answer.status_code == 202
        assert answer.json()["status"] in ("queued", "running")
        assert answer.headers["location"].endswith(answer.json()["invocation_id"])
        relay.api.until(answer.json(), "completed")

    @pytest.mark.parametrize("mode", ["background", "stream"])
    def test_background_and_stream_starts_return_202_at_once(
        self, relay: ThreadedRelay, upstream: Gateway, mode: str
    ) -> None:
        upstream.accept = 0.3
        answer = relay.api.post(body(**{mode: True}))
        assert answer.status_code == 202
        assert answer.json()["mode"] == mode
        assert answer.json()["status"] == "queued"
        assert relay.api.wait(answer.json())["status"] == "completed"

    def test_a_failed_foreground_run_is_a_view(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.final = lambda request: {"status": "failed", "error": {"message": "x"}}
        answer = relay.api.post(body())
        assert answer.status_code == 200
        assert answer.json()["status"] == "failed"
        assert answer.json()["error_code"] == "upstream_failed"

    def test_only_the_start_returns_the_token(self, relay: ThreadedRelay) -> None:
        started = relay.api.start()
        assert started["invocation_token"] not in str(relay.api.wait(started)) + str(relay.api.cancel(started))
        assert started["invocation_token"] not in str(relay.api.events(started))

    def test_a_client_that_disconnects_changes_nothing(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 0.5
        soon = httpx.Timeout(60, read=0.2)
        with pytest.raises(httpx.ReadTimeout):
            relay.api.call("POST", INVOCATIONS_PATH, json=body(), timeout=soon, headers={"Idempotency-Key": "k"})
        answer = relay.api.post(body(), Idempotency_Key="k")
        assert answer.json()["status"] == "completed"
        assert sum(upstream.paid.values()) == 1

    def test_only_a_start_requires_the_relay_key(self, start_relay: StartRelay) -> None:
        relay = start_relay(api_key="relay-key")
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "relay-key"}):
            answer = relay.api.post(body(), **headers)
            assert (answer.status_code, error_code(answer)) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        answer = relay.api.call("POST", INVOCATIONS_PATH, json=body(), headers=[(b"Authorization", b"Bearer \xff")])
        assert answer.status_code == 401
        answer = relay.api.post(body(), Authorization="Bearer relay-key")
        assert answer.status_code == 200
        assert relay.api.view(answer.json())["status"] == "completed"


class TestIdempotency:
    def test_fifty_concurrent_starts_are_one_run(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: relay.api.post(body(), Idempotency_Key="same"), range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["invocation_id"] for answer in answers}) == 1
        assert len(upstream.posts) == 1
        for answer in answers:
            assert relay.api.view(answer.json())["status"] == "completed"

    def test_a_repeated_background_start_finds_the_invocation(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        first = relay.api.post(body(background=True), Idempotency_Key="k").json()
        relay.api.wait(first)
        second = relay.api.post(body(background=True), Idempotency_Key="k")
        assert second.status_code == 202
        assert second.json()["invocation_id"] == first["invocation_id"]
        assert second.json()["invocation_token"] == first["invocation_token"]
        assert second.json()["status"] == "completed"
        assert len(upstream.posts) == 1

    @pytest.mark.parametrize("change", [{"research_question": "Other?"}, {"context": ["x"]}, {"background": False}])
    def test_other_arguments_under_the_same_key_conflict(self, relay: ThreadedRelay, change: dict[str, object]) -> None:
        relay.api.post(body(background=True), Idempotency_Key="k")
        other = body(background=True)
        other["arguments"] |= change
        answer = relay.api.post(other, Idempotency_Key="k")
        assert (answer.status_code, error_code(answer)) == (409, "idempotency_conflict")

    def test_equivalent_arguments_do_not_conflict(self, relay: ThreadedRelay) -> None:
        first = relay.api.post(body(background=True), Idempotency_Key="k").json()
        spelt_out = body(background=True, stream=False, context=[], system_prompt=None, require_citations=True)
        assert relay.api.post(spelt_out, Idempotency_Key="k").json()["invocation_id"] == first["invocation_id"]

    def test_starts_without_a_key_are_separate_runs(self, relay: ThreadedRelay) -> None:
        assert relay.api.start()["invocation_id"] != relay.api.start()["invocation_id"]

    @pytest.mark.parametrize("key", [b"", b"a" * 256, b"with space", b"\xc3\xa9", b"\x01"])
    def test_invalid_keys(self, relay: ThreadedRelay, upstream: Gateway, key: bytes) -> None:
        headers = {b"Idempotency-Key": key}
        try:
            answer = relay.api.call("POST", INVOCATIONS_PATH, json=body(), headers=headers)
        except httpx.LocalProtocolError:
            return  # no HTTP client would send it
        assert answer.status_code in (400, 422)
        assert not upstream.posts

    def test_a_duplicate_key_header(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
        answer = relay.api.call("POST", INVOCATIONS_PATH, json=body(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
        assert not upstream.posts


class TestRead:
    def test_wait(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 0.5
        started = relay.api.start()
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}/wait"
        for timeout in ("0", "0.1"):
            answer = relay.api.call("GET", path, headers=token(started), params={"timeout": timeout})
            assert answer.status_code == 202
            assert answer.json()["status"] in ("queued", "running")
        answer = relay.api.call("GET", path, headers=token(started))
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")

    @pytest.mark.parametrize("timeout", ["-1", "nan", "inf", "-inf", "soon", ""])
    def test_invalid_timeouts(self, relay: ThreadedRelay, timeout: str) -> None:
        started = relay.api.start()
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}/wait?timeout={timeout}"
        answer = relay.api.call("GET", path, headers=token(started))
        assert (answer.status_code, error_code(answer)) == (422, "invalid_request")

    def test_a_wait_is_limited_by_the_operator(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 30
        relay = start_relay(wait=0.2)
        started = relay.api.start()
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}/wait"
        answer = relay.api.call("GET", path, headers=token(started), params={"timeout": 9999}, timeout=60)
        assert answer.status_code == 202

    @pytest.mark.parametrize("suffix", ["", "/wait", "/events", "/cancel"])
    def test_reading_requires_the_token(self, relay: ThreadedRelay, suffix: str) -> None:
        mine, other = relay.api.start(), relay.api.start()
        method = "POST" if suffix == "/cancel" else "GET"
        path = f"{INVOCATIONS_PATH}/{mine['invocation_id']}{suffix}"
        wrong: list[bytes] = [
            b"", b"x", other["invocation_token"].encode(), mine["invocation_token"].lower().encode(),
            "짜장면".encode(), b"\xff\xfe", mine["invocation_token"].encode() + b"x",
        ]  # fmt: skip
        answers = [relay.api.call(method, path)]
        answers += [relay.api.call(method, path, headers={b"X-Invocation-Token": value}) for value in wrong]
        unknown = path.replace(mine["invocation_id"], "inv_" + "0" * 32)
        answers += [relay.api.call(method, unknown, headers=token(mine))]
        assert {(answer.status_code, error_code(answer)) for answer in answers} == {(403, "forbidden")}
        assert len({answer.text for answer in answers}) == 1

    def test_a_deleted_run_is_404_with_its_token(self, start_relay: StartRelay) -> None:
        relay = start_relay(retention=0.0)
        started = relay.api.start()
        relay.api.wait(started)
        purge = relay.relay.ledger.purge  # its clock may lag by what the first renewal took
        assert eventually(lambda: asyncio.run_coroutine_threadsafe(purge(0.0), relay.loop).result(60))
        answer = relay.api.call("GET", f"{INVOCATIONS_PATH}/{started['invocation_id']}", headers=token(started))
        assert (answer.status_code, error_code(answer)) == (404, "not_found")


class TestCancel:
    def test_a_running_run(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 30
        started = relay.api.start()
        relay.api.submitted(started)
        view = relay.api.cancel(started)
        assert (view["status"], view["error_code"]) == ("cancelled", "cancelled_by_client")
        assert upstream.cancels == 1
        assert relay.api.cancel(started) == view
        assert upstream.cancels == 1

    def test_a_queued_run_is_never_sent(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 30
        relay = start_relay(max_running=1)
        relay.api.submitted(relay.api.start("first"))
        second = relay.api.start("second")
        assert relay.api.cancel(second)["status"] == "cancelled"
        assert len(upstream.posts) == 1

    def test_an_ended_run_does_not_change(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        started = relay.api.start()
        ended = relay.api.wait(started)
        assert relay.api.cancel(started) == ended
        assert upstream.cancels == 0

    def test_a_run_that_completed_unseen_is_completed(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.poll_after_ms = 30_000
        upstream.seconds = 3600.0
        relay = start_relay()
        started = relay.api.start()
        relay.api.submitted(started)
        assert eventually(lambda: upstream.gets)  # the next poll is half a minute away
        upstream.finish()
        view = relay.api.cancel(started)
        assert (view["status"], view["output_text"]) == ("completed", "The answer.")

    def test_while_it_is_submitted(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.accept, upstream.seconds = 1.0, 3600.0
        started = relay.api.start()
        assert eventually(lambda: upstream.posts)
        assert relay.api.cancel(started)["status"] == "cancelled"
        assert upstream.cancels == 1


class TestEvents:
    def test_a_streamed_run(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 0.4
        events = relay.api.events(relay.api.start(stream=True))
        pieces = events[2:-1]  # on a busy machine the relay joins some of them
        assert [event.name for event in events] == ["status", "status", *["output_text"] * len(pieces), "completed"]
        assert [event.data["status"] for event in events[:2]] == ["queued", "running"]
        assert "".join(event.data["delta"] for event in pieces) == "The answer."
        assert {event.data["offset"] for event in pieces} <= {0, 4, 10}
        assert all("The answer."[event.data["offset"] :].startswith(event.data["delta"]) for event in pieces)
        assert events[-1].data["output_text"] == "The answer."
        assert events[-1].data["response"]["cost_usd"] == 0.25
        # The form that clients of the public reference implementation parse.
        assert [event.data["type"] for event in events] == [event.name for event in events]
        assert "".join(event.data["data"].get("text", "") for event in events) == "The answer."
        assert {event.data["status"] for event in pieces} == {"running"}
        assert events[-1].data["data"] == {"output_text": "The answer."}
        ids = [event.id for event in events]
        assert ids == sorted(set(ids))

    @pytest.mark.parametrize("mode", ["stream", "background"])
    def test_resuming_after_each_event(self, relay: ThreadedRelay, mode: str) -> None:
        started = relay.api.start(**{mode: True})
        relay.api.wait(started)
        events = relay.api.events(started)
        assert "".join(event.data["delta"] for event in events if event.name == "output_text") == "The answer."
        for place, event in enumerate(events[:-1]):
            assert relay.api.events(started, event.id) == events[place + 1 :]
        answer = relay.api.call(
            "GET",
            f"{INVOCATIONS_PATH}/{started['invocation_id']}/events",
            headers=token(started) | {"Last-Event-ID": str(events[-1].id)},
        )
        assert answer.status_code == 204

    def test_live_and_stored_events_are_equal(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds, upstream.pieces = 0.5, [f"{n} " for n in range(10)]
        upstream.final = lambda request: message("".join(f"{n} " for n in range(10)))
        started = relay.api.start(stream=True)
        live = relay.api.events(started)
        stored = relay.api.events(started)
        assert [(e.id, e.name) for e in live] == [(e.id, e.name) for e in stored]
        assert live[2:] == stored[2:]

    @pytest.mark.parametrize("last", ["x", "-1", "99", "1.5", "٣", "9" * 400])
    def test_unknown_event_ids(self, relay: ThreadedRelay, last: str) -> None:
        started = relay.api.start()
        relay.api.wait(started)
        headers = token(started) | {"Last-Event-ID": last.encode()}
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}/events"
        answer = relay.api.call("GET", path, headers=headers)
        assert (answer.status_code, error_code(answer)) == (422, "invalid_request")

    def test_a_failed_run_ends_with_error(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.final = lambda request: {"status": "failed", "error": {"message": "x"}}
        events = relay.api.events(relay.api.start())
        assert events[-1].name == "error"
        assert events[-1].data["error_code"] == "upstream_failed"
        assert (events[-1].data["type"], events[-1].data["status"]) == ("error", "failed")
        assert events[-1].data["data"] == {"message": INVOCATION_ERRORS["upstream_failed"]}

    def test_comments_keep_the_stream_alive(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 1.2
        started = relay.api.start()
        path = f"{INVOCATIONS_PATH}/{started['invocation_id']}/events"
        with relay.api.http.stream("GET", path, headers=token(started)) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            text = "".join(answer.iter_text())
        assert text.startswith("retry: ")
        assert "\n: " in text

    def test_many_watchers_cause_no_more_polls_than_one(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 1.0
        started = relay.api.start()
        with ThreadPoolExecutor(30) as pool:
            views = list(pool.map(lambda _: relay.api.wait(started), range(30)))
        assert {view["status"] for view in views} == {"completed"}
        assert upstream.gets <= 1.0 / 0.05 + 2


class TestLimits:
    def test_a_full_queue(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 30
        relay = start_relay(max_running=1, max_queued=2)
        relay.api.submitted(relay.api.start("running"))
        relay.api.start("1")
        relay.api.post(body("2", background=True), Idempotency_Key="two")
        answer = relay.api.post(body("3", background=True))
        assert (answer.status_code, error_code(answer)) == (503, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        # A start that was accepted before is found even in a full queue.
        assert relay.api.post(body("2", background=True), Idempotency_Key="two").status_code == 202

    def test_concurrent_runs_are_limited(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 0.4
        relay = start_relay(max_running=2)
        started = [relay.api.start(str(n)) for n in range(6)]
        most, views = 0, [relay.api.view(one) for one in started]
        while not all(finished(view) for view in views):
            most = max(most, sum(view["status"] == "running" for view in views))
            views = [relay.api.view(one) for one in started]
        assert most == 2
        assert {view["status"] for view in views} == {"completed"}

    def test_a_text_over_the_limit_is_cut(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.final = lambda request: message("x" * 5000)
        relay = start_relay(max_output=1000)
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["error_code"]) == ("incomplete", "output_too_large")
        assert view["output_text"] == "x" * 1000

    def test_a_run_over_the_time_limit(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.seconds = 30
        relay = start_relay(research_timeout=0.6)
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["error_code"]) == ("failed", "research_timeout")
        assert upstream.cancels == 1


class TestAround:
    def test_health(self, relay: ThreadedRelay) -> None:
        for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
            answer = relay.api.call("GET", path)
            assert (answer.status_code, answer.json()) == (200, {"status": status})

    def test_docs(self, relay: ThreadedRelay) -> None:
        assert relay.api.call("GET", "/docs").status_code == 200
        schema = relay.api.call("GET", "/openapi.json").json()
        assert schema["openapi"].startswith("3.")
        post = schema["paths"][INVOCATIONS_PATH]["post"]
        assert post["requestBody"]["content"]["application/json"]["examples"]
        assert {"200", "202", "401", "409", "413", "422", "503"} <= set(post["responses"])
        shown = {example for response in post["responses"].values() for example in _examples(response)}
        assert {"idempotency_conflict", "queue_full"} <= shown

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/api/v1/nothing", 404),
            ("GET", INVOCATIONS_PATH, 405),
            ("DELETE", INVOCATIONS_PATH, 405),
            ("GET", INVOCATIONS_PATH + "/", 404),
            ("PUT", "/healthz", 405),
        ],
    )
    def test_unknown_routes_and_methods(self, relay: ThreadedRelay, method: str, path: str, status: int) -> None:
        answer = relay.api.call(method, path)
        assert answer.status_code == status
        assert error_code(answer) == {404: "not_found", 405: "method_not_allowed"}[status]
        assert ("allow" in answer.headers) == (status == 405)

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::1"]
    )
    def test_other_host_names_are_refused(self, relay: ThreadedRelay, upstream: Gateway, host: str) -> None:
        answer = relay.api.call("POST", INVOCATIONS_PATH, json=body(), headers={"Host": host})
        assert answer.status_code == 400
        assert not upstream.posts

    @pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1", "127.1.2.3:80", "[::1]:8080"])
    def test_loopback_host_names_are_accepted(self, relay: ThreadedRelay, host: str) -> None:
        assert relay.api.call("GET", "/healthz", headers={"Host": host}).status_code == 200

    def test_every_answer_is_uncacheable(self, relay: ThreadedRelay) -> None:
        for answer in (relay.api.post(body()), relay.api.call("GET", "/nothing"), relay.api.call("GET", "/healthz")):
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "server" not in answer.headers

    def test_the_request_to_the_gateway(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        started = relay.api.start()
        relay.api.wait(started)
        headers = upstream.post_headers[0]
        assert headers["x-litellm-num-retries"] == "0"
        assert headers["x-litellm-call-id"] == started["invocation_id"]
        assert upstream.posts[0]["tools"] == [{"type": "web_search"}]

    def test_no_answer_reveals_the_gateway(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.on_post = lambda request, n: Fault("status", 400, {"error": {"message": SECRET_WORDS}})
        assert_clean(relay.api.post(body()).text, upstream)
        upstream.on_post = lambda request, n: None
        upstream.final = lambda request: {"status": "failed", "error": {"message": SECRET_WORDS, "code": SECRET_WORDS}}
        answer = relay.api.post(body())
        assert_clean(answer.text + str(relay.api.events(answer.json())), upstream)


def _examples(response: dict[str, object]) -> list[str]:
    content = response.get("content", {})
    assert isinstance(content, dict)
    return list(content.get("application/json", {}).get("examples", {}))
