"""The official client on a LiteLLM gateway: change the import, keep the rest of the program.

from litellm_openai_example import LiteLLM as OpenAI

Longer than other files, because every argument is typed out for both clients.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypedDict, Unpack

import openai
from openai import (
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    DefaultHttpxClient,
    NotGiven,
    Omit,
    OpenAI,
    Timeout,
    not_given,
    omit,
)

from .config import ConfigurationError, resolve_api_key, resolve_base_url
from .diagnosis import explain
from .errors import UNKNOWN, ErrorKind, UnusableSettingError
from .http_library import httpx
from .json_object import JsonObject
from .payer import NOBODY, Payer, resolve_payer
from .transport.environment import check_host, tls_options
from .transport.http_clients import AsyncLiteLLMHttpxClient, LiteLLMHttpxClient
from .transport.policy import sdk_call

# Drops the headers in which the SDK describes the machine it runs on. LiteLLM forwards no `x-stainless-` header (its
# `_get_forwardable_headers`), and these seven of 17 headers take some 5 % of a call's time. The User-Agent still names
# the client and the version of the SDK.
NO_PLATFORM: Mapping[str, Any] = {
    f"X-Stainless-{name}": omit
    for name in ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
}


# The fields that LiteLLM drops, by the path of the create. tests/e2e/test_fields_real.py finds them by posting every
# field of the SDK's methods. 1.108.12 drops all of them; 1.110.2 passes `moderation` and `prompt_cache_retention` on.
DROPPED: Mapping[str, tuple[str, ...]] = {
    "/responses": ("access_programs", "background_options", "conversation", "image", "moderation"),
    "/chat/completions": ("prompt_cache_retention",),
}


class SDKOptions(TypedDict, total=False):
    """The options that are passed on to `openai.OpenAI`. An older SDK lacks some of them."""

    organization: str | None
    project: str | None
    webhook_secret: str | None
    admin_api_key: str | None
    default_headers: Mapping[str, str] | None
    default_query: Mapping[str, object] | None
    websocket_base_url: str | httpx.URL | None
    workload_identity: Any
    provider: Any
    data_residency: Any
    _strict_response_validation: bool
    _enforce_credentials: Any


class CopyOptions(SDKOptions, total=False):
    """The options of `copy` and `with_options`, besides the key and the HTTP client."""

    base_url: str | httpx.URL | NotGiven | None
    timeout: float | Timeout | NotGiven | None
    max_retries: int | NotGiven
    retry_server_errors: bool
    payer: Payer
    set_default_headers: Mapping[str, str] | None
    set_default_query: Mapping[str, object] | None
    _extra_kwargs: Mapping[str, Any]


class LiteLLM(OpenAI):
    """`openai.OpenAI` on a LiteLLM gateway; every resource and option of the SDK is there, unchanged.

    Fields that LiteLLM would drop reach the provider (see `DROPPED` in `sdk.py`), and a background response is stored
    unless `store` says otherwise: False, or None for the provider's default.

    The SDK's variables (`OPENAI_API_KEY`, `OPENAI_ORG_ID`, `OPENAI_CUSTOM_HEADERS`, ...) belong to an account at
    OpenAI, not at the gateway, and are not read.

    Args:
        base_url: the gateway's root, `/v1` or path prefix; otherwise `LITELLM_BASE_URL`.
        api_key: a gateway key, or a function that returns one; otherwise `LITELLM_API_KEY`.
        timeout: seconds of one read, as in the SDK. It also bounds the whole call, retries included, unless the call
            streams or carries a file.
        max_retries: the most retries of a call. A call that may have been executed is never retried.
        retry_server_errors: retry a create that was answered with 500. It may have been executed, so it may be paid
            for twice; background submits are never retried. Clients made by `with_options` inherit the setting.
        payer: the tags, end user and session that LiteLLM bills every call to; otherwise those in `LITELLM_TAGS` and
            `LITELLM_END_USER`. `default_headers` take precedence.
        max_answer: the most bytes to read of one answer; a longer one is cut off there. None for no limit.
        http_client: a `LiteLLMHttpxClient`, which accepts `proxy`, `verify` and so on. With any other client nothing
            is retried, because the sending policy is missing.
        **options: those of `openai.OpenAI`: `organization`, `project`, `webhook_secret`, `admin_api_key`,
            `default_headers`, `default_query`, `websocket_base_url`, and any other that the installed SDK accepts.

    Raises:
        ConfigurationError: the address or the key is missing or unusable. It is also an `openai.OpenAIError`.
    """

    retry_server_errors = False
    payer = NOBODY

    def __init__(
        self,
        *,
        base_url: str | httpx.URL | NotGiven | None = None,
        api_key: str | Callable[[], str] | None = None,
        timeout: float | Timeout | NotGiven | None = not_given,
        max_retries: int = openai.DEFAULT_MAX_RETRIES,
        retry_server_errors: bool = False,
        payer: Payer | None = None,
        max_answer: int | None = None,
        http_client: DefaultHttpxClient | None = None,
        **options: Unpack[SDKOptions],
    ) -> None:
        self.retry_server_errors = retry_server_errors
        with _as_sdk_errors():
            _check_options(OpenAI.__init__, options)
            resolved, key = _address(base_url), _key(api_key)
            self.payer = resolve_payer() if payer is None else payer
            if http_client is None:
                http_client = LiteLLMHttpxClient(**_transport(resolved, timeout, max_answer))
        super().__init__(
            base_url=resolved,
            api_key=key,
            timeout=timeout,
            max_retries=max_retries if isinstance(http_client, LiteLLMHttpxClient) else 0,
            http_client=http_client,
            **options,
        )
        _keep_only(self, options)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request of any resource; see `openai.OpenAI.request`."""
        options = _options(args, kwargs)
        create = _Create(options)
        with sdk_call(_timeout(self, options), retry_server_errors=self.retry_server_errors):
            while True:
                try:
                    return super().request(*args, **kwargs)
                except openai.APIStatusError as error:
                    if not create.drop_refused_store(error):
                        _say_if_unknown(error)
                        raise

    def copy(
        self,
        *,
        api_key: str | Callable[[], str] | None = None,
        http_client: DefaultHttpxClient | None = None,
        **options: Unpack[CopyOptions],
    ) -> Self:
        """Return a client with some options replaced; see `openai.OpenAI.copy`.

        Args:
            api_key: a gateway key, or a function that returns one.
            http_client: as for the class.
            **options: the other options of the class. `default_headers` and `default_query` add to the mappings of
                this client, `set_default_headers` and `set_default_query` replace them.
        """
        return super().copy(api_key=api_key, http_client=http_client, **_copied(self, OpenAI.copy, options))

    with_options = copy


class AsyncLiteLLM(AsyncOpenAI):
    """`openai.AsyncOpenAI` on a LiteLLM gateway, with the arguments of `LiteLLM`."""

    retry_server_errors = False
    payer = NOBODY

    def __init__(
        self,
        *,
        base_url: str | httpx.URL | NotGiven | None = None,
        api_key: str | Callable[[], Awaitable[str]] | None = None,
        timeout: float | Timeout | NotGiven | None = not_given,
        max_retries: int = openai.DEFAULT_MAX_RETRIES,
        retry_server_errors: bool = False,
        payer: Payer | None = None,
        max_answer: int | None = None,
        http_client: DefaultAsyncHttpxClient | None = None,
        **options: Unpack[SDKOptions],
    ) -> None:
        self.retry_server_errors = retry_server_errors
        with _as_sdk_errors():
            _check_options(AsyncOpenAI.__init__, options)
            resolved, key = _address(base_url), _key(api_key)
            self.payer = resolve_payer() if payer is None else payer
            if http_client is None:
                http_client = AsyncLiteLLMHttpxClient(**_transport(resolved, timeout, max_answer))
        super().__init__(
            base_url=resolved,
            api_key=key,
            timeout=timeout,
            max_retries=max_retries if isinstance(http_client, AsyncLiteLLMHttpxClient) else 0,
            http_client=http_client,
            **options,
        )
        _keep_only(self, options)

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request of any resource; see `openai.AsyncOpenAI.request`."""
        options = _options(args, kwargs)
        create = _Create(options)
        with sdk_call(_timeout(self, options), retry_server_errors=self.retry_server_errors):
            while True:
                try:
                    return await super().request(*args, **kwargs)
                except openai.APIStatusError as error:
                    if not create.drop_refused_store(error):
                        _say_if_unknown(error)
                        raise

    def copy(
        self,
        *,
        api_key: str | Callable[[], Awaitable[str]] | None = None,
        http_client: DefaultAsyncHttpxClient | None = None,
        **options: Unpack[CopyOptions],
    ) -> Self:
        """See `LiteLLM.copy`."""
        return super().copy(api_key=api_key, http_client=http_client, **_copied(self, AsyncOpenAI.copy, options))

    with_options = copy


@contextmanager
def _as_sdk_errors() -> Iterator[None]:
    """Turn a `ConfigurationError` inside the block into one that programs written for the SDK catch, too."""
    try:
        yield
    except ConfigurationError as error:
        if isinstance(error, openai.OpenAIError):
            raise
        raise UnusableSettingError(str(error)) from error


def _address(base_url: str | httpx.URL | NotGiven | None) -> str:
    given = None if base_url is None or isinstance(base_url, NotGiven) else str(base_url)
    return check_host(resolve_base_url(given))


def _key(api_key: Any) -> Any:
    return api_key if callable(api_key) else resolve_api_key(api_key)


def _transport(base_url: str, timeout: float | Timeout | NotGiven | None, max_answer: int | None) -> dict[str, Any]:
    seconds = openai.DEFAULT_TIMEOUT if isinstance(timeout, NotGiven) else timeout
    return tls_options(base_url, {"timeout": seconds, "max_answer": max_answer})


def _check_options(method: Callable[..., object], options: Mapping[str, object]) -> None:
    """Raise ConfigurationError for an option that the installed release of the SDK does not have yet."""
    if not options:
        return
    for name in options.keys() - inspect.signature(method).parameters.keys():
        if name in CopyOptions.__annotations__:
            raise ConfigurationError(f"{name} needs a newer openai than {openai.__version__}")


def _keep_only(client: LiteLLM | AsyncLiteLLM, given: SDKOptions) -> None:
    """Undo the settings that the SDK read from its environment variables: they would go to the gateway."""
    client.organization, client.project = given.get("organization"), given.get("project")
    client.admin_api_key, client.webhook_secret = given.get("admin_api_key"), given.get("webhook_secret")
    client._custom_headers = {**client.payer.headers, **(given.get("default_headers") or {})}


def _copied(client: LiteLLM | AsyncLiteLLM, method: Callable[..., object], options: CopyOptions) -> dict[str, Any]:
    given: dict[str, Any] = {**options}
    ours = {name: given.pop(name, getattr(client, name)) for name in ("retry_server_errors", "payer")}
    with _as_sdk_errors():
        _check_options(method, given)
    return {**given, "_extra_kwargs": {**ours, **given.get("_extra_kwargs", {})}}


def _options(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the SDK's options of a call from the arguments of `request`."""
    return kwargs.get("options", args[1] if len(args) > 1 else None)


def _timeout(client: OpenAI | AsyncOpenAI, options: Any) -> float | Timeout | None:
    timeout = getattr(options, "timeout", NotGiven())
    return client.timeout if isinstance(timeout, NotGiven) else timeout


def _say_if_unknown(error: openai.APIStatusError) -> None:
    if explain(error).outcome_unknown:
        error.message = f"{error.message} ({UNKNOWN})"
        error.args = (error.message,)


class _Create:
    """A call of the SDK, its body completed if it is a create, so that the provider gets every field.

    LiteLLM drops some fields without an error. It merges the body's `extra_body` object, its documented way to reach
    a provider, into the request it sends, so each of those fields is copied there as well. A provider that LiteLLM
    bridges to another API gets them too, and refuses those it does not know. That is better than to pay for less than
    was asked for.

    A background create asks the provider to store the response: in some projects OpenAI deletes one without an explicit
    `store: true` ten minutes after its end, read or not.

    Args:
        options: the SDK's options of the call. A body that is not a JSON object, and any other call, stay unchanged.
    """

    def __init__(self, options: Any) -> None:
        self._options = options
        self._stored = False
        path = _create_path(options)
        body = _create_body(options) if path else None
        if path and body is not None:
            self._stored = _wants_store(path, body)
            if self._stored:
                self._add(store=True)
            elif "store" in body and body["store"] is None:
                # The provider decides, as if the field were absent.
                self._add(store=omit)
            inner = _extra_body(path, body)
            if inner is not None:
                self._add(extra_body=inner)

    def drop_refused_store(self, error: openai.APIStatusError) -> bool:
        """Remove `store` from the body if it was added here and `error` refuses it. Return True if it was removed.

        Such an error is a 400 or 422, so the request was not executed and can be repeated.
        """
        if not self._stored or explain(error).kind is not ErrorKind.UNSUPPORTED_STORE:
            return False
        self._stored = False
        self._add(store=omit)
        return True

    def _add(self, **fields: object) -> None:
        self._options.extra_json = {**(self._options.extra_json or {}), **fields}


def _extra_body(path: str, body: JsonObject) -> JsonObject | None:
    """Return the `extra_body` of a body with the fields that LiteLLM drops, or None if it needs no change.

    Args:
        path: a key of `DROPPED`.
        body: the body of the create. Fields in its own `extra_body` take precedence.
    """
    inner = body.get("extra_body")
    carried = {name: body[name] for name in DROPPED[path] if body.get(name) is not None}
    if path == "/chat/completions" and body.get("store") is True and isinstance(body.get("metadata"), Mapping):
        # On this path LiteLLM keeps `metadata` (tags, trace ids) to itself. Providers accept only texts in it, and only
        # with a completion that they store.
        carried["metadata"] = {name: value for name, value in body["metadata"].items() if isinstance(value, str)}
    if not carried or not isinstance(inner, Mapping | None):
        return None
    return {**carried, **(inner or {})}


def _create_path(options: Any) -> str | None:
    if str(getattr(options, "method", "")).upper() != "POST":
        return None
    path = "/" + str(options.url).partition("?")[0].strip("/")
    return next((known for known in DROPPED if path.endswith(known)), None)


def _create_body(options: Any) -> JsonObject | None:
    """Return the JSON object that the SDK would send: the fields of the method, overridden by its `extra_body`."""
    fields, further = options.json_data or {}, options.extra_json or {}
    if not isinstance(fields, Mapping) or not isinstance(further, Mapping):
        return None
    return {name: value for name, value in {**fields, **further}.items() if not isinstance(value, Omit)}


def _wants_store(path: str, body: JsonObject) -> bool:
    inner = body.get("extra_body")
    said = "store" in body or (isinstance(inner, Mapping) and "store" in inner)
    return path == "/responses" and body.get("background") is True and not said
