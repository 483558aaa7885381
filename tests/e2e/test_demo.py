"""The offline demo with the real LiteLLM: nothing leaves this machine, and missing features are refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from litellm_openai_example.gateway.offline.model import MODELS
from litellm_openai_example.http_library import httpx
from litellm_openai_example.state import cache_dir

from .running import end, say, serving


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, litellm_python: Path) -> Iterator[openai.OpenAI]:
    home = tmp_path_factory.mktemp("home")
    process, client = serving(
        {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(cache_dir().parent)}
    )
    try:
        with client:
            yield client
    finally:
        end(process)


def root(demo: openai.OpenAI) -> str:
    return str(demo.base_url).removesuffix("/v1/")


def test_the_demo_models_are_listed_and_any_name_is_answered(demo: openai.OpenAI) -> None:
    assert sorted(model.id for model in demo.models.list()) == sorted(MODELS)
    codex = demo.get("/models", cast_to=httpx.Response, options={"params": {"client_version": "0.159.3"}}).json()
    assert {model["slug"] for model in codex["models"]} <= set(MODELS)
    for name in (*MODELS[:2], "any-name", "openai/gpt-4o", "anthropic/claude-x"):
        assert say(demo, name).choices[0].message.content == "OK"


@pytest.mark.parametrize(
    "path",
    ["/v1/moderations", "/moderations", "/v1/vector_stores", "/v1/vector_stores/vs_1/search", "/v1/batches",
     "/batches/b", "/v1/images/generations", "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/fine_tuning/jobs",
     "/v1/assistants", "/v1/threads", "/v1/containers", "/v1/videos", "/v1/evals", "/v1/completions", "/v1/rerank",
     "/v1/search/tavily", "/v1/ocr", "/v1/skills", "/v1/uploads", "/v1/messages/batches",
     "/v1/messages/count_tokens", "/v1/conversations", "/openai/files", "/openai/v1/vector_stores",
     "/openai/v1/chat/completions", "/azure/v1/files", "/anthropic/v1/files", "/anthropic/v1/messages",
     "/gemini/v1beta/models", "/vertex_ai/v1/x", "/cohere/v1/chat", "/bedrock/model/x/invoke",
     "/assemblyai/v2/transcript", "/mcp", "/mcp/", "/sse", "/ui", "/key/generate", "/health/services",
     "//v1/moderations", "/v1/../v1/moderations", "/V1/moderations", "/v1/chat/completions/../moderations",
     "/v1/nothing"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_missing_features_are_refused_by_name(demo: openai.OpenAI, method: str, path: str) -> None:
    headers = {"authorization": f"Bearer {demo.api_key}"}
    with httpx.Client(trust_env=False, timeout=60) as client:
        answer = client.request(method, f"{root(demo)}{path}", headers=headers, json={} if method == "POST" else None)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["message"].startswith("The offline demo has no ")
    assert error["code"] == "not_in_offline_demo"


def test_a_missing_feature_raises_the_sdks_not_found_error(demo: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="The offline demo has no 'moderations'"):
        demo.moderations.create(input="x")
    with pytest.raises(openai.NotFoundError, match="The offline demo has no 'vector_stores'"):
        demo.vector_stores.list()
    with pytest.raises(openai.NotFoundError, match="The offline demo has no 'batches'"):
        demo.batches.list()


def test_its_routes_require_the_gateways_key(demo: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        demo.with_options(api_key="sk-wrong").models.list()
    assert raised.value.status_code in (400, 401)
