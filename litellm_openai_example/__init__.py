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

_HOMES = {
    "Answer": "calls.answer",
    "AskedReply": "many",
    "AsyncLiteLLM": "sdk",
    "AsyncLiteLLMClient": "client",
    "AsyncLiteLLMHttpxClient": "transport.http_clients",
    "AsyncRelayClient": "research.relay_client",
    "AsyncTextStream": "calls.streams",
    "ConfigurationError": "config",
    "CutShortError": "errors",
    "ErrorKind": "errors",
    "FunctionCall": "calls.answer",
    "GatewayError": "errors",
    "LiteLLM": "sdk",
    "LiteLLMClient": "client",
    "LiteLLMHttpxClient": "transport.http_clients",
    "RelayClient": "research.relay_client",
    "RelayError": "research.relay_answers",
    "Reply": "calls.reply",
    "ResearchRunningError": "research.relay_answers",
    "ResearchUnconfirmedError": "research.relay_answers",
    "Source": "calls.answer",
    "StillRunningError": "errors",
    "TextStream": "calls.streams",
    "ToolCall": "research.conversation",
    "ToolCallingResult": "research.conversation",
    "Turn": "research.conversation",
    "Usage": "calls.answer",
    "file_part": "attachments",
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
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
