"""Which model name goes to which provider: the proxy's configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from ..config import setting
from .offline.server import MODELS

# Model names that belong to a provider, and where its key may be found. A bare name is OpenAI's unless its own
# first word says otherwise.
_PROVIDERS = {
    "openai": (("openai/*", "*"), ("OPENAI_API_KEY",)),
    "anthropic": (("anthropic/*", "claude-*"), ("ANTHROPIC_API_KEY",)),
    "gemini": (("gemini/*", "gemini-*"), ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
}
_OFFLINE_NAMES = ("openai/*", "*", "anthropic/*", "gemini/*")
OFFLINE_KEY = "OFFLINE_PROVIDER_KEY"  # the variable that holds the offline provider's key
_SETTINGS: dict[str, object] = {
    # One POST for one call, and the provider's own error instead of a pause that hides it.
    "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    "litellm_settings": {"num_retries": 0},
    "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
}


def providers_with_keys(env: Mapping[str, str]) -> dict[str, str]:
    """The providers that the environment has a key for, and the variable that holds it."""
    found = {}
    for name, (_, variables) in _PROVIDERS.items():
        holding = next((variable for variable in variables if setting(variable, env)), None)
        if holding is not None:
            found[name] = holding
    return found


def configuration(keys: Mapping[str, str], offline_url: str | None = None) -> dict[str, object]:
    """LiteLLM's configuration.

    Args:
        keys: providers and the environment variable with their key; the key itself stays out of the file.
        offline_url: address of the offline provider, which takes every model; None to use the providers.
    """
    if offline_url is not None:
        to = {"api_base": offline_url, "api_key": f"os.environ/{OFFLINE_KEY}"}
        named = [route(name, {"model": f"openai/{name}", **to}) for name in MODELS]
        return with_settings([*named, *(route(name, {"model": "openai/*", **to}) for name in _OFFLINE_NAMES)], to)
    routes = []
    for provider, variable in keys.items():
        for name in _PROVIDERS[provider][0]:
            model = name if "/" in name else f"{provider}/{name}"
            routes.append(route(name, {"model": model, "api_key": f"os.environ/{variable}"}))
    files = {"api_key": f"os.environ/{keys['openai']}"} if "openai" in keys else None
    return with_settings(routes, files)


def with_settings(
    routes: Sequence[Mapping[str, object]], files: Mapping[str, object] | None = None
) -> dict[str, object]:
    """A whole configuration with these routes, and how OpenAI is reached for `/v1/files` (there a call names no
    model)."""
    providers = [] if files is None else [{"custom_llm_provider": "openai", **files}]
    return {"model_list": list(routes), "files_settings": providers, **_SETTINGS}


def route(name: str, to: Mapping[str, object], **info: object) -> dict[str, object]:
    """One entry of LiteLLM's model list.

    Its id is made from the name: response ids hold it, and so they survive a restart and a changed route.
    """
    fixed = hashlib.sha256(name.encode()).hexdigest()[:32]
    return {"model_name": name, "litellm_params": dict(to), "model_info": {"id": fixed, **info}}
