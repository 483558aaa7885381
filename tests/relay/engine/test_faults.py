"""Failures of the gateway at every step of an invocation: the run's status and error code, and the paid requests."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from litellm_openai_example.config import GatewaySettings

from ...fakes.gateway import KEY, SECRET_WORDS, Fault, Gateway, Json, message
from ...fakes.scripted import eventually, free_port
from ..conftest import StartRelay, assert_clean
from ..running import FAST, ThreadedRelay

HTML = {"content-type": "text/html"}
PAGE = f"<!DOCTYPE html><html><title>Sign in</title>{SECRET_WORDS}</html>"

# JSON of other programs that resembles a response: it must neither end a run nor confirm a submission.
OTHER_PROGRAMS: list[Json] = [
    {"id": "req-1", "status": "failed"},
    {"id": "req-1", "status": "completed"},
    {"id": 1, "status": "cancelled"},
    {"id": "job-1", "object": "job", "status": "cancelled", "output": []},
    {"id": "req-1", "status": "incomplete", "output": "x"},
]


def litellm_error(status: int, text: str, code: str = "") -> Fault:
    return Fault("status", status, {"error": {"message": text, "type": None, "code": code or str(status)}})


class TestSubmission:
    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (Fault("status", 400), "gateway_rejected_request"),
            (litellm_error(400, "Invalid model name passed in model=x"), "model_unavailable"),
            (litellm_error(400, "Budget has been exceeded! Current cost: 1"), "gateway_budget_exceeded"),
            (litellm_error(429, "Budget has been exceeded! Current cost: 1"), "gateway_budget_exceeded"),
            (
                Fault("status", 400, {"error": {"message": "No connected db.", "type": "no_db_connection"}}),
                "gateway_key_rejected",
            ),
            (Fault("status", 401), "gateway_key_rejected"),
            (Fault("status", 402), "gateway_budget_exceeded"),
            (Fault("status", 403), "gateway_key_rejected"),
            (Fault("status", 404), "gateway_rejected_request"),
            (Fault("status", 422), "gateway_rejected_request"),
            (Fault("status", 307, headers={"location": "http://elsewhere.example/"}), "gateway_rejected_request"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_refusal_fails_the_run_unpaid(
        self, relay: ThreadedRelay, upstream: Gateway, fault: Fault, code: str, stream: bool
    ) -> None:
        upstream.on_post = lambda request, n: fault
        view = relay.api.wait(relay.api.start(stream=stream))
        assert (view["status"], view["error_code"]) == ("failed", code)
        assert "Nothing was paid" in view["error_message"]
        assert len(upstream.posts) == 1
        assert_clean(str(view), upstream)

    @pytest.mark.parametrize(
        "fault",
        [
            Fault("status", 500),
            Fault("status", 502),
            Fault("status", 503),
            Fault("status", 504),
            Fault("status", 408),
            Fault("status", 599),
            Fault("drop", paid=True),
            Fault("cut", paid=True),
            Fault("empty", paid=True),
            Fault("foreign", 502, PAGE, HTML, paid=True),
            Fault("foreign", 200, "upstream connect error", {"content-type": "text/plain"}, paid=True),
            Fault("status", 200, {"message": "Unauthorized"}, paid=True),
            Fault("status", 200, {"status": "failed"}, paid=True),
            Fault("status", 200, {"status": "queued"}, paid=True),
            Fault("status", 200, {"id": None, "status": "queued"}, paid=True),
            Fault("status", 200, {"id": 7, "status": None}, paid=True),
            Fault("status", 200, {"id": "resp_\n", "status": "queued"}, paid=True),
            Fault("status", 200, ["queued"], paid=True),
            *(Fault("status", 200, body, paid=True) for body in OTHER_PROGRAMS),
            Fault("status", 200, {"error": {"message": SECRET_WORDS}}, paid=True),
        ],
        ids=lambda fault: f"{fault.kind}-{fault.status}-{str(fault.body)[:60]}",
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_possibly_executed_submission_is_never_repeated(
        self, relay: ThreadedRelay, upstream: Gateway, fault: Fault, stream: bool
    ) -> None:
        upstream.on_post = lambda request, n: fault
        view = relay.api.wait(relay.api.start(stream=stream))
        assert (view["status"], view["error_code"]) == ("failed", "submission_indeterminate")
        assert len(upstream.posts) == 1
        assert_clean(str(view), upstream)

    @pytest.mark.parametrize(
        "fault",
        [
            Fault("foreign", 200, PAGE, HTML),
            Fault("foreign", 200, PAGE, {"content-type": "text/html; charset=utf-8"}),
            Fault("foreign", 200, "\n <!-- signed out --><html>", {"content-type": "application/xhtml+xml"}),
            Fault("foreign", 200, "Please sign in", HTML),
            Fault("foreign", 200, "\ufeff" + PAGE, {"content-type": "application/json"}),
            Fault("foreign", 200, "<?xml version='1.0'?><Error/>", {"content-type": "application/json"}),
            Fault("foreign", 401, PAGE, HTML),
            Fault("foreign", 403, PAGE, HTML),
            Fault("foreign", 404, PAGE, HTML),
        ],
        ids=lambda fault: f"{fault.status}-{fault.headers['content-type']}-{fault.body[:8]!r}",
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_web_page_is_a_refusal_that_names_it(
        self, relay: ThreadedRelay, upstream: Gateway, fault: Fault, stream: bool
    ) -> None:
        upstream.on_post = lambda request, n: fault
        view = relay.api.wait(relay.api.start(stream=stream))
        assert (view["status"], view["error_code"]) == ("failed", "gateway_rejected_request")
        assert "web page" in view["error_message"]
        assert "Nothing was paid" in view["error_message"]
        assert len(upstream.posts) == 1
        assert_clean(str(view), upstream)

    def test_an_unanswered_submission_is_indeterminate(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.on_post = lambda request, n: Fault("hang", paid=True)
        relay = start_relay(research_timeout=2.0)
        started = relay.api.start()
        relay.api.until(started, "running")
        assert relay.api.wait(started)["error_code"] == "submission_indeterminate"
        assert len(upstream.posts) == 1

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_429_is_retried(self, relay: ThreadedRelay, upstream: Gateway, stream: bool) -> None:
        fault = Fault("status", 429, headers={"retry-after": "0"})
        upstream.on_post = lambda request, n: fault if n <= 3 else None
        view = relay.api.wait(relay.api.start(stream=stream))
        assert view["status"] == "completed"
        assert len(upstream.posts) == 4
        assert sum(upstream.paid.values()) == 1

    def test_a_429_until_the_time_limit_fails_the_run(self, start_relay: StartRelay, upstream: Gateway) -> None:
        upstream.on_post = lambda request, n: Fault("status", 429)
        view = start_relay(research_timeout=1.5).api
        assert view.wait(view.start())["error_code"] == "gateway_unavailable"

    def test_runs_wait_for_a_gateway_that_starts_later(self, start_relay: StartRelay, upstream: Gateway) -> None:
        port = free_port()
        # Only the port exists so far: a refused connection has sent nothing, so all runs stay queued.
        late = Gateway()
        late.port = port
        relay = start_relay(gateway=_at(port))
        started = [relay.api.start(str(n)) for n in range(5)]
        assert {relay.api.view(one)["status"] for one in started} == {"queued"}
        late.start(port)
        try:
            assert {relay.api.wait(one)["status"] for one in started} == {"completed"}
            assert set(late.paid.values()) == {1}
        finally:
            late.stop()

    def test_runs_fail_if_the_gateway_never_starts(self, start_relay: StartRelay) -> None:
        relay = start_relay(gateway=_at(9), research_timeout=1.0)
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["error_code"]) == ("failed", "gateway_unavailable")

    def test_a_hanging_submission_does_not_delay_others(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.on_post = lambda request, n: Fault("hang") if "slow" in request["input"] else None
        # These stay open for the whole test.
        for n in range(8):
            relay.api.start(f"slow {n}")
        assert relay.api.wait(relay.api.start("quick"))["status"] == "completed"


class TestPolling:
    @pytest.mark.parametrize(
        "fault",
        [
            Fault("status", 500),
            Fault("status", 502),
            Fault("status", 429),
            Fault("status", 404),
            Fault("status", 403),
            Fault("status", 401),
            Fault("status", 400),
            Fault("cut"),
            Fault("drop"),
            Fault("hang"),
            Fault("garbage"),
            Fault("empty"),
            Fault("status", 200, {"status": None}),
            Fault("status", 200, {"status": 7, "output": "?"}),
            Fault("status", 200, {"status": "thinking"}),
            Fault("status", 200, []),
            Fault("status", 200, {"error": {"message": SECRET_WORDS}}),
        ],
        ids=lambda fault: f"{fault.kind}-{fault.status}-{str(fault.body)[:20]}",
    )
    def test_failed_polls_do_not_fail_the_run(self, relay: ThreadedRelay, upstream: Gateway, fault: Fault) -> None:
        upstream.on_get = lambda work, n: fault if n <= 3 else None
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["output_text"]) == ("completed", "The answer.")
        assert view["upstream_response_id"] == "resp_0"
        assert len(upstream.posts) == 1

    @pytest.mark.parametrize(
        "fault",
        [
            Fault("foreign", 404, "404 page not found", {"content-type": "text/plain"}),
            Fault("foreign", 404, PAGE, HTML),
            Fault("foreign", 404, "", {}),
            Fault("foreign", 404, '{"detail": "Not Found"}', {"content-type": "application/json"}),
            Fault("foreign", 404, '{"message": "no Route matched"}', {"content-type": "application/json"}),
            Fault("foreign", 404, '{"error": "Response with id x not found"}', {"content-type": "application/json"}),
            Fault("foreign", 404, '{"error": {"code": 404, "status": "NOT_FOUND"}}', {}),
            Fault("foreign", 410, PAGE, HTML),
            Fault("foreign", 403, "permission_error: response id", HTML),
            Fault("foreign", 400, "previous_response_not_found", HTML),
            Fault("foreign", 500, "<html>GET is not supported for this URL", HTML),
            Fault("foreign", 200, PAGE, HTML),
            Fault("foreign", 200, '{"status": "failed"}', {"content-type": "application/json"}),
            *(Fault("status", 200, body) for body in OTHER_PROGRAMS),
            Fault("foreign", 302, "", {"location": "https://login.example/"}),
        ],
        ids=lambda fault: f"{fault.status}-{str(fault.body)[:48]!r}",
    )
    def test_only_the_gateway_can_report_a_response_lost(
        self, start_relay: StartRelay, upstream: Gateway, fault: Fault
    ) -> None:
        """A redeployed ingress, or a proxy that wants a sign-in, is an outage, however long it lasts."""
        relay = start_relay(timings=replace(FAST, missing=0.5))
        until = time.monotonic() + 1.5
        upstream.on_get = lambda work, n: fault if time.monotonic() < until else None
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["output_text"]) == ("completed", "The answer.")

    def test_a_response_is_lost_only_after_consecutive_404s(self, start_relay: StartRelay, upstream: Gateway) -> None:
        relay = start_relay(timings=replace(FAST, missing=0.5))
        until = time.monotonic() + 2.0
        # LiteLLM's 404 alternates with a proxy's 502: in between, the 404 may be an outage too.
        gone, away = Fault("status", 404), Fault("foreign", 502, PAGE, HTML)
        upstream.on_get = lambda work, n: (gone if n % 2 else away) if time.monotonic() < until else None
        assert relay.api.wait(relay.api.start())["status"] == "completed"

    def test_a_lost_response_fails_the_run(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.on_get = lambda work, n: Fault("status", 404)
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["error_code"]) == ("failed", "result_unavailable")

    def test_a_model_without_polls_fails_the_run(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.on_get = lambda work, n: litellm_error(500, "GET responses is not supported for custom")
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["error_code"]) == ("failed", "result_unavailable")
        assert upstream.gets == 1

    def test_the_gateways_interval_of_polls_is_kept(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.poll_after_ms, upstream.seconds = 500, 1.0
        relay.api.wait(relay.api.start())
        assert upstream.gets <= 5


REFUSAL = {"type": "message", "content": [{"type": "refusal", "refusal": "I will not."}]}


class TestEnding:
    @pytest.mark.parametrize(
        ("final", "status", "code"),
        [
            (
                {"status": "failed", "error": {"code": "server_error", "message": SECRET_WORDS}},
                "failed",
                "upstream_failed",
            ),
            ({"status": "failed"}, "failed", "upstream_failed"),
            ({"status": "cancelled"}, "cancelled", "upstream_cancelled"),
            ({"status": "completed", "output": []}, "failed", "empty_output"),
            ({"status": "completed", "output": None}, "failed", "empty_output"),
            (message(" \n"), "failed", "empty_output"),
            ({"status": "completed", "output": [REFUSAL]}, "failed", "model_refused"),
            (message("text", error={"message": SECRET_WORDS}), "failed", "upstream_failed"),
            (
                message("Half") | {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
                "incomplete",
                "output_limit_reached",
            ),
            (
                message("Half") | {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
                "incomplete",
                "content_filtered",
            ),
            (message("Half") | {"status": "incomplete"}, "incomplete", "upstream_incomplete"),
        ],
    )
    @pytest.mark.parametrize("how", ["background", "bridged", "stream"])
    def test_each_end_has_its_status_and_code(
        self, relay: ThreadedRelay, upstream: Gateway, final: Json, status: str, code: str, how: str
    ) -> None:
        upstream.bridged = how == "bridged"
        upstream.final = lambda request: final
        upstream.pieces = []
        started = relay.api.start(stream=how == "stream")
        view = relay.api.wait(started)
        assert (view["status"], view["error_code"]) == (status, code)
        if status == "incomplete":
            assert view["output_text"] == "Half"
        last = relay.api.events(started)[-1]
        assert (last.name, last.data["error_code"]) == ("error", code)
        assert_clean(str(view), upstream)

    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            ("a\x00b", "a�b"),
            ("half \ud83d", "half �"),
            ("🍜 짜장면 \x1b[31m", "🍜 짜장면 \x1b[31m"),
            ("x" * 300_000,) * 2,
        ],
    )
    def test_any_text_can_be_stored(
        self, start_relay: StartRelay, upstream: Gateway, database_url: str, text: str, kept: str
    ) -> None:
        upstream.final = lambda request: message(text)
        upstream.pieces = [text[:7], text[7:]]
        relay = start_relay(database_url=database_url)
        for stream in (False, True):
            view = relay.api.wait(relay.api.start(stream=stream))
            assert view["output_text"] == kept
            assert view["response"]["output"][0]["content"][0]["text"] == kept

    @pytest.mark.parametrize("cost", ["", "NaN", "-1", "much"])
    def test_an_invalid_cost_is_dropped(self, relay: ThreadedRelay, upstream: Gateway, cost: str) -> None:
        upstream.cost = cost
        assert "cost_usd" not in relay.api.wait(relay.api.start())["response"]

    def test_the_view_does_not_show_the_request(self, start_relay: StartRelay, upstream: Gateway) -> None:
        tools = [{"type": "mcp", "server_url": "https://mcp.example", "headers": {"Authorization": "secret-of-a-tool"}}]
        upstream.final = lambda request: message("text", tools=request["tools"], instructions="secret-of-a-tool")
        relay = start_relay(request={"tools": tools})
        started = relay.api.start()
        assert "secret-of-a-tool" not in str(relay.api.wait(started)) + str(relay.api.events(started))
        assert upstream.posts[0]["tools"] == tools


class TestView:
    @pytest.mark.parametrize("how", ["background", "bridged", "stream"])
    def test_the_view_has_sources_cost_and_id(self, relay: ThreadedRelay, upstream: Gateway, how: str) -> None:
        upstream.bridged = how == "bridged"
        note = {"type": "url_citation", "url": "https://a.example/", "title": "A"}
        search = {"type": "web_search_call", "action": {"sources": [{"type": "url", "url": "https://b.example/"}]}}
        part = {"type": "output_text", "text": "The answer [1].", "annotations": [note, note]}
        output = [search, {"type": "message", "content": [part]}]
        upstream.final = lambda request: {"status": "completed", "output": output}
        view = relay.api.wait(relay.api.start(stream=how == "stream"))
        assert view["sources"] == [
            {"url": "https://a.example/", "title": "A"},
            {"url": "https://b.example/", "title": ""},
        ]
        assert view["cost_usd"] == 0.25
        assert view["response"]["id"] == view["upstream_response_id"] == "resp_0"
        assert "sources" not in view["response"]
        assert how == "background" or upstream.gets == 0  # LiteLLM bills every poll of an ended response

    def test_a_too_large_response_is_shortened_but_keeps_its_sources(
        self, start_relay: StartRelay, upstream: Gateway
    ) -> None:
        notes = [{"type": "url_citation", "url": f"https://a.example/{n}", "title": "A"} for n in range(20)]
        log = {"type": "code_interpreter_call", "outputs": [{"type": "logs", "logs": "x" * 100_000}]}
        part = {"type": "output_text", "text": "The answer.", "annotations": notes}
        output = [log, {"type": "message", "content": [part]}]
        upstream.final = lambda request: {"status": "completed", "output": output}
        relay = start_relay(max_output=1000)
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["output_text"]) == ("completed", "The answer.")
        assert view["response"]["shortened"] is True
        assert view["response"]["output"][1]["content"] == [part]
        assert view["response"]["output"][0]["outputs"][0]["logs"].startswith("xxx")
        assert len(view["sources"]) == 20

    def test_an_unavailable_model_is_named(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.on_post = lambda request, n: litellm_error(400, "Invalid model name passed in model=x")
        message = relay.api.wait(relay.api.start())["error_message"]
        assert "gpt-6.1-sol" in message
        assert "RELAY_MODEL" in message


class TestBridged:
    def test_a_blocking_run_completes_without_polls(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.bridged, upstream.seconds = True, 0.8
        started = relay.api.start()
        relay.api.submitted(started)
        view = relay.api.wait(started)
        assert (view["status"], view["output_text"], view["response"]["cost_usd"]) == ("completed", "The answer.", 0.25)
        assert upstream.gets == 0

    def test_blocking_runs_leave_the_gate_once_the_model_is_known(
        self, start_relay: StartRelay, upstream: Gateway
    ) -> None:
        upstream.bridged, upstream.seconds = True, 0.05
        relay = start_relay(timings=replace(FAST, gate=600.0))
        relay.api.wait(relay.api.start("first"))
        upstream.seconds = 3600.0
        started = [relay.api.start(str(n)) for n in range(20)]
        assert eventually(lambda: len(upstream.posts) == 21)
        upstream.finish()
        assert {relay.api.wait(one)["status"] for one in started} == {"completed"}


class TestStream:
    @pytest.mark.parametrize("kind", ["drop", "status"])
    @pytest.mark.parametrize("after", [0, 1, 2])
    def test_a_broken_stream_is_settled_by_a_poll(
        self, relay: ThreadedRelay, upstream: Gateway, kind: str, after: int
    ) -> None:
        upstream.during_stream = lambda sent: Fault(kind) if sent == after else None
        upstream.seconds = 0.5
        started = relay.api.start(stream=True)
        events = relay.api.events(started)
        assert (events[-1].name, events[-1].data["output_text"]) == ("completed", "The answer.")
        assert "".join(event.data["delta"] for event in events if event.name == "output_text") == "The answer."
        assert len(upstream.posts) == 1

    def test_a_broken_stream_of_a_failed_response_fails_the_run(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.during_stream = lambda sent: Fault("status") if sent == 2 else None
        upstream.final = lambda request: {"status": "failed", "error": {"message": SECRET_WORDS}}
        started = relay.api.start(stream=True)
        view = relay.api.wait(started)
        assert (view["status"], view["error_code"]) == ("failed", "upstream_failed")
        assert view["output_text"] == "The answer"

    @pytest.mark.parametrize(
        "page",
        [
            Fault("foreign", 200, '{"status": "failed"}', {"content-type": "application/json"}),
            Fault("foreign", 200, '{"maintenance": true}', {"content-type": "application/json"}),
            Fault("foreign", 404, PAGE, HTML),
        ],
        ids=lambda fault: f"{fault.status}-{fault.body[:20]}",
    )
    def test_a_doubted_stream_is_followed_through_an_outage(
        self, relay: ThreadedRelay, upstream: Gateway, page: Fault
    ) -> None:
        """Its first event is a failure, and the look at the response meets another program."""
        upstream.during_stream = lambda sent: Fault("status", body="resp_0") if sent == -1 else None
        upstream.on_get = lambda work, n: page if n == 1 else None
        view = relay.api.wait(relay.api.start(stream=True))
        assert (view["status"], view["output_text"]) == ("completed", "The answer.")
        assert len(upstream.posts) == 1

    @pytest.mark.parametrize("kind", ["drop", "status"])
    @pytest.mark.parametrize("bridged", [False, True])
    def test_a_stream_broken_before_its_first_event_is_indeterminate(
        self, relay: ThreadedRelay, upstream: Gateway, kind: str, bridged: bool
    ) -> None:
        """LiteLLM then makes up a failed response, with an id that the provider never gave."""
        upstream.bridged = bridged
        upstream.during_stream = lambda sent: Fault(kind) if sent == -1 else None
        view = relay.api.wait(relay.api.start(stream=True))
        assert (view["status"], view["error_code"]) == ("failed", "submission_indeterminate")
        assert view["upstream_response_id"] is None
        assert len(upstream.posts) == 1

    @pytest.mark.parametrize("bridged", [False, True])
    def test_an_unrequested_stream_is_read(self, relay: ThreadedRelay, upstream: Gateway, bridged: bool) -> None:
        upstream.unasked, upstream.bridged = True, bridged
        view = relay.api.wait(relay.api.start())
        assert (view["status"], view["output_text"], view["cost_usd"]) == ("completed", "The answer.", 0.25)
        assert len(upstream.posts) == 1

    def test_a_silent_stream_is_replaced_by_polls(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.during_stream = lambda sent: Fault("hang") if sent == 1 else None
        view = relay.api.wait(relay.api.start(stream=True))
        assert (view["status"], view["output_text"]) == ("completed", "The answer.")

    @pytest.mark.parametrize("kind", ["drop", "status"])
    def test_a_broken_stream_of_a_bridged_model_fails_the_run(
        self, relay: ThreadedRelay, upstream: Gateway, kind: str
    ) -> None:
        upstream.bridged = True
        upstream.during_stream = lambda sent: Fault(kind) if sent == 2 else None
        view = relay.api.wait(relay.api.start(stream=True))
        code = {"drop": "result_unavailable", "status": "upstream_failed"}[kind]
        assert (view["status"], view["error_code"], view["output_text"]) == ("failed", code, "The answer")

    def test_a_stream_of_a_bridged_model_completes(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.bridged = True
        assert relay.api.wait(relay.api.start(stream=True))["status"] == "completed"

    def test_a_refused_stream_is_requested_without_streaming(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        fault = litellm_error(400, "stream is not available together with background")
        upstream.on_post = lambda request, n: fault if request.get("stream") else None
        assert relay.api.wait(relay.api.start(stream=True))["status"] == "completed"
        assert sum(upstream.paid.values()) == 1

    def test_the_final_text_overrides_the_streamed_one(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.final = lambda request: message("Another text.")
        started = relay.api.start(stream=True)
        events = relay.api.events(started)
        assert events[-1].data["output_text"] == "Another text."

    def test_text_arrives_during_the_run(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 1.5
        stream = relay.api.stream(relay.api.start(stream=True))
        for event in stream:
            if event.name == "output_text":
                break
        assert next(iter(upstream.works.values())).now()["status"] == "in_progress"
        assert "completed" in [event.name for event in stream]

    def test_a_cancelled_stream_keeps_its_text(self, relay: ThreadedRelay, upstream: Gateway) -> None:
        upstream.seconds = 30
        started = relay.api.start(stream=True)
        next(event for event in relay.api.stream(started) if event.name == "output_text")
        view = relay.api.cancel(started)
        assert (view["status"], view["output_text"]) == ("cancelled", "The ")
        assert upstream.cancels == 1


def _at(port: int) -> GatewaySettings:
    return GatewaySettings(f"http://127.0.0.1:{port}/v1", KEY)
