"""What the environment says of the network: certificates and proxies, checked and loaded when they are needed."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from ..config import ConfigurationError
from ..http_library import httpx
from .proxies import SOCKS_PACKAGE


class LateTrust(ssl.SSLContext):
    """The HTTP library's own default context, made when the first connection needs one.

    To read the certificates that a machine trusts costs 18 ms, which a gateway on this machine never needs.
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
    """Return the options of an HTTP client for `base_url`, with trust that is loaded late if it uses no TLS.

    It is loaded once it is needed: the client may be pointed elsewhere, or go through a proxy.
    """
    options = {"base_url": base_url, **options}
    if base_url.startswith("https:") or "verify" in options or "cert" in options:
        return options
    return {**options, "verify": LateTrust(trust_env=options.get("trust_env", True))}


@contextmanager
def as_configuration_errors() -> Iterator[None]:
    """Say what of the environment the HTTP library cannot use, without repeating it: a proxy may have a password.

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
    """`url`, if its host is one that the HTTP library can look up.

    Raises:
        ConfigurationError: the host is no name and no address.
    """
    try:
        httpx.URL(url)
    except httpx.InvalidURL:
        raise ConfigurationError("the address has no usable host") from None
    return url
