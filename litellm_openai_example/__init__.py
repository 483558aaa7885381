"""The official OpenAI SDK on a LiteLLM gateway.

    from litellm_openai_example import LiteLLM as OpenAI

The names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import AsyncLiteLLMClient, LiteLLMClient
    from .config import ConfigurationError
    from .errors import CutShortError, ErrorKind, GatewayError, StillRunningError
    from .research.loop import ToolCallingResult
    from .research.relay_calls import RelayError, ResearchRunningError
    from .research.relay_client import AsyncRelayClient, RelayClient
    from .sdk import AsyncLiteLLM, LiteLLM
    from .transport.policy import AsyncLiteLLMHttpxClient, LiteLLMHttpxClient

_HOMES = {
    "AsyncLiteLLM": "sdk",
    "AsyncLiteLLMClient": "client",
    "AsyncLiteLLMHttpxClient": "transport.policy",
    "AsyncRelayClient": "research.relay_client",
    "ConfigurationError": "config",
    "CutShortError": "errors",
    "ErrorKind": "errors",
    "GatewayError": "errors",
    "LiteLLM": "sdk",
    "LiteLLMClient": "client",
    "LiteLLMHttpxClient": "transport.policy",
    "RelayClient": "research.relay_client",
    "RelayError": "research.relay_calls",
    "ResearchRunningError": "research.relay_calls",
    "StillRunningError": "errors",
    "ToolCallingResult": "research.loop",
}

__all__ = [
    "AsyncLiteLLM",
    "AsyncLiteLLMClient",
    "AsyncLiteLLMHttpxClient",
    "AsyncRelayClient",
    "ConfigurationError",
    "CutShortError",
    "ErrorKind",
    "GatewayError",
    "LiteLLM",
    "LiteLLMClient",
    "LiteLLMHttpxClient",
    "RelayClient",
    "RelayError",
    "ResearchRunningError",
    "StillRunningError",
    "ToolCallingResult",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("litellm-openai-example")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
