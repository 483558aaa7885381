"""The documents' research example and alert rules, against a relay."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from litellm_openai_example.http_library import httpx

from ..fakes.gateway import Gateway
from ..tools.docs.blocks import pages
from .conftest import StartRelay

DOCS = Path(__file__).parents[2] / "docs"


def test_a_research_run_with_its_sources(start_relay: StartRelay, upstream: Gateway) -> None:
    cited = {"type": "url_citation", "url": "https://example.com/noodles", "title": "Noodles"}
    text = {"type": "output_text", "text": "By sea [1].", "annotations": [{**cited, "start_index": 7, "end_index": 10}]}
    message = {"type": "message", "role": "assistant", "content": [text]}
    upstream.final = lambda request: {"status": "completed", "output": [message]}
    url = start_relay().api.base_url
    example = [sys.executable, str(DOCS / "examples/research.py"), "How did jajangmyeon come to Korea?"]
    env = {**os.environ, "RELAY_BASE_URL": url}
    runs = [subprocess.run(example, capture_output=True, text=True, timeout=60, env=env) for _ in range(2)]
    for run in runs:
        assert run.returncode == 0, run.stderr
        assert run.stdout == "By sea [1].\n- Noodles: https://example.com/noodles\n"
    assert len(upstream.posts) == 1  # the second call found the first one's run


def test_alerts_use_existing_metrics(start_relay: StartRelay) -> None:
    rules = yaml.safe_load((DOCS / "deploy/alerts.yaml").read_text())["groups"][0]["rules"]
    shown = httpx.get(f"{start_relay().api.base_url}/metrics", trust_env=False).text
    text = " ".join(rule["expr"] for rule in rules) + pages("docs/operating.md")
    for name in set(re.findall(r"\blitellm_relay_\w+", text)):
        # A labelled counter shows only its help before the first count.
        assert f"\n{name}" in shown or f"# TYPE {name} " in shown, name
