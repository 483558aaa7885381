"""Claims of the documents: the comparison with the plain SDK, measured, and figures that come from the code."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from litellm_openai_example import LiteLLM, attachments, config
from litellm_openai_example.relay import process, settings
from litellm_openai_example.relay.engine import gate
from litellm_openai_example.relay.ledger import engines
from litellm_openai_example.research.contract import API_ERRORS, INVOCATION_ERRORS, MAX_BODY_BYTES
from litellm_openai_example.transport import bodies, policy

from ..fakes.scripted import KEY, Answer, ScriptedServer, Seen, reply
from ..tools.docs.blocks import ROOT, pages

Make = Callable[..., openai.OpenAI]


def plain(gateway: ScriptedServer, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, **options)


def ours(gateway: ScriptedServer, **options: Any) -> openai.OpenAI:
    return LiteLLM(base_url=gateway.url, api_key=KEY, **options)


@pytest.mark.parametrize(("make", "posts"), [(plain, 9), (ours, 1)])
def test_the_number_of_posts_for_one_call(make: Make, posts: int, gateway: ScriptedServer) -> None:
    at_the_provider = 0

    def litellm(seen: Seen) -> Answer:
        nonlocal at_the_provider
        # Measured with LiteLLM 1.106 to 1.110: two retries, unless this header says otherwise.
        at_the_provider += 1 + int(seen.headers.get("x-litellm-num-retries", "2"))
        return reply({"error": {"message": "the provider failed", "type": "server_error"}}, 500)

    gateway.script = litellm
    with make(gateway) as client, pytest.raises(openai.InternalServerError):
        client.responses.create(model="m", input="?")
    assert at_the_provider == posts


def test_a_timeout_bounds_the_whole_call(gateway: ScriptedServer) -> None:
    """The test uses a tenth of the README's 4 s; with the plain SDK they become three times 4 s and two pauses."""
    gateway.script = lambda seen: Answer(pause=5.0)

    def seconds(make: Make) -> float:
        with make(gateway, timeout=0.4) as client:
            began = time.monotonic()
            with pytest.raises(openai.APIConnectionError):
                client.responses.create(model="m", input="?")
            return time.monotonic() - began

    of_plain = seconds(plain)
    assert of_plain > 3 * 0.4 + 0.5
    assert 0.3 < seconds(ours) < of_plain


def test_each_error_code_has_advice() -> None:
    text = pages("docs/operating.md")
    for code in INVOCATION_ERRORS:
        assert text.count(f"| `{code}` | ") == 1, code
    for code, (status, _) in API_ERRORS.items():
        assert text.count(f"| `{code}` | {status} | ") == 1, code


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


RELAY, PACE = settings.Settings, settings.Timings
READERS = engines._READERS_POSTGRESQL
FIGURES = {
    "README.md": (f'model="{config.DEFAULT_MODEL}"',),
    "docs/README.ko.md": (
        f"기본 타임아웃은 {config.DEFAULT_TIMEOUT:g}초입니다",
        f"(기본 {config.DEFAULT_TIMEOUT:g}초)",
        f"파일 하나는 {attachments.MAX_FILE // 2**20} MB, 모두 합쳐 {attachments.MAX_FILES // 2**20} MB",
    ),
    "docs/from-the-manual.ko.md": (
        f"기본값은 `{config.DEFAULT_MODEL}`입니다",
        f"기본값은 `{settings.DEFAULT_MODEL}`이고, 웹 검색과 추론 강도 `high`를 함께 씁니다",
    ),
    "docs/sending.md": ("could not connect | retried twice | retried twice",),
    "docs/security.md": (
        f"At most {bodies.MAX_ANSWER // 2**20} MB are read",
        f"of a stream {bodies.MAX_ANSWER * bodies._STREAM_FACTOR // 2**20} MB",
    ),
    "docs/cli.md": (
        f"the model, `{config.DEFAULT_MODEL}` unless set",
        f"the relay (`{config.DEFAULT_RELAY_URL}`)",
        "`~/.local/state`",
        f"may have up to {attachments.MAX_FILE // 2**20} MB, all files together {attachments.MAX_FILES // 2**20} MB",
    ),
    "docs/relay.md": (
        f"`RELAY_MODEL` is `{settings.DEFAULT_MODEL}` unless set",
        f"at most `RELAY_SUBMITS` ({RELAY.submits}) per process",
        f"begins with {gate._INITIAL:g}",
        f"first after {gate._PROBE:g} s and then less and less often, down to once in {gate._LONGEST_PROBE:g} s",
        f"at most {gate._DEPARTING} of a process's indeterminate runs were never sent",
        f"without an answer for {PACE.gate:g} s counts as running",
        f"ends within {math.ceil(PACE.drain + process._AFTER_DRAIN)} s",
    ),
    "docs/operating.md": (
        f"within 10 s (a lease of {PACE.lease:g} s)",
        f"`RELAY_RETENTION_HOURS` ({RELAY.retention / 3600:g})",
        f"begin {PACE.first_poll:g} s after the submit",
        f"down to one in {PACE.longest_poll:g} s",
        f"at most {PACE.polls_per_second:g} a second",
        f"beyond {PACE.polls_per_second * PACE.longest_poll:,.0f} old runs",
        f"{READERS + 1} a replica on PostgreSQL (1 writes, {READERS} read",
        f"by {100 // (READERS + 1)} replicas",
        f"`RELAY_SUBMITS` ({RELAY.submits})",
        f"`RELAY_MAX_RUNNING` ({RELAY.max_running})",
        f"`RELAY_MAX_QUEUED` ({RELAY.max_queued})",
        f"once a {'second' if PACE.tick == 1 else PACE.tick} instead",
        f"over {RELAY.max_output:,} characters",
        f"longer than {PACE.body:g} s",
        f"at most {MAX_BODY_BYTES // 2**20} MiB",
    ),
    "docs/runbook.md": (
        f"gives submissions in flight only {PACE.drain:g} s",
        f"The command waits {PACE.cancel:g} s for that",
        f"claims nothing for {PACE.lease:g} s",
        f"remembers the last {gate._REMEMBERED:,} runs",
    ),
    "docs/deploy/nginx.conf": (
        f"RELAY_WAIT_SECONDS ({RELAY.wait:g})",
        f"client_max_body_size {MAX_BODY_BYTES // 2**20}m",
    ),
}


@pytest.mark.parametrize(("name", "figures"), FIGURES.items(), ids=list(FIGURES))
def test_figures_come_from_the_code(name: str, figures: tuple[str, ...]) -> None:
    text = " ".join(pages(name).split())
    assert [figure for figure in figures if figure not in text] == []
    assert policy._CONNECT_RETRIES == 2  # "twice"


MANUAL = (
    'uv run python -m litellm_openai_example "Reply with exactly: OK"',
    'uv run python -m litellm_openai_example --api responses "Reply with exactly: OK"',
    'uv run python -m litellm_openai_example --api responses --background "Reply with exactly: OK"',
    'uv run python -m litellm_openai_example --timeout 300 "짜장면의 역사를 상세히 조사해줘"',
    'uv run python -m litellm_openai_example --api responses --timeout 300 "짜장면의 역사를 상세히 조사해줘"',
    "LITELLM_MODEL=gpt-4o uv run python -m litellm_openai_example --api responses --web-search --timeout 60 "
    '"짜장면이 처음 만들어진 연도를 한 줄로"',
    "uv run python -m litellm_openai_example.relay",
    "LITELLM_MODEL=gpt-4o RELAY_BASE_URL=http://127.0.0.1:8080 uv run python -m litellm_openai_example "
    '--auto-tool-call --timeout 300 "짜장면의 역사와 기원에 대해 상세히 조사해줘"',
    "uv run pytest",
    "from litellm_openai_example.client import LiteLLMClient",
    'client = LiteLLMClient(base_url, api_key, model="gpt-4o")',
    'result = client.create_response( "짜장면의 역사를 웹 검색으로 정리해줘", '
    'tools=[{"type": "web_search_preview"}], )',
    'result = client.create_response_with_tool_calling( "짜장면의 역사와 기원에 대해 상세히 조사해줘", '
    'relay_base_url="http://127.0.0.1:8080", )',
    "print(result.final_text) if result.tool_called: "
    'print("[deep_research가 자동으로 호출됐습니다]", file=sys.stderr) '
    "print(result.response_id, result.tool_call_id, result.invocation_id, result.invocation_token, file=sys.stderr)",
    "X-Invocation-Token: <invocation_token>",
)


@pytest.mark.parametrize("line", MANUAL)
def test_each_line_of_the_manual_is_in_the_korean_readme(line: str) -> None:
    assert line in " ".join((ROOT / "docs/README.ko.md").read_text().replace("\\\n", " ").split())
