"""The official OpenAI SDK on a LiteLLM gateway.

    from litellm_openai_example import LiteLLM as OpenAI

The names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .attachments import file_part
    from .calls.answer import Answer, FunctionCall, Source, Usage
    from .calls.reply import Reply
    from .calls.streams import AsyncTextStream, TextStream
    from .client import AsyncLiteLLMClient, LiteLLMClient
    from .config import ConfigurationError
    from .errors import CutShortError, ErrorKind, GatewayError, StillRunningError
    from .many import AskedReply
    from .research.conversation import ToolCall, ToolCallingResult, Turn
    from .research.relay_answers import RelayError, ResearchRunningError, ResearchUnconfirmedError
    from .research.relay_client import AsyncRelayClient, RelayClient
    from .sdk import AsyncLiteLLM, LiteLLM
    from .transport.http_clients import AsyncLiteLLMHttpxClient, LiteLLMHttpxClient

    __version__: str

# The public names by their modules.
_NAMES = {
    "attachments": ("file_part",),
    "calls.answer": ("Answer", "FunctionCall", "Source", "Usage"),
    "calls.reply": ("Reply",),
    "calls.streams": ("AsyncTextStream", "TextStream"),
    "client": ("AsyncLiteLLMClient", "LiteLLMClient"),
    "config": ("ConfigurationError",),
    "errors": ("CutShortError", "ErrorKind", "GatewayError", "StillRunningError"),
    "many": ("AskedReply",),
    "research.conversation": ("ToolCall", "ToolCallingResult", "Turn"),
    "research.relay_answers": ("RelayError", "ResearchRunningError", "ResearchUnconfirmedError"),
    "research.relay_client": ("AsyncRelayClient", "RelayClient"),
    "sdk": ("AsyncLiteLLM", "LiteLLM"),
    "transport.http_clients": ("AsyncLiteLLMHttpxClient", "LiteLLMHttpxClient"),
}

__all__ = [
    "Answer",
    "AskedReply",
    "AsyncLiteLLM",
    "AsyncLiteLLMClient",
    "AsyncLiteLLMHttpxClient",
    "AsyncRelayClient",
    "AsyncTextStream",
    "ConfigurationError",
    "CutShortError",
    "ErrorKind",
    "FunctionCall",
    "GatewayError",
    "LiteLLM",
    "LiteLLMClient",
    "LiteLLMHttpxClient",
    "RelayClient",
    "RelayError",
    "Reply",
    "ResearchRunningError",
    "ResearchUnconfirmedError",
    "Source",
    "StillRunningError",
    "TextStream",
    "ToolCall",
    "ToolCallingResult",
    "Turn",
    "Usage",
    "file_part",
]


if not TYPE_CHECKING:  # it would let any name pass

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("litellm-openai-example")
        home = next((module for module, names in _NAMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
