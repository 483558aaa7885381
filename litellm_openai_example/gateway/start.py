"""The start of a gateway: the proxy with the providers of the environment, or with the offline demo model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .directory import GatewayDirectory
from .offline.model import MODELS
from .offline.provider import OfflineProvider
from .progress import progress, tell
from .proxy import OFFLINE_KEY, Proxy, configuration, providers_with_keys, with_loopback_direct

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_NO_LLM = "offline demo model: no LLM is involved (set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY for one)"


@contextmanager
def started(directory: GatewayDirectory, port: int, timeout: int) -> Iterator[tuple[Proxy, bool]]:
    """Start a gateway; yield it once it is ready, with True if the offline model answers."""
    keys = providers_with_keys(os.environ)
    with ExitStack() as stack:
        if keys:
            tell(f"routing to {', '.join(keys)}")
            routes, env = configuration(keys), dict(os.environ)
        else:
            provider = stack.enter_context(OfflineProvider(folder=directory.path / "offline"))
            routes = configuration({}, provider.base_url)
            env = _offline_env(provider)
        proxy = stack.enter_context(
            Proxy(routes, directory=directory, port=port, env=env, demo=() if keys else MODELS, tell=tell)
        )
        with progress(f"starting LiteLLM at {proxy.base_url}", tell, expected=10) as show:
            proxy.wait_until_ready(timeout, show)
        yield proxy, not keys


def tell_if_offline(offline: bool) -> None:
    """Say that no LLM answers; last of all lines, so that it stands right above the answer."""
    if offline:
        tell(_NO_LLM)


def client_env(base_url: str, api_key: str) -> dict[str, str]:
    """Return the environment for a client of a gateway on this machine."""
    return {**with_loopback_direct(os.environ), "LITELLM_BASE_URL": base_url, "LITELLM_API_KEY": api_key}


def _offline_env(provider: OfflineProvider) -> dict[str, str]:
    """Return LiteLLM's environment for the demo, in which each way out of this machine ends at the provider."""
    env = {name: value for name, value in os.environ.items() if name.upper() not in PROXY_VARIABLES}
    # The provider refuses whatever comes as a request to a proxy (CONNECT, absolute URLs).
    nowhere = provider.base_url.removesuffix("/v1")
    ways_out = {name: nowhere for variable in PROXY_VARIABLES for name in (variable, variable.lower())}
    return {**env, **ways_out, "NO_PROXY": "", "no_proxy": "", "HF_HUB_OFFLINE": "1", OFFLINE_KEY: provider.api_key}
