"""What each gateway answer means: its kind for programs, cause, hint and support ids for a person.

`explain` turns any exception of the SDK, and the gateway's JSON behind it, into a `GatewayError`. The wire facts were
measured with LiteLLM 1.106.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx2
import openai

from .errors import DeadlineExceededError, ErrorKind, GatewayError, LostAnswerError, one_line, redact

_SUPPORT_IDS = ("x-litellm-call-id", "llm_provider-x-request-id", "x-request-id")


@dataclass(frozen=True)
class _Report:
    """An error as it arrived: the gateway's own words, and the provider's that LiteLLM wrapped up in them."""

    status: int | None
    content_type: str
    delay: float | None
    type: str = ""
    code: str = ""
    message: str = ""
    param: str = ""
    provider_code: str = ""
    from_provider: bool = False
    everything: str = ""

    def says(self, *words: str) -> bool:
        return any(word in self.everything for word in words)

    def refuses(self, param: str, pattern: str) -> bool:
        """Whether a request was refused because of a parameter, told by its name or by the words about it."""
        if self.status not in (400, 422) or not self.says(*_UNSUPPORTED):
            return False
        return bool(re.match(param, self.param) or re.search(pattern, self.everything))

    @property
    def html(self) -> bool:
        start = self.message.lstrip()[:15].lower()
        return "html" in self.content_type or start.startswith(("<!doctype", "<html"))


_STREAM = r"\bstream(ing)?\b"
_UNSUPPORTED = (
    "not support",
    "unsupported",
    "not enabled",
    "invalid value",
    "unknown",
    "unrecognized",
    "not permitted",
)


class _Row(NamedTuple):
    """One line of the table."""

    fits: Callable[[_Report], bool]
    kind: ErrorKind
    cause: str
    hint: str = ""


# The first row that fits explains an error. Rows about a cause come before those about a bare status. This is the one
# place that may test the words of a gateway; everybody else asks for the kind.
_ROWS: Sequence[_Row] = (
    _Row(
        lambda r: r.says("budget has been exceeded", "budget_exceeded", "exceededbudget"),
        ErrorKind.BUDGET,
        "the budget of this key is spent",
        "ask the people who run the gateway to raise it",
    ),
    _Row(
        lambda r: r.says("no_db_connection", "no connected db", "token_not_found_in_db"),
        ErrorKind.BAD_KEY,
        "the gateway does not know this key",
        "check LITELLM_API_KEY",
    ),
    _Row(
        lambda r: r.says("all_deployments_in_cooldown", "no deployments available"),
        ErrorKind.RATE_LIMIT,
        "the gateway has paused this model after an earlier failure",
        "wait a few seconds and retry; if it persists, look for the first error (often a provider key)",
    ),
    _Row(
        lambda r: (
            r.says("model=none", "previous_response_not_found")
            or (r.says("response with id") and r.says("not found"))
            or (r.status == 403 and r.says("permission_error", "response id"))
        ),
        ErrorKind.UNKNOWN_RESPONSE,
        "the gateway does not know that response id",
        "use the id as create printed it, with the same gateway and key (results are kept for some minutes only)",
    ),
    _Row(
        lambda r: r.says(
            "invalid model name",
            "you passed in model=",
            "model_not_found",
            "key_model_access_denied",
            "can only access models",
        ),
        ErrorKind.UNKNOWN_MODEL,
        "the gateway has no such model for this key",
        "check --model or LITELLM_MODEL",
    ),
    _Row(
        lambda r: r.says("require at least one of") and r.says("web_search"),
        ErrorKind.MISSING_TOOL,
        "this model does not work without a tool to search with",
        "give it one: --web-search, or tools=[{'type': 'web_search_preview'}]",
    ),
    _Row(
        lambda r: r.refuses(r"reasoning", r"\breasoning"),
        ErrorKind.UNSUPPORTED_REASONING,
        "this model does not take `reasoning`",
        "leave it out, or choose a model that reasons",
    ),
    _Row(
        lambda r: r.refuses(r"tools\b.*\btype$", r"\btools?\b|web[_ ]search"),
        ErrorKind.UNSUPPORTED_TOOL,
        "this model does not take that tool",
        "leave it out, or choose another model",
    ),
    _Row(
        lambda r: r.refuses(r"stream$", _STREAM),
        ErrorKind.UNSUPPORTED_STREAM,
        "this model does not stream here",
        "leave streaming out (--no-stream)",
    ),
    _Row(
        lambda r: r.says("is not supported for"),
        ErrorKind.NOT_SUPPORTED,
        "this model does not support that here",
        "the gateway bridges it to another API: background, retrieve and cancel need a native Responses model",
    ),
    _Row(
        lambda r: r.says("context_length_exceeded", "contextwindowexceeded"),
        ErrorKind.TOO_LARGE,
        "the prompt is too long for this model",
        "shorten it or choose a model with a larger context",
    ),
    _Row(
        lambda r: r.says("content_policy_violation", "contentpolicyviolation", "content_filter"),
        ErrorKind.POLICY,
        "the provider's content policy refused the request",
        "rephrase the prompt",
    ),
    _Row(
        lambda r: r.status == 401 and r.from_provider,
        ErrorKind.PROVIDER_KEY,
        "the provider does not accept the gateway's own key",
        "the people who run the gateway must check the provider key of this model",
    ),
    _Row(
        lambda r: r.status == 401,
        ErrorKind.BAD_KEY,
        "the gateway does not accept this key",
        "check LITELLM_API_KEY",
    ),
    _Row(
        lambda r: r.status == 500 and "text/plain" in r.content_type,
        ErrorKind.SERVER,
        "the gateway failed",
        "a LiteLLM without its database package answers any wrong key like this: check LITELLM_API_KEY",
    ),
    _Row(
        lambda r: r.status == 404 and r.message in ("Not Found", ""),
        ErrorKind.WRONG_ADDRESS,
        "the gateway has nothing at that path",
        "check the path in LITELLM_BASE_URL (its root, or the prefix before /v1)",
    ),
    _Row(
        lambda r: r.status == 404 and r.html,
        ErrorKind.WRONG_ADDRESS,
        "no gateway at that address",
        "check LITELLM_BASE_URL",
    ),
    _Row(
        lambda r: r.status == 403, ErrorKind.FORBIDDEN, "the gateway does not permit this", "check what this key may do"
    ),
    _Row(lambda r: r.status == 404, ErrorKind.NOT_FOUND, "the gateway did not find it", "check the id and the model"),
    _Row(lambda r: r.status == 408, ErrorKind.TIMEOUT, "the provider did not answer the gateway in time", ""),
    _Row(
        lambda r: r.status == 413, ErrorKind.TOO_LARGE, "the request is too large for the gateway", "shorten the prompt"
    ),
    _Row(lambda r: r.status == 429, ErrorKind.RATE_LIMIT, "too many requests", "wait and try again"),
    _Row(lambda r: r.status == 402, ErrorKind.BUDGET, "the gateway asks for payment", "check the budget of this key"),
    _Row(
        lambda r: r.status == 503,
        ErrorKind.UNAVAILABLE,
        "the gateway or the provider is overloaded",
        "wait and try again",
    ),
    _Row(
        lambda r: r.status in (502, 504),
        ErrorKind.SERVER,
        "something between here and the provider failed",
        "look into the gateway's log before sending it again",
    ),
    _Row(
        lambda r: r.status is not None and 300 <= r.status < 400,
        ErrorKind.WRONG_ADDRESS,
        "the gateway answers with a redirect",
        "",
    ),
    _Row(
        lambda r: r.status is not None and r.status >= 500, ErrorKind.SERVER, "the gateway or the provider failed", ""
    ),
    _Row(
        lambda r: r.status == 400 and re.search(_STREAM, r.everything) is not None,
        ErrorKind.UNSUPPORTED_STREAM,
        "the gateway refused the request",
    ),
    _Row(
        lambda r: r.status is not None and r.status >= 400, ErrorKind.BAD_REQUEST, "the gateway refused the request", ""
    ),
    _Row(lambda _: True, ErrorKind.OTHER, "the gateway reported an error", ""),
)


def explain(error: Exception, *, secret: str | None = None) -> GatewayError:
    """What an exception of the SDK, or one met while reading an answer, means to a person.

    Args:
        error: anything that a call through the SDK can raise.
        secret: the key, taken out of whatever the gateway said.
    """
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, openai.APIStatusError):
        explained = _explain_status(error)
    elif isinstance(error, LostAnswerError | DeadlineExceededError):
        kind = ErrorKind.LOST if isinstance(error, LostAnswerError) else ErrorKind.TIMEOUT
        explained = GatewayError(error.what, kind=kind, hint=_unknown_hint(error.outcome_unknown))
        explained.outcome_unknown = error.outcome_unknown
    elif isinstance(error, openai.APITimeoutError):
        explained = GatewayError("the gateway stopped answering", kind=ErrorKind.TIMEOUT)
    elif isinstance(error, openai.APIConnectionError):
        explained = _explain_connection(error)
    elif isinstance(error, openai.APIError):
        explained = explain_body({"error": error.body or str(error)})
    elif isinstance(error, httpx2.TimeoutException):  # while a stream is read
        reason = one_line(str(error)) or "no data in time"
        explained = GatewayError(f"the gateway stopped answering: {reason}", kind=ErrorKind.TIMEOUT)
    elif isinstance(error, httpx2.RequestError):
        reason = one_line(str(error)) or type(error).__name__
        explained = GatewayError(f"the connection broke: {reason}", kind=ErrorKind.LOST)
    else:
        explained = GatewayError(
            f"the gateway's answer cannot be read: {one_line(str(error))}",
            kind=ErrorKind.UNREADABLE,
            hint="check that LITELLM_BASE_URL is a LiteLLM gateway",
        )
    return redact(explained, secret)


def explain_body(body: object, *, status: int | None = None) -> GatewayError:
    """What an error in the JSON of an answer means (a 200 answer or a stream may hold one)."""
    return _explain_report(_read_report(body, status, ""), {})


def _explain_status(error: openai.APIStatusError) -> GatewayError:
    headers = error.response.headers
    content_type = headers.get("content-type", "")
    report = _read_report(error.body, error.status_code, content_type, error.response.extensions.get("retry_after"))
    explained = _explain_report(report, _support_ids(headers))
    explained.outcome_unknown = bool(error.response.extensions.get("outcome_unknown"))
    if explained.kind is ErrorKind.NOT_SUPPORTED:  # LiteLLM says 500 for that, before it sends anything
        explained.outcome_unknown = False
    if 300 <= error.status_code < 400:
        explained.hint = f"set LITELLM_BASE_URL to its final address{_target(error.response)}"
    return explained


def _explain_connection(error: openai.APIConnectionError) -> GatewayError:
    if error.__cause__ is None:
        return GatewayError(one_line(error.message))
    reason = one_line(str(error.__cause__)) or type(error.__cause__).__name__
    url = error.request.url
    port = "" if url.port is None else f":{url.port}"
    if isinstance(error.__cause__, httpx2.ProxyError):
        return GatewayError(
            f"the proxy refused: {reason}",
            kind=ErrorKind.UNREACHABLE,
            hint="check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
        )
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return GatewayError(
            f"the certificate of {url.host}{port} is not trusted",
            kind=ErrorKind.UNREACHABLE,
            hint="set SSL_CERT_FILE to the certificate authority of that gateway",
        )
    if isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout) and (proxy := _proxy_for(url)):
        return GatewayError(
            f"cannot connect to {url.host}{port} through the proxy {proxy}: {reason}",
            kind=ErrorKind.UNREACHABLE,
            hint="check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY",
        )
    if isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
        return GatewayError(
            f"cannot connect to {url.host}{port}: {reason}",
            kind=ErrorKind.UNREACHABLE,
            hint="is the gateway running, and is LITELLM_BASE_URL right? "
            "`python -m litellm_openai_example.gateway` starts one here",
        )
    return GatewayError(f"the connection to {url.host}{port} broke: {reason}", kind=ErrorKind.LOST)


def _proxy_for(url: httpx2.URL) -> str:
    """Host and port of the proxy that the environment names for an address, without its password; empty if none."""
    from urllib.request import getproxies, proxy_bypass  # only where something has failed

    try:
        proxies = getproxies()
        proxy = httpx2.URL(proxies.get(url.scheme) or proxies.get("all") or "")
        if not proxy.host or proxy_bypass(url.host):
            return ""
    except (httpx2.InvalidURL, ValueError, OSError):
        return ""
    return proxy.host if proxy.port is None else f"{proxy.host}:{proxy.port}"


def _explain_report(report: _Report, support_ids: Mapping[str, str]) -> GatewayError:
    _, kind, cause, hint = next(row for row in _ROWS if row.fits(report))
    if report.status == 429 and report.delay is not None:
        hint = f"{hint}; the gateway says to retry after {report.delay:.4g} s"
    code = report.provider_code or report.code
    if code == str(report.status):  # LiteLLM repeats the status there
        code = report.type
    return GatewayError(
        cause,
        kind=kind,
        status=report.status,
        code=one_line(code) or None,
        message="(an HTML page)" if report.html else one_line(report.message),
        hint=hint,
        support_ids=support_ids,
        retry_after=report.delay,
    )


def _read_report(body: object, status: int | None, content_type: str, delay: float | None = None) -> _Report:
    error = body
    if isinstance(body, dict):
        error = body.get("error") or body.get("detail") or body
    if not isinstance(error, dict):
        text = error if isinstance(error, str) else "" if error is None else json.dumps(error, ensure_ascii=False)
        return _Report(status, content_type, delay, message=text, everything=text.lower())
    message, type_, code = (_text(error.get(name)) for name in ("message", "type", "code"))
    wrapped = _provider_error(message)
    return _Report(
        status,
        content_type,
        delay,
        type=type_,
        code=code,
        message=_text(wrapped.get("message")) or message,
        param=_text(wrapped.get("param")) or _text(error.get("param")),
        provider_code=_text(wrapped.get("code")) or _text(wrapped.get("type")),
        from_provider=bool(wrapped) or "Exception - " in message or message.startswith("litellm."),
        everything=f"{type_} {code} {message}".lower(),
    )


def _provider_error(message: str) -> dict[str, Any]:
    """The provider's own error object, which LiteLLM puts as JSON into its message after `Exception - `."""
    found = re.search(r"Exception - .*?(\{)", message, re.DOTALL)
    if not found:
        return {}
    try:
        inner, _ = json.JSONDecoder().raw_decode(message, found.start(1))
    except (ValueError, RecursionError):
        return {}
    error = inner.get("error", inner) if isinstance(inner, dict) else {}
    return error if isinstance(error, dict) else {"message": error}


def _support_ids(headers: httpx2.Headers) -> dict[str, str]:
    return {name: one_line(headers[name])[:100] for name in _SUPPORT_IDS if headers.get(name)}


def _target(response: httpx2.Response) -> str:
    try:
        host = httpx2.URL(response.headers.get("location", "")).host
    except (httpx2.InvalidURL, ValueError):
        return ""
    return f" (it points to {one_line(host)})" if host else ""


def _unknown_hint(outcome_unknown: bool) -> str:
    return "look into the gateway's log before sending it again" if outcome_unknown else ""


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""
