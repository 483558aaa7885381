"""The dashboard, alerts and Prometheus configuration of docs/deploy, against the metrics that a relay exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from litellm_openai_example.errors import ErrorKind
from litellm_openai_example.http_library import httpx

from ..fakes.scripted import eventually, free_port
from .conftest import StartRelay

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(not (PROMTOOL and PROMETHEUS), reason="needs Prometheus (Debian: prometheus)")

DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
RULES = [rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS = [*QUERIES, *((rule["alert"], rule["expr"]) for rule in RULES)]
# Labels that Prometheus adds to what it scrapes.
SCRAPED = {"instance", "job"}
# Kinds of errors after which a submission is repeated, changed and repeated, or of unknown outcome, and kinds that a
# submission cannot have. All others refuse it for good.
NOT_REFUSED = {
    ErrorKind.UNSUPPORTED_TOOL, ErrorKind.UNSUPPORTED_REASONING, ErrorKind.UNSUPPORTED_STORE, ErrorKind.RATE_LIMIT,
    ErrorKind.UNAVAILABLE, ErrorKind.SERVER, ErrorKind.TIMEOUT, ErrorKind.UNREACHABLE, ErrorKind.LOST,
    ErrorKind.ANSWER_TOO_LARGE, ErrorKind.UNREADABLE, ErrorKind.REFUSED, ErrorKind.CANCELLED, ErrorKind.FAILED,
    ErrorKind.CUT_SHORT, ErrorKind.STILL_RUNNING, ErrorKind.UNCONFIRMED, ErrorKind.OTHER,
}  # fmt: skip


def exported(text: str) -> dict[str, dict[str, set[str]]]:
    """Return the values of each label of each series in a scrape."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def problems(expression: str, series: dict[str, dict[str, set[str]]]) -> list[str]:
    """Return the names, labels and values in an expression that no relay exports."""
    found = []
    labels: set[str] = set(SCRAPED)
    named = re.findall(r"(litellm_relay_\w+)(?:\{([^}]*)\})?", expression)
    for name, selector in named:
        known = series.get(name)
        if known is None:
            found.append(name)
            continue
        labels |= known.keys()
        for label, quoted in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', selector):
            values = known.get(label, set())
            found += [f"{name}{{{label}={value}}}" for value in quoted.split("|") if value not in values]
    for grouping in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        found += [label for label in re.split(r"\s*,\s*", grouping.strip()) if label not in labels]
    return found if named else ["no metric"]


@pytest.fixture
def scrape(start_relay: StartRelay) -> dict[str, dict[str, set[str]]]:
    api = start_relay().api
    api.wait(api.start())
    return exported(api.call("GET", "/metrics").text)


def test_a_relay_exports_all_that_dashboard_and_alerts_name(scrape: dict[str, dict[str, set[str]]]) -> None:
    scrape["litellm_relay_ended_total"]["state"] |= {"completed", "failed"}
    assert {title: found for title, expression in EXPRESSIONS if (found := problems(expression, scrape))} == {}


def test_costs_and_tokens_have_series_before_the_first_run(start_relay: StartRelay) -> None:
    series = exported(start_relay().api.call("GET", "/metrics").text)
    assert series["litellm_relay_cost_usd_total"]["window"] == {"", "2h", "8h"}
    assert series["litellm_relay_tokens_total"]["kind"] == {"input", "cached", "output", "reasoning"}


def test_dashboard_or_alerts_show_each_metric(scrape: dict[str, dict[str, set[str]]]) -> None:
    def family(series: str) -> str:
        return re.sub("_(bucket|sum|count|created|total)$", "", series)

    shown = {name for _, expression in EXPRESSIONS for name in re.findall(r"litellm_relay_\w+", expression)}
    assert {family(name) for name in scrape} - {family(name) for name in shown} == set()


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("litellm_relay_nothing", "litellm_relay_nothing"),
        ('litellm_relay_runs{state="waiting"}', "litellm_relay_runs{state=waiting}"),
        ('litellm_relay_runs{phase="queued"}', "litellm_relay_runs{phase=queued}"),
        ("sum by (modle) (litellm_relay_cost_usd_total)", "modle"),
        ("vector(1)", "no metric"),
    ],
)
def test_a_wrong_name_is_found(expression: str, found: str, scrape: dict[str, dict[str, set[str]]]) -> None:
    assert problems(expression, scrape) == [found]


def test_the_dashboard_shows_the_metrics_that_operators_need() -> None:
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(titles)) == len(titles)
    for needed in ("Runs by state", "Queue age", "Ended by outcome", "Cost by day and model", "Upstream errors by kind",
                   "Ledger latency", "Waiters", "Tokens by day and kind"):  # fmt: skip
        assert needed in titles


def test_the_panels_do_not_overlap_and_follow_the_chosen_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource"]


def test_each_alert_has_a_unique_name_and_a_description() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_alert_about_refusals_has_each_kind_that_refuses() -> None:
    (expression,) = (rule["expr"] for rule in RULES if rule["alert"] == "RelayGatewayRefuses")
    (kinds,) = re.findall(r'kind=~"([^"]*)"', expression)
    assert set(kinds.split("|")) == {kind.value for kind in set(ErrorKind) - NOT_REFUSED}


def plain(expression: str) -> str:
    """Return a query of the dashboard as Grafana sends it."""
    return expression.replace("$__rate_interval", "1m")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with Prometheus's configuration as it is documented."""
    for name in ("prometheus.yml", "alerts.yaml"):
        shutil.copy(DEPLOY / name, tmp_path)
    (tmp_path / "relay-api-key").write_text("sk-relay\n")
    return tmp_path


@needs_prometheus
def test_promtool_accepts_configuration_rules_and_queries(files: Path) -> None:
    rules = [{"record": f"query_{number}", "expr": plain(query)} for number, (_, query) in enumerate(QUERIES)]
    (files / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    for command in (["config", "prometheus.yml"], ["rules", "--lint-fatal", "alerts.yaml", "queries.yaml"]):
        done = subprocess.run([str(PROMTOOL), "check", *command], cwd=files, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(files: Path, target: str) -> Iterator[httpx.Client]:
    """Run Prometheus with the documented configuration; only the relay's address and the interval differ."""
    config: dict[str, Any] = yaml.safe_load((files / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    assert job.pop("dns_sd_configs") == [{"names": ["relay"], "type": "A", "port": 8080}]
    job["static_configs"] = [{"targets": [target]}]
    (files / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with (files / "log").open("w") as log:
        options = ["--config.file=prometheus.yml", f"--web.listen-address={address}", "--storage.tsdb.path=data"]
        process = subprocess.Popen([str(PROMETHEUS), *options], cwd=files, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait(60)


def result(client: httpx.Client, query: str) -> list[Any]:
    try:
        answer = client.get("/api/v1/query", params={"query": query}).json()
    except (httpx.ConnectError, ValueError):  # it is still starting
        return []
    assert answer["status"] == "success", (query, answer)
    found: list[Any] = answer["data"]["result"]
    return found


@needs_prometheus
def test_a_real_prometheus_answers_the_dashboard(files: Path, start_relay: StartRelay) -> None:
    api = start_relay(api_key="sk-relay").api
    api.http.headers["Authorization"] = "Bearer sk-relay"
    with prometheus(files, api.base_url.removeprefix("http://")) as client:
        assert eventually(lambda: bool(result(client, "count_over_time(litellm_relay_ledger_up[1m]) >= 2"))), (
            files / "log"
        ).read_text()
        api.wait(api.start())
        paid = "sum by (model) (increase(litellm_relay_cost_usd_total[1d])) > 0"
        assert eventually(lambda: bool(result(client, paid)))
        assert result(client, paid)[0]["metric"]["model"]
        assert eventually(lambda: bool(result(client, "sum(increase(litellm_relay_ended_total[1m])) >= 0")))
        # A query of what should not happen has an empty result here.
        empty = {title for title, query in QUERIES if not query.endswith("> 0") and not result(client, plain(query))}
        assert empty == set()
        rules = client.get("/api/v1/rules").json()["data"]["groups"]
        assert {rule["name"] for group in rules for rule in group["rules"]} == {rule["alert"] for rule in RULES}
        assert {rule["lastError"] for group in rules for rule in group["rules"] if rule.get("lastError")} == set()
