"""The configuration of LiteLLM."""

from __future__ import annotations

from typing import Any

from litellm_openai_example.gateway import proxy
from litellm_openai_example.gateway.offline.model import MODELS
from litellm_openai_example.gateway.proxy import providers_with_keys


def configuration(keys: dict[str, str], offline: str | None = None) -> Any:
    return proxy.configuration(keys, offline)


def route(name: str, to: dict[str, str]) -> Any:
    return proxy.route(name, to)


def names(keys: dict[str, str], offline: str | None = None) -> set[str]:
    return {one["model_name"] for one in configuration(keys, offline)["model_list"]}


def test_only_providers_with_a_key_are_routed() -> None:
    assert names({"openai": "OPENAI_API_KEY"}) == {"openai/*", "*"}
    assert names({"anthropic": "ANTHROPIC_API_KEY"}) == {"anthropic/*", "claude-*"}
    assert names({"gemini": "GEMINI_API_KEY"}) == {"gemini/*", "gemini-*"}


def test_blank_keys_do_not_count() -> None:
    assert providers_with_keys({"OPENAI_API_KEY": " ", "GEMINI_API_KEY": "", "GOOGLE_API_KEY": "k"}) == {
        "gemini": "GOOGLE_API_KEY"
    }


def test_the_offline_provider_serves_every_name() -> None:
    made = configuration({}, "http://127.0.0.1:1/v1")
    assert {one["model_name"] for one in made["model_list"]} == {"openai/*", "*", "anthropic/*", "gemini/*", *MODELS}
    assert {one["litellm_params"]["api_base"] for one in made["model_list"]} == {"http://127.0.0.1:1/v1"}


def test_the_router_neither_retries_nor_cools_down() -> None:
    assert configuration({})["router_settings"] == {"num_retries": 0, "disable_cooldowns": True}


def test_the_id_of_a_route_depends_only_on_its_name() -> None:
    first, second = route("a", {"model": "openai/a"}), route("a", {"model": "openai/b", "api_key": "k"})
    assert first["model_info"]["id"] == second["model_info"]["id"] != route("b", {})["model_info"]["id"]


def test_files_go_to_openai_or_the_offline_provider() -> None:
    assert configuration({"openai": "OPENAI_API_KEY"})["files_settings"] == [
        {"custom_llm_provider": "openai", "api_key": "os.environ/OPENAI_API_KEY"}
    ]
    key = "os.environ/OFFLINE_PROVIDER_KEY"
    assert configuration({}, "http://127.0.0.1:1/v1")["files_settings"] == [
        {"custom_llm_provider": "openai", "api_base": "http://127.0.0.1:1/v1", "api_key": key}
    ]
    assert configuration({"gemini": "GEMINI_API_KEY"})["files_settings"] == []
