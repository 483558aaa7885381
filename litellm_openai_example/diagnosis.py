"""Diagnosis of failed calls: a kind for programs; a cause, a hint and support ids for people.

`explain` turns any exception of the SDK, with the gateway's JSON behind it, into a `GatewayError`. The messages of
gateways are recognized in `error_table`.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping

import openai

from .config import starts_one
from .error_table import Report, read_report, row_of
from .errors import DeadlineExceededError, ErrorKind, GatewayError, LostAnswerError, one_line
from .http_library import httpx

# Codes of OpenSSL's X509_verify_cert.
_NOT_NOW = (9, 10)  # CERT_NOT_YET_VALID, CERT_HAS_EXPIRED
_OTHER_HOST = (62, 64)  # HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
_SUPPORT_IDS = ("x-litellm-call-id", "llm_provider-x-request-id", "x-request-id")


def explain(error: Exception) -> GatewayError:
    """Return the `GatewayError` for an exception of a call through the SDK or of reading its answer."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, openai.APIStatusError):
        return _explain_status(error)
    if isinstance(error, LostAnswerError | DeadlineExceededError):
        kind = ErrorKind.LOST if isinstance(error, LostAnswerError) else ErrorKind.TIMEOUT
        hint = "look into the gateway's log before sending it again" if error.outcome_unknown else ""
        return GatewayError(error.what, kind=kind, hint=hint, outcome_unknown=error.outcome_unknown)
    if isinstance(error, openai.APITimeoutError):
        return GatewayError("the gateway stopped answering", kind=ErrorKind.TIMEOUT)
    if isinstance(error, openai.APIConnectionError):
        return _explain_connection(error)
    if isinstance(error, openai.APIError):
        return explain_body({"error": error.body or str(error)})
    if isinstance(error, httpx.TimeoutException):  # while a stream is read
        reason = one_line(str(error)) or "no data in time"
        return GatewayError(f"the gateway stopped answering: {reason}", kind=ErrorKind.TIMEOUT)
    if isinstance(error, httpx.DecodingError):
        return GatewayError(f"the answer was lost: {one_line(str(error))}", kind=ErrorKind.UNREADABLE)
    if isinstance(error, httpx.RequestError):
        reason = one_line(str(error)) or type(error).__name__
        return GatewayError(f"the connection broke: {reason}", kind=ErrorKind.LOST)
    return GatewayError(
        f"the gateway's answer cannot be read: {one_line(str(error))}",
        kind=ErrorKind.UNREADABLE,
        hint="check that LITELLM_BASE_URL is a LiteLLM gateway",
    )


def explain_body(body: object) -> GatewayError:
    """Return the error for the JSON of an answer that reports one, which a 200 or a stream may do."""
    return _explain_report(read_report(body, None, ""), {})


def kind_of(response: httpx.Response) -> ErrorKind:
    """Return the kind of error of an answer whose body has been read."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        body = response.text
    content_type = response.headers.get("content-type", "")
    return row_of(read_report(body, response.status_code, content_type)).kind


def _explain_status(error: openai.APIStatusError) -> GatewayError:
    headers = error.response.headers
    content_type = headers.get("content-type", "")
    report = read_report(error.body, error.status_code, content_type, error.response.extensions.get("retry_after"))
    support_ids = {name: one_line(headers[name])[:100] for name in _SUPPORT_IDS if headers.get(name)}
    explained = _explain_report(report, support_ids)
    explained.outcome_unknown = bool(error.response.extensions.get("outcome_unknown"))
    # LiteLLM answers with 500 before it sends anything.
    if explained.kind is ErrorKind.NOT_SUPPORTED:
        explained.outcome_unknown = False
    # Executed, but the provider's answer was lost.
    if explained.kind is ErrorKind.SERVER and error.status_code < 500:
        explained.outcome_unknown = error.request.method == "POST"
    if explained.kind is ErrorKind.WRONG_ADDRESS:
        # Without the query: a path is LITELLM_BASE_URL and an endpoint, which shows what is wrong with the former.
        request = error.request
        explained.cause += f": {request.method} {one_line(str(request.url.copy_with(query=None)))}"
    if 300 <= error.status_code < 400:
        explained.hint = f"set LITELLM_BASE_URL to its final address{_target(error.response)}"
    return explained


def _explain_connection(error: openai.APIConnectionError) -> GatewayError:
    cause = error.__cause__
    if cause is None:
        return GatewayError(one_line(error.message))
    url = error.request.url
    reason = one_line(str(cause)) or type(cause).__name__
    place = url.host if url.port is None else f"{url.host}:{url.port}"
    if isinstance(cause, httpx.ProxyError):
        what, hint = f"the proxy refused: {reason}", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
    elif problem := tls_problem(error, place, "LITELLM_BASE_URL"):
        what, hint = problem
    elif not isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout):
        return GatewayError(f"the connection to {place} broke: {reason}", kind=ErrorKind.LOST)
    elif proxy := _proxy_for(url):
        what = f"cannot connect to {place} through the proxy {proxy}: {reason}"
        hint = "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY"
    else:
        what = f"cannot connect to {place}: {reason}"
        hint = f"is the gateway running, and is LITELLM_BASE_URL right? {starts_one('gateway')}"
    return GatewayError(what, kind=ErrorKind.UNREACHABLE, hint=hint)


def tls_problem(error: BaseException, place: str, setting: str) -> tuple[str, str] | None:
    """Return what failed in the TLS handshake behind an error, and a hint; None if it was not TLS.

    Args:
        place: host and port of the server, which runs: it answered.
        setting: the variable with its address.
    """
    cause = _tls_error(error)
    if cause is None:
        return None
    if not isinstance(cause, ssl.SSLCertVerificationError):
        reason = (cause.reason or type(cause).__name__).replace("_", " ").lower()
        return f"no TLS with {place}: {reason}", f"does {setting} need http:// there, or another port?"
    if cause.verify_code in _OTHER_HOST:
        return f"the certificate of {place} is another host's", f"check the host in {setting}"
    if cause.verify_code in _NOT_NOW:
        return f"the certificate of {place} has expired or is not valid yet", "renew it, or check this machine's clock"
    return f"the certificate of {place} is not trusted", "set SSL_CERT_FILE to the certificate authority that issued it"


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    # Causes and contexts form a cycle when an error is raised again.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ssl.SSLError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _proxy_for(url: httpx.URL) -> str:
    """Return host and port of the environment's proxy for an address, without its password; empty if none."""
    from urllib.request import getproxies, proxy_bypass  # only needed after a failure

    try:
        proxies = getproxies()
        address = proxies.get(url.scheme) or proxies.get("all") or ""
        proxy = httpx.URL(address if "://" in address else f"http://{address}")
        if not proxy.host or proxy_bypass(url.host):
            return ""
    except (httpx.InvalidURL, ValueError, OSError):
        return ""
    return proxy.host if proxy.port is None else f"{proxy.host}:{proxy.port}"


def _explain_report(report: Report, support_ids: Mapping[str, str]) -> GatewayError:
    _, kind, cause, hint = row_of(report)
    if report.status == 429 and report.delay is not None:
        hint = f"{hint}; the gateway says to retry after {report.delay:.4g} s"
    code = report.provider_code or report.code
    if code == str(report.status):  # LiteLLM repeats the status as the code
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


def _target(response: httpx.Response) -> str:
    try:
        host = httpx.URL(response.headers.get("location", "")).host
    except (httpx.InvalidURL, ValueError):
        return ""
    return f" (it points to {one_line(host)})" if host else ""
