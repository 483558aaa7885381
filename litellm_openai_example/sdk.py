"""The official client on a LiteLLM gateway: change the import, keep the rest of the program.

from litellm_openai_example import LiteLLM as OpenAI
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI, NotGiven, OpenAI

from .config import resolve_api_key, resolve_base_url
from .errors import UNKNOWN
from .network import reachable, trusting
from .sending import AsyncLiteLLMHttpxClient, LiteLLMHttpxClient, sdk_call


class LiteLLM(OpenAI):
    """`openai.OpenAI` on a LiteLLM gateway; every resource and option of the SDK is there, unchanged.

    Args:
        base_url: the gateway's root, `/v1` or path prefix; else `LITELLM_BASE_URL`.
        api_key: a gateway key, or a function that returns one; else `LITELLM_API_KEY`.
        **options: those of `openai.OpenAI`. `timeout` (seconds) also bounds a call as a whole, retries included,
            unless it streams or carries a file. An `http_client` should be a `LiteLLMHttpxClient`, which takes `proxy`,
            `verify` and so on; under any other one nothing is retried, because the sending policy is missing.

    Raises:
        ConfigurationError: the address or the key is missing or unusable.
    """

    def __init__(
        self,
        *,
        base_url: str | httpx2.URL | NotGiven | None = None,
        api_key: str | Callable[[], str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**_options(base_url, api_key, options, LiteLLMHttpxClient))

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """The one place through which all resources send; see `openai.OpenAI.request`."""
        with sdk_call(_timeout(self, args, kwargs)), _say_if_unknown():
            return super().request(*args, **kwargs)


class AsyncLiteLLM(AsyncOpenAI):
    """`openai.AsyncOpenAI` on a LiteLLM gateway; see `LiteLLM`."""

    def __init__(
        self,
        *,
        base_url: str | httpx2.URL | NotGiven | None = None,
        api_key: str | Callable[[], Awaitable[str]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**_options(base_url, api_key, options, AsyncLiteLLMHttpxClient))

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        """The one place through which all resources send; see `openai.AsyncOpenAI.request`."""
        with sdk_call(_timeout(self, args, kwargs)), _say_if_unknown():
            return await super().request(*args, **kwargs)


def _options(
    base_url: object,
    api_key: object,
    options: dict[str, Any],
    client_type: type[LiteLLMHttpxClient] | type[AsyncLiteLLMHttpxClient],
) -> dict[str, Any]:
    given = None if base_url is None or isinstance(base_url, NotGiven) else str(base_url)
    resolved = reachable(resolve_base_url(given))
    http_client = options.get("http_client")
    if http_client is None:
        own = trusting(resolved, {"timeout": options.get("timeout", openai.DEFAULT_TIMEOUT)})
        options["http_client"] = client_type(**own)
    elif not isinstance(http_client, client_type):
        options["max_retries"] = 0
    # The SDK would read OPENAI_ADMIN_KEY and send it along: a key of another house than the gateway's.
    options["admin_api_key"] = options.get("admin_api_key") or ""
    return {
        **options,
        "base_url": resolved,
        "api_key": api_key if callable(api_key) else resolve_api_key(api_key),  # type: ignore[arg-type]
    }


def _timeout(client: OpenAI | AsyncOpenAI, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    options = kwargs.get("options", args[1] if len(args) > 1 else None)
    timeout = getattr(options, "timeout", NotGiven())
    return client.timeout if isinstance(timeout, NotGiven) else timeout


@contextmanager
def _say_if_unknown() -> Iterator[None]:
    try:
        yield
    except openai.APIStatusError as error:
        if error.response.extensions.get("outcome_unknown"):
            error.message = f"{error.message} ({UNKNOWN})"
            error.args = (error.message,)
        raise
