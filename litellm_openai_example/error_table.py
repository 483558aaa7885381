"""The error table: the kind of error behind each message, status and parameter of a gateway.

The wire facts were measured with LiteLLM 1.106. No other module of the package tests the words of a gateway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .errors import ErrorKind
from .json_object import JsonObject


@dataclass(frozen=True)
class Report:
    """An error as received: the gateway's fields, and those of the provider's error that LiteLLM embedded in them."""

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

    def refuses(self, field: str, words: str, *, param: str = "", said: Sequence[str] = ()) -> bool:
        """Return True if the request was refused because of a field.

        Args:
            field: one of `_REFUSABLE`. If the gateway names one of these as the parameter, that alone decides.
            words: a pattern for the message, if the gateway names no parameter or another one.
            param: a pattern for the parameter's name, if its beginning does not suffice.
            said: phrases of a refusal, in addition to `_UNSUPPORTED`.
        """
        if self.status not in (400, 422):
            return False
        named = next((name for name in _REFUSABLE if self.param.startswith(name)), "")
        if named and (named != field or re.match(param or field, self.param)):
            return named == field
        return self.says(*_UNSUPPORTED, *said) and bool(re.search(words, self.everything))

    def refuses_window(self) -> bool:
        """Return True if the request was refused because of its discount window, `background_options`.

        A 403 or 404 too: a provider may sell the window to some projects only.
        """
        if self.status not in (400, 403, 404, 422):
            return False
        named = next((name for name in _REFUSABLE if self.param.startswith(name)), "")
        return named == "background_options" if named else self.says("background_options", "completion_window")

    @property
    def html(self) -> bool:
        """Is the error a web page?"""
        return is_web_page({"content-type": self.content_type}, self.message.encode(errors="replace"))


# A page begins with a tag; `<|` begins a token of a model, which an error may quote.
PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?!\|)")
_STREAM = r"\bstream(ing)?\b"
# Fields whose refusal has a separate row: the beginnings of the providers' parameter names.
_REFUSABLE = ("reasoning", "tool", "store", "stream", "background_options")
_UNSUPPORTED = (
    "not support",
    "n't support",
    "unsupported",
    "not enabled",
    "invalid value",
    "unknown",
    "unrecognized",
    "not permitted",
)
# Further phrases for fields that we add ourselves. To mistake another refusal for one of these does no harm: the repeat
# without the field is refused as well.
_REFUSED = (
    *("not available", "not allowed", "not accept", "n't accept", "not recognized", "not implemented", "unexpected"),
    *("not a valid", "not valid", "is invalid", "must be", "should be", "cannot", "disabled", "zero data retention"),
)
# LiteLLM renames the effort for a bridged model, and OpenAI may quote only its value.
_REASONING = r"\breasoning|\bthinking|\beffort\b"
_EFFORT = r"\bvalue: '(minimal|low|medium|high|xhigh|max)'"
# A vector store is another thing.
_STORE = r"(?<!vector )(?<!vector_)\bstore\b|\bstoring\b"


# Fields with the message of an error, the most specific first: OpenAI, FastAPI, AWS, OAuth, problem+json, Apigee.
_WORDS = (
    *("message", "Message", "detail", "msg", "error_message", "error_msg", "errorMessage", "error_description"),
    *("faultstring", "status_msg", "title", "reason"),
)
# Fields with an object, or a list of objects, that has such a field: Azure, Cloudflare, Apigee, MiniMax.
_AROUND_WORDS = ("innererror", "error", "errors", "fault", "base_resp")
# Codes and types of errors that come with a 4xx, or with a 200 in place of one.
_LASTING = re.compile("invalid_request|not_found|expired|deleted|permission|authentication|invalid_api_key")
_DEEPEST_ERROR = 4  # levels of errors within errors


class Row(NamedTuple):
    """A row of the table."""

    fits: Callable[[Report], bool]
    kind: ErrorKind
    cause: str
    hint: str = ""


# The first matching row explains an error. Rows about a cause precede those about a bare status.
ROWS: Sequence[Row] = (
    Row(
        lambda r: r.says("budget has been exceeded", "budget_exceeded", "exceededbudget"),
        ErrorKind.BUDGET,
        "the budget of this key is spent",
        "ask the people who run the gateway to raise it",
    ),
    Row(
        lambda r: r.says("no_db_connection", "no connected db", "token_not_found_in_db"),
        ErrorKind.BAD_KEY,
        "the gateway does not know this key",
        "check LITELLM_API_KEY",
    ),
    Row(
        lambda r: r.says("all_deployments_in_cooldown", "no deployments available"),
        ErrorKind.RATE_LIMIT,
        "the gateway has paused this model after an earlier failure",
        "wait a few seconds and retry; if it persists, look for the first error (often a provider key)",
    ),
    Row(
        lambda r: (
            r.says("model=none", "previous_response_not_found")
            or (r.says("response with id") and r.says("not found"))
            or (r.status == 403 and r.says("permission_error", "response id"))
        ),
        ErrorKind.UNKNOWN_RESPONSE,
        "the gateway does not know that response id",
        "use the id as create printed it, with the same gateway and key (results are kept for some minutes only)",
    ),
    Row(
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
    Row(
        lambda r: r.says("require at least one of") and r.says("web_search"),
        ErrorKind.MISSING_TOOL,
        "this model does not work without a tool to search with",
        "give it one: --web-search, or tools=[{'type': 'web_search_preview'}]",
    ),
    # The one error below 500 after which the provider has executed the request: LiteLLM answers with 422 or 400.
    Row(
        lambda r: r.says("error converting to valid response", "unable to get json response"),
        ErrorKind.SERVER,
        "the gateway could not read the provider's answer",
        "look into the gateway's log before sending it again",
    ),
    # Before the fields that a request is repeated without: the message may name them too.
    Row(
        lambda r: r.refuses_window(),
        ErrorKind.UNSUPPORTED_WINDOW,
        "this model does not take the discount window (`background_options.completion_window`)",
        "leave the window out, or choose a model and a project that have it",
    ),
    Row(
        lambda r: (
            r.refuses("reasoning", _REASONING, said=_REFUSED) or (not r.param and r.refuses("reasoning", _EFFORT))
        ),
        ErrorKind.UNSUPPORTED_REASONING,
        "this model does not take `reasoning`",
        "leave it out, or choose a model that reasons",
    ),
    Row(
        lambda r: r.refuses("tool", r"\btools?\b|web[_ ]search", param=r"tools\b.*\btype$"),
        ErrorKind.UNSUPPORTED_TOOL,
        "this model does not take that tool",
        "leave it out, or choose another model",
    ),
    Row(
        lambda r: r.refuses("store", _STORE, said=_REFUSED),
        ErrorKind.UNSUPPORTED_STORE,
        "the provider does not take `store` as it was sent",
        "leave it out (-o store=null, store=None)",
    ),
    Row(
        lambda r: r.refuses("stream", _STREAM, param=r"stream$"),
        ErrorKind.UNSUPPORTED_STREAM,
        "this model does not stream here",
        "leave streaming out (--no-stream)",
    ),
    Row(
        lambda r: r.says("is not supported for"),
        ErrorKind.NOT_SUPPORTED,
        "this model does not support that here",
        "the gateway bridges it to another API: background, retrieve and cancel need a native Responses model",
    ),
    Row(
        lambda r: r.says("context_length_exceeded", "contextwindowexceeded"),
        ErrorKind.TOO_LARGE,
        "the prompt is too long for this model",
        "shorten it or choose a model with a larger context",
    ),
    Row(
        lambda r: r.says("content_policy_violation", "contentpolicyviolation", "content_filter"),
        ErrorKind.POLICY,
        "the provider's content policy refused the request",
        "rephrase the prompt",
    ),
    Row(
        lambda r: r.status == 401 and r.from_provider,
        ErrorKind.PROVIDER_KEY,
        "the provider does not accept the gateway's own key",
        "the people who run the gateway must check the provider key of this model",
    ),
    Row(
        lambda r: r.status == 401,
        ErrorKind.BAD_KEY,
        "the gateway does not accept this key",
        "check LITELLM_API_KEY",
    ),
    Row(
        lambda r: r.status == 500 and "text/plain" in r.content_type,
        ErrorKind.SERVER,
        "the gateway failed",
        "a LiteLLM without its database package answers any wrong key like this: check LITELLM_API_KEY",
    ),
    Row(
        lambda r: r.status == 404 and r.message in ("Not Found", ""),
        ErrorKind.WRONG_ADDRESS,
        "the gateway has nothing at that path",
        "check the path in LITELLM_BASE_URL (its root, or the prefix before /v1)",
    ),
    Row(
        lambda r: r.status == 405,
        ErrorKind.WRONG_ADDRESS,
        "that path takes no such request",
        "check the path in LITELLM_BASE_URL (its root, or the prefix before /v1; not /ui, the page for people)",
    ),
    Row(
        lambda r: r.status == 404 and r.html,
        ErrorKind.WRONG_ADDRESS,
        "no gateway at that address",
        "check LITELLM_BASE_URL",
    ),
    Row(
        lambda r: r.status == 403, ErrorKind.FORBIDDEN, "the gateway does not permit this", "check what this key may do"
    ),
    Row(lambda r: r.status == 404, ErrorKind.NOT_FOUND, "the gateway did not find it", "check the id and the model"),
    Row(lambda r: r.status == 410, ErrorKind.NOT_FOUND, "it is gone for good", "it was deleted or has expired"),
    Row(lambda r: r.status == 408, ErrorKind.TIMEOUT, "the provider did not answer the gateway in time"),
    Row(
        lambda r: r.status == 413, ErrorKind.TOO_LARGE, "the request is too large for the gateway", "shorten the prompt"
    ),
    Row(lambda r: r.status == 429, ErrorKind.RATE_LIMIT, "too many requests", "wait and try again"),
    Row(lambda r: r.status == 402, ErrorKind.BUDGET, "the gateway asks for payment", "check the budget of this key"),
    Row(
        lambda r: r.status == 503,
        ErrorKind.UNAVAILABLE,
        "the gateway or the provider is overloaded",
        "wait and try again",
    ),
    Row(
        lambda r: r.status in (502, 504),
        ErrorKind.SERVER,
        "something between here and the provider failed",
        "look into the gateway's log before sending it again",
    ),
    Row(lambda r: 300 <= (r.status or 0) < 400, ErrorKind.WRONG_ADDRESS, "the gateway answers with a redirect"),
    Row(lambda r: (r.status or 0) >= 500, ErrorKind.SERVER, "the gateway or the provider failed"),
    Row(
        lambda r: r.status == 400 and re.search(_STREAM, r.everything) is not None,
        ErrorKind.UNSUPPORTED_STREAM,
        "the gateway refused the request",
    ),
    Row(lambda r: (r.status or 0) >= 400, ErrorKind.BAD_REQUEST, "the gateway refused the request"),
    Row(lambda _: True, ErrorKind.OTHER, "the gateway reported an error"),
)


def is_lasting(code: str | None) -> bool:
    """Return True if the code or type of an error without a status means that a repeat cannot change it."""
    return code is not None and _LASTING.search(code.lower()) is not None


def is_gateway_error(content: bytes) -> bool:
    """Return True if the body of an error comes from the gateway, not from a proxy or an ingress before it.

    LiteLLM's errors have OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, where all but the message
    may be null. Only for a wrong path it answers in FastAPI's shape, `{"detail": "Not Found"}`.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return False
    error = body.get("error") if isinstance(body, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str) and {"type", "code"} <= error.keys()


def is_web_page(headers: Mapping[str, str], content: bytes) -> bool:
    """Return True if a body that is not JSON is a web page, such as a proxy's sign-in page.

    Neither LiteLLM nor a relay answers with a page, so neither has seen the request. Any other unreadable body may be
    a provider's that LiteLLM passed on.
    """
    return PAGE.match(content) is not None or (
        "html" in headers.get("content-type", "").lower() and bool(content[:64].strip())
    )


def row_of(report: Report) -> Row:
    """Return the row of the table that explains an error."""
    return next(row for row in ROWS if row.fits(report))


def read_report(body: object, status: int | None, content_type: str, delay: float | None = None) -> Report:
    error = body
    if isinstance(body, dict):
        error = body.get("error") or body.get("detail") or body
        words = words_of({**body, "error": None})
        # OAuth: a code, with the message beside it.
        if isinstance(error, str) and words and words != error:
            error = {"code": error, "message": words}
    if not isinstance(error, dict):
        text = error if isinstance(error, str) else "" if error is None else json.dumps(error, ensure_ascii=False)
        return Report(status, content_type, delay, message=text, everything=text.lower())
    type_, code = _text(error.get("type")), _text(error.get("code"))
    message = _text(error.get("message")) or words_of(error)
    wrapped = _provider_error(message)
    return Report(
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


def words_of(error: object, depth: int = 0) -> str:
    """Return the message of an error in any shape that gateways and their proxies use; empty if it has none."""
    if isinstance(error, str):
        return error
    if depth > _DEEPEST_ERROR:
        return ""
    if isinstance(error, list):
        return next(filter(None, (words_of(one, depth + 1) for one in error)), "")
    if not isinstance(error, dict):
        return ""
    plain = (value for name in _WORDS if isinstance(value := error.get(name), str))
    nested = (words_of(error.get(name), depth + 1) for name in (*_WORDS, *_AROUND_WORDS) if error.get(name))
    return next(filter(None, plain), "") or next(filter(None, nested), "")


def _provider_error(message: str) -> JsonObject:
    """Return the provider's error object, which LiteLLM embeds as JSON in its message after `Exception - `."""
    found = re.search(r"Exception - .*?(\{)", message, re.DOTALL)
    if not found:
        return {}
    try:
        inner, _ = json.JSONDecoder().raw_decode(message, found.start(1))
    except (ValueError, RecursionError):
        return {}
    error = inner.get("error", inner) if isinstance(inner, dict) else {}
    return error if isinstance(error, dict) else {"message": error}


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""
