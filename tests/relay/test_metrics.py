"""Observability: `/metrics`, and the log of a run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ..fakes.gateway import Fault, Gateway, message
from .conftest import StartRelay, assert_clean
from .running import ThreadedRelay, body, environment, relay_process


def values(relay: ThreadedRelay, **headers: str) -> dict[tuple[str, str], float]:
    answer = relay.api.call("GET", "/metrics", headers=headers)
    assert answer.status_code == 200
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(answer.text):
        for s in family.samples:  # summed over the models of the relays that this process has had
            key = s.name, s.labels.get("state", "")
            found[key] = found.get(key, 0) + s.value
    return found


def test_metrics(relay: ThreadedRelay) -> None:
    before = values(relay)
    relay.api.wait(relay.api.start())
    after = values(relay)
    assert after["litellm_relay_runs", "running"] == 0
    ended = "litellm_relay_ended_total", "completed"
    assert after[ended] - before.get(ended, 0) == 1
    assert after["litellm_relay_ledger_up", ""] == 1
    for name, gain in (("accepted_total", 1), ("submitted_total", 1), ("cost_usd_total", 0.25)):
        key = f"litellm_relay_{name}", ""
        assert after[key] - before[key] == gain


def test_metrics_during_an_outage(relay: ThreadedRelay, upstream: Gateway) -> None:
    def errors() -> dict[tuple[str, str], float]:
        text = relay.api.call("GET", "/metrics").text
        (family,) = (f for f in text_string_to_metric_families(text) if f.name == "litellm_relay_upstream_errors")
        return {(s.labels["call"], s.labels["kind"]): s.value for s in family.samples if s.name.endswith("_total")}

    before, counted = errors(), values(relay)
    upstream.on_post = lambda request, count: Fault("drop", paid=True)
    assert relay.api.wait(relay.api.start())["error_code"] == "submission_indeterminate"
    upstream.on_post = lambda request, count: Fault("status", 401)
    assert relay.api.wait(relay.api.start())["error_code"] == "gateway_key_rejected"
    after, then = errors(), values(relay)
    for kind in ("lost", "bad_key"):
        assert after["submit", kind] - before["submit", kind] == 1
        assert before["poll", kind] == after["poll", kind]
    for name, gain in (("submits_total", 2), ("indeterminate_total", 1), ("submitted_total", 0)):
        key = f"litellm_relay_{name}", ""
        assert then[key] - counted[key] == gain
    commits = "litellm_relay_ledger_commit_seconds_count", ""
    assert then[commits] > counted[commits]


def test_metrics_require_the_key(start_relay: StartRelay) -> None:
    relay = start_relay(api_key="sk-relay")
    assert relay.api.call("GET", "/metrics").status_code == 401
    assert values(relay, Authorization="Bearer sk-relay")["litellm_relay_waiters", ""] == 0


def test_the_log_of_a_run_as_json(sqlite_url: str, upstream: Gateway) -> None:
    with relay_process(environment(sqlite_url, upstream, RELAY_LOG_FORMAT="json")) as relay:
        payer = {"x_litellm_tags": "team-a,batch=7", "x_litellm_end_user_id": "someone"}
        started = relay.api.post(body("a secret question", background=True), **payer).json()
        relay.api.wait(started)
        relay.terminate()
    lines = [json.loads(line) for line in relay.lines if line.startswith("{")]
    told = [line for line in lines if line.get("id") == started["invocation_id"]]
    assert [line["event"] for line in told] == ["accepted", "submitted", "ended"]
    assert {line["tags"] for line in told} == {"team-a,batch=7"}
    assert {datetime.fromisoformat(line["time"]).utcoffset() for line in lines} == {timedelta(0)}
    assert told[-1]["state"] == "completed"
    assert told[-1]["cost_usd"] == 0.25
    assert told[-1]["seconds"] >= 0
    assert "secret question" not in relay.log
    assert started["invocation_token"] not in relay.log
    assert_clean(relay.log, upstream)


def test_the_log_of_a_run_as_text(sqlite_url: str, upstream: Gateway) -> None:
    with relay_process(environment(sqlite_url, upstream, TZ="Asia/Seoul")) as relay:
        id = relay.api.wait(relay.api.start())["invocation_id"]
        tagged = relay.api.post(body(background=True), x_litellm_tags="team-a,b").json()
        relay.api.wait(tagged)
        relay.terminate()
    assert f"INFO {id} ended state=completed" in relay.log
    assert not re.search(f"{id} .*tags=", relay.log)
    assert (
        len(re.findall(rf"{tagged['invocation_id']} (?:accepted|submitted|ended) .*\btags=team-a,b$", relay.log, re.M))
        == 3
    )
    times = re.findall(r"^\[relay\] (\S+ \S+) [A-Z]+ ", relay.log, re.MULTILINE)
    assert {datetime.fromisoformat(time).utcoffset() for time in times} == {timedelta(hours=9)}
    with relay_process(environment(sqlite_url, upstream, RELAY_LOG_LEVEL="warning")) as relay:
        relay.api.wait(relay.api.start())
        relay.terminate()
    assert " INFO " not in relay.log


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_key_in_an_id_is_redacted(form: str) -> None:
    code = """
from litellm_openai_example.payer import NOBODY
from litellm_openai_example.relay.log import configure_logging, log, log_run
configure_logging({"LITELLM_API_KEY": "sk-gateway-1", "RELAY_API_KEY": "sk-relay-1", "RELAY_LOG_FORMAT": "%s"})
log.warning("%%s: kept as %%s", "inv_1", "resp_sk-gateway-1")
log_run("ended", "inv_1", NOBODY, model="gpt-sk-relay-1", seconds=1.5)
"""
    told = subprocess.run([sys.executable, "-c", code % form], capture_output=True, text=True, timeout=60).stderr
    assert "sk-" not in told
    assert "inv_1: kept as resp_[key]" in told
    assert "inv_1 ended model=gpt-[key] seconds=1.5" in told
    if form == "json":
        assert json.loads(told.splitlines()[1])["model"] == "gpt-[key]"
        assert json.loads(told.splitlines()[1])["seconds"] == 1.5


@pytest.mark.parametrize("form", ["text", "json"])
def test_messages_of_libraries_are_logged_without_arguments(form: str) -> None:
    """A library's warnings and tracebacks may repeat its input; and each record is one line."""
    code = """
import asyncio, logging
from litellm_openai_example.relay.log import configure_logging, log
configure_logging({"RELAY_LOG_FORMAT": "%s"})
log.warning("the gateway lists %%s", "a model\\n2026-01-01 ERROR made up\\x1b[31m\\u2028x")
logging.getLogger("library").warning("refused %%s", "the question")
async def main():
    async def fail(): raise ValueError("the question")
    asyncio.get_running_loop().create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
asyncio.run(main())
"""
    told = subprocess.run([sys.executable, "-c", code % form], capture_output=True, text=True, timeout=60).stderr
    assert "the question" not in told
    assert "Traceback" not in told
    assert "\x1b" not in told
    lines = told.splitlines()
    assert len(lines) == 3
    assert "a model 2026-01-01 ERROR made up" in lines[0]
    assert "library: refused %s" in lines[1]
    assert "asyncio: Task exception was never retrieved (ValueError at " in lines[2]


def tokens(relay: ThreadedRelay) -> dict[str, float]:
    families = text_string_to_metric_families(relay.api.call("GET", "/metrics").text)
    (family,) = (one for one in families if one.name == "litellm_relay_tokens")
    found: dict[str, float] = {}
    for sample in family.samples:
        if sample.name.endswith("_total"):
            found[sample.labels["kind"]] = found.get(sample.labels["kind"], 0) + sample.value
    return found


def test_cached_and_reasoning_tokens(relay: ThreadedRelay, upstream: Gateway) -> None:
    usage = {
        "input_tokens": 1000,
        "input_tokens_details": {"cached_tokens": 800},
        "output_tokens": 90,
        "output_tokens_details": {"reasoning_tokens": 64},
        "total_tokens": 1090,
    }
    upstream.final = lambda request: message("text", usage=usage)
    before = tokens(relay)
    view = relay.api.wait(relay.api.start())
    gained = {kind: count - before.get(kind, 0) for kind, count in tokens(relay).items()}
    assert gained == {"input": 1000, "cached": 800, "output": 90, "reasoning": 64}
    counts = {"input_tokens": 1000, "cached_tokens": 800, "output_tokens": 90, "reasoning_tokens": 64}
    assert view["usage"] == {**counts, "total_tokens": 1090}


@pytest.mark.parametrize("usage", [None, [], {}, {"input_tokens": -5, "output_tokens": 10**400}], ids=str)
def test_impossible_tokens(usage: Any, relay: ThreadedRelay, upstream: Gateway) -> None:
    """The run ends, and no counter falls or overflows."""
    upstream.final = lambda request: message("text") | {"usage": usage}
    before = tokens(relay)
    view = relay.api.wait(relay.api.start())
    assert (view["status"], view["usage"]) == ("completed", None)
    assert tokens(relay) == before


@pytest.mark.parametrize(
    "cost", [10**400, 1e308, -1, float("nan"), float("inf"), [1], True, "much"], ids=lambda cost: str(cost)[:9]
)
def test_an_impossible_cost(cost: Any, relay: ThreadedRelay, upstream: Gateway) -> None:
    """The header's cost counts instead: the run ends, and the sum of costs stays a finite number."""
    upstream.final = lambda request: message("text") | {"usage": {"cost": cost}, "model": 'm"\n{x}'}
    key = "litellm_relay_cost_usd_total", ""
    before = values(relay)[key]
    view = relay.api.wait(relay.api.start())
    assert (view["status"], view["cost_usd"]) == ("completed", 0.25)
    assert values(relay)[key] - before == 0.25
