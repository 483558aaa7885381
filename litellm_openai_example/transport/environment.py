"""Certificates and proxies of the environment, checked and loaded when the first request needs them.

The HTTP library makes all proxies of the environment when a client is made. A SOCKS proxy that a VPN has put into
`ALL_PROXY` would then end every program that talks to a gateway on this machine, for want of a package it never uses.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self
from urllib.request import getproxies

from ..config import ConfigurationError, is_loopback, odd_form
from ..errors import one_line
from ..http_library import httpx

_SCHEMES = ("http", "https", "socks5", "socks5h")
SOCKS_PACKAGE = f"a SOCKS proxy takes another package: `pip install '{httpx.__name__}[socks]'`"


_NOWHERE = httpx.MockTransport(lambda _: httpx.Response(204))


class LateTrust(ssl.SSLContext):
    """The default TLS context of the HTTP library, created for the first connection that needs it.

    Reading the machine's trusted certificates takes 18 ms, in vain for a gateway on this machine.
    """

    _trust_env: bool
    _protocols: list[str]
    _made: ssl.SSLContext | None

    def __new__(cls, *, trust_env: bool = True) -> Self:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context._trust_env, context._protocols, context._made = trust_env, [], None
        return context

    def __init__(self, *, trust_env: bool = True) -> None:
        pass

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        self._protocols = list(alpn_protocols)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """See `ssl.SSLContext`. Raises ConfigurationError if the certificates cannot be read."""
        return self._context().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext`. Raises ConfigurationError if the certificates cannot be read."""
        return self._context().wrap_bio(*args, **kwargs)

    def _context(self) -> ssl.SSLContext:
        if self._made is None:
            with as_configuration_errors():
                self._made = httpx.create_ssl_context(trust_env=self._trust_env)
        self._made.set_alpn_protocols(self._protocols)
        return self._made


def tls_options(base_url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an HTTP client for `base_url`, with late trust if the URL uses no TLS.

    Such a client may still need TLS, for another URL or through a proxy.
    """
    options = {"base_url": base_url, **options}
    if base_url.startswith("https:") or "verify" in options or "cert" in options:
        return options
    return {**options, "verify": LateTrust(trust_env=options.get("trust_env", True))}


@contextmanager
def as_configuration_errors() -> Iterator[None]:
    """Turn errors of the HTTP library about the environment into messages without its values (a proxy's password).

    Raises:
        ConfigurationError: a certificate file or a proxy cannot be used.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except OSError as error:
        reason = f"the certificates cannot be read ({error.strerror or error}): check SSL_CERT_FILE and SSL_CERT_DIR"
        raise ConfigurationError(reason) from error
    except ImportError as error:
        raise ConfigurationError(SOCKS_PACKAGE if "socks" in str(error).lower() else str(error)) from error
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigurationError("a proxy cannot be used: check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY") from error


def check_host(url: str) -> str:
    """Return `url` if the HTTP library can look up its host.

    Raises:
        ConfigurationError: the host is neither a name nor an address.
    """
    try:
        httpx.URL(url)
    except httpx.InvalidURL:
        raise ConfigurationError("the address has no usable host") from None
    return url


class UnusableProxy(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport in place of an unusable proxy, which refuses the requests that would go through it.

    Args:
        reason: the message of the refusal, with the name of the proxy's variable.
        direct: the transport for requests to this machine, which need no proxy; None to refuse these too.
    """

    def __init__(self, reason: str, direct: Any) -> None:
        self.reason = reason
        self._direct = direct

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.BaseTransport`. Raises ConfigurationError."""
        self._check(request)
        return self._direct.handle_request(request)  # type: ignore[no-any-return]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`. Raises ConfigurationError."""
        self._check(request)
        return await self._direct.handle_async_request(request)  # type: ignore[no-any-return]

    def without_sending(self) -> UnusableProxy:
        """Return a transport that refuses the same requests and sends none."""
        return UnusableProxy(self.reason, self._direct and _NOWHERE)

    def _check(self, request: httpx.Request) -> None:
        if self._direct is None or not is_loopback(request.url.host):
            raise ConfigurationError(self.reason)


def proxy_mounts(direct: Any, **options: Any) -> dict[str, Any]:
    """Return the transports of the environment's proxies by URL pattern, as the HTTP library would make them.

    Args:
        direct: the client's transport without a proxy.
        **options: the options of each transport, such as `verify` and `limits`.
    """
    found: dict[str, Any] = {}
    proxies = getproxies()
    for host in map(str.strip, proxies.get("no", "").split(",")):
        if host == "*":
            return {}
        if host:
            found[_pattern(host)] = None
    for scheme in ("http", "https", "all"):
        if url := proxies.get(scheme):
            found[f"{scheme}://"] = _transport(scheme, url if "://" in url else f"http://{url}", direct, options)
    return found


def check_proxies(found: dict[str, Any], url: str) -> None:
    """Raise ConfigurationError if requests to `url` would go through an unusable proxy."""
    probes = {pattern: one.without_sending() for pattern, one in found.items() if isinstance(one, UnusableProxy)}
    others = {pattern: one and _NOWHERE for pattern, one in found.items() if pattern not in probes}
    with httpx.Client(transport=_NOWHERE, mounts={**probes, **others}) as client:  # it matches the patterns
        client.head(url)


def _transport(scheme: str, url: str, direct: Any, options: dict[str, Any]) -> Any:
    try:
        return type(direct)(proxy=url, **options)
    except ImportError:
        reason = SOCKS_PACKAGE
    except (ValueError, httpx.InvalidURL):
        reason = _why_unusable(url)
    # A SOCKS proxy belongs to a VPN or a tunnel, behind which 127.0.0.1 would be another machine.
    own = direct if url.lower().startswith("socks") else None
    return UnusableProxy(f"the proxy in {scheme.upper()}_PROXY cannot be used: {reason}", own)


def _why_unusable(url: str) -> str:
    """Return the fault of a proxy's address without quoting it, since it may have a password."""
    if oddity := odd_form(url.removeprefix("http://")):
        return f"it {oddity}"
    if url.strip() != url:
        return "it begins or ends with white space"
    scheme = url.partition("://")[0]
    if scheme.lower() not in _SCHEMES:
        return f"its scheme {one_line(scheme)[:20]} is none of {', '.join(_SCHEMES)}"
    return "it is not a URL (bad host or port)"


def _pattern(host: str) -> str:
    if "://" in host:
        return host
    bare, _, subnet = host.strip("[]").partition("/")
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        exact = host.lower() == "localhost" or host.startswith(("[", "*."))
        return f"all://{host}" if exact else f"all://*{host}"
    if version == 4:
        return f"all://{host}"
    return f"all://[{bare}]/{subnet}" if subnet else f"all://[{bare}]"
