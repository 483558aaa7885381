"""Settings from the environment, and the rules for a gateway's address and key.

The command's `--help` imports this module too, so modules that only addresses need are imported in functions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

DEFAULT_MODEL = "gpt-6-luna"
DEFAULT_TIMEOUT = 30.0
MAKE_TARGET = "LITELLM_EXAMPLE_MAKE"  # the variable with the Makefile's target that runs this command
DEFAULT_RELAY_URL = "http://127.0.0.1:8080"
OWN_RELAY = "LITELLM_EXAMPLE_OWN_RELAY"  # set if the relay ends with the command

_ENDPOINTS = ("/chat/completions", "/responses", "/completions", "/models", "/embeddings")
_TRUE = frozenset({"1", "true", "yes", "on"})
_QUOTES = "\"'`\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2032\u2033"
# Traces of settings files, templates and shells, each with its error. A made-up key may contain a dollar sign or an
# equals sign, so the patterns match only if no key would look like that.
_ODD_FORMS = (
    (
        re.compile(f"[{_QUOTES}]|.*[{_QUOTES}],?$", re.DOTALL),
        "is in quotes: write the value without them (`docker --env-file` keeps them)",
    ),
    (
        re.compile(r"(export\s+)?[A-Z][A-Z0-9]*_[A-Z0-9_]*=|export\s"),
        "holds a whole line of settings: give only the value behind the equals sign",
    ),
    (re.compile(r"bearer\s", re.IGNORECASE), "begins with Bearer: give the key alone"),
    (
        re.compile(
            r".*([$#]\{|\{\{)|.*\$\(\w+\)|\{\w+\}$|__[A-Z0-9_]+__$|\$[a-z]+_[a-z_]+$|(.*[/:@.])?(\$[A-Z_][A-Z0-9_]*|%[A-Z_][A-Z0-9_]{2,}%)($|[/:.])",
            re.DOTALL,
        ),
        "holds the name of a variable that nothing has replaced by its value",
    ),
    (re.compile(r"(.*[/@.])?<[^<>]+>", re.DOTALL), "holds a placeholder: put the real value in its place"),
    (
        re.compile(r"(null|undefined)$"),
        "is the word that a program or a template writes for a value that is missing",
    ),
    (
        re.compile(
            r"os\.environ\b|os\.getenv\b|process\.env\b|(ref\+)?(op|vault|ssm|secret|keyring|env|file)://",
            re.IGNORECASE,
        ),
        "names the place of a value (such as os.environ/NAME), which nothing has read from there",
    ),
    (re.compile(r".*\\[nrt]$", re.DOTALL), "ends in a backslash and a letter, which stood for a line break"),
)


class ConfigurationError(ValueError):
    """A setting is missing or unusable. Raised before anything is sent; never holds a secret."""


class GatewaySettings(NamedTuple):
    """The address, key and model of a gateway; `repr` leaves out the key."""

    base_url: str
    api_key: str
    model: str = DEFAULT_MODEL

    def __repr__(self) -> str:
        return f"GatewaySettings(base_url={self.base_url!r}, model={self.model!r})"


def gateway_settings(env: Mapping[str, str] = os.environ) -> GatewaySettings:
    """Return the settings in `LITELLM_BASE_URL`, `LITELLM_API_KEY` and `LITELLM_MODEL`.

    Raises:
        ConfigurationError: address or key is missing, or a value is unusable.
    """
    return GatewaySettings(
        base_url=resolve_base_url(None, env),
        api_key=resolve_api_key(None, env),
        model=_model(env),
    )


def resolve_base_url(argument: str | None, env: Mapping[str, str] = os.environ) -> str:
    """Return the gateway's address from the argument or else `LITELLM_BASE_URL`, normalised to end in `/v1`.

    Raises:
        ConfigurationError: it is missing, or breaks a rule of `normalize_base_url`.
    """
    name = "LITELLM_BASE_URL" if argument is None else "base_url"
    url = setting("LITELLM_BASE_URL", env) if argument is None else argument
    if not url:
        raise ConfigurationError(
            "no gateway address: set LITELLM_BASE_URL (for example http://127.0.0.1:4000) or pass base_url; "
            + starts_one("gateway")
        )
    return normalize_base_url(url, allow_http=http_allowed(env), name=name)


def resolve_api_key(argument: str | None, env: Mapping[str, str] = os.environ) -> str:
    """Return the gateway's key from the argument or else `LITELLM_API_KEY`.

    Raises:
        ConfigurationError: it is missing, or cannot be sent in an HTTP header.
    """
    name = "LITELLM_API_KEY" if argument is None else "api_key"
    key = setting("LITELLM_API_KEY", env) if argument is None else argument
    if not key or not key.strip():
        raise ConfigurationError("no gateway key: set LITELLM_API_KEY or pass api_key")
    return header_value(key, name)


def starts_one(part: str) -> str:
    """Return how the user starts a gateway or a relay on this machine: with make if that runs this command."""
    command = f"make {part}" if os.environ.get(MAKE_TARGET) else f"python -m {__package__}.{part}"
    return f"`{command}` starts one here"


def header_value(secret: str, name: str) -> str:
    """Return a secret without surrounding white space if it can be sent in an HTTP header.

    The HTTP library would quote the secret in its encoding error; this error only names the setting.

    Args:
        secret: the secret.
        name: the name of its setting.

    Raises:
        ConfigurationError: it contains white space, control or non-ASCII characters, or has an odd form (`odd_form`).
    """
    secret = secret.strip()
    if oddity := odd_form(secret):
        raise ConfigurationError(f"{name} {oddity}")
    if not is_visible_ascii(secret):
        raise ConfigurationError(f"{name} holds characters that no key has (spaces, control or non-ASCII)")
    return secret


def odd_form(value: str) -> str:
    """Return the error for a value that a file or a template has mangled; empty if the value looks sound."""
    return next((words for form, words in _ODD_FORMS if form.match(value)), "")


def is_visible_ascii(text: str) -> bool:
    """Return True if a text contains neither spaces nor control nor non-ASCII characters, as headers and paths need."""
    return text.isascii() and text.isprintable() and " " not in text


def is_unicode(text: str) -> bool:
    """Return True if a text can be encoded as UTF-8, which half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_secret(key: str) -> bool:
    """Return True unless a key is a stand-in ("x", "none", "dummy"), which occurs in any text."""
    return len(key) >= (8 if key.isalpha() else 6)


def keys(env: Mapping[str, str] = os.environ) -> list[str]:
    """Return the keys in the environment that no output may contain, even if a server echoes them."""
    found = (setting(name, env) for name in ("LITELLM_API_KEY", "RELAY_API_KEY", "RELAY_API_KEY_PREVIOUS"))
    return [key for key in found if is_secret(key)]


def redact_text(text: str, *secrets: str | None) -> str:
    """Return a text with the keys replaced by `[key]`; stand-ins (`is_secret`) stay."""
    for secret in secrets:
        if secret and is_secret(secret):
            text = text.replace(secret, "[key]")
    return text


def is_switched_on(name: str, env: Mapping[str, str] = os.environ) -> bool:
    """Return True if an environment variable is 1, true, yes or on."""
    return setting(name, env).lower() in _TRUE


def http_allowed(env: Mapping[str, str] = os.environ) -> bool:
    """Return True if `LITELLM_ALLOW_HTTP` allows a key to travel unencrypted to another machine."""
    return is_switched_on("LITELLM_ALLOW_HTTP", env)


def normalize_base_url(url: str, *, allow_http: bool = False, name: str = "base_url") -> str:
    """Return the `/v1` address of a gateway, given its root, its `/v1` or a path prefix, with or without a slash.

    Args:
        url: the address.
        allow_http: True allows plain http to another machine.
        name: the name of the setting, for the error.

    Raises:
        ConfigurationError: the scheme is not http or https, the host or port is unusable, the URL has credentials or a
            query, or it is plain http to another machine. The message does not quote the URL, which may contain a
            secret by mistake.
    """
    from urllib.parse import urlsplit, urlunsplit

    checked = check_url(url, allow_http=allow_http, name=name)
    scheme, host, path, _, _ = urlsplit(checked)
    path = re.sub(r"/{2,}", "/", path).rstrip("/")
    # Most likely copied from an example of a single call; every path below it would be wrong.
    for endpoint in _ENDPOINTS:
        if path.endswith(endpoint):
            raise ConfigurationError(f"{name} must be the gateway's root, without {endpoint}")
    if not path.endswith("/v1"):
        path += "/v1"
    return urlunsplit((scheme, host, path, "", ""))


def check_url(url: str, *, allow_http: bool = False, name: str = "base_url") -> str:
    """Return a URL without surrounding white space if a key may be sent there; raise as `normalize_base_url` does."""
    from urllib.parse import urlsplit

    url = url.strip()
    # Before the parsing, whose error would name a bad host or port instead of the quotes around the value.
    if oddity := odd_form(url):
        raise ConfigurationError(f"{name} {oddity}")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ConfigurationError(f"{name} holds white space or control characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigurationError(f"{name} is not a URL (bad host or port)") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{name} must not hold credentials: pass the key in LITELLM_API_KEY")
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{name} must start with http:// or https://")
    if not _plausible_host(host):
        raise ConfigurationError(f"{name} has no usable host")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"{name} must not have a query or a fragment")
    if port == 0:
        raise ConfigurationError(f"{name} has no usable port")
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise ConfigurationError(
            f"{name} would send the key unencrypted to {host}: use https://"
            + (", or 127.0.0.1 for this machine" if host == "0.0.0.0" else "")  # noqa: S104
            + ", or set LITELLM_ALLOW_HTTP=1 if that network is trusted"
        )
    return url


@lru_cache(maxsize=256)  # called for each request, by the relay too
def is_loopback(host: str) -> bool:
    """Return True if a host name or address (IPv6 without brackets) can only be this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_loopback(host: str) -> bool:
    """Return True if the value of a Host header (RFC 9110, section 7.2) can only be this machine."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::[0-9]*)?", host)
    return match is not None and is_loopback(match[1] or match[2])


def _model(env: Mapping[str, str]) -> str:
    model = setting("LITELLM_MODEL", env) or DEFAULT_MODEL
    if oddity := odd_form(model):
        raise ConfigurationError(f"LITELLM_MODEL {oddity}")
    if not model.isprintable():
        raise ConfigurationError("LITELLM_MODEL holds control characters or no valid UTF-8")
    return model


def _plausible_host(host: str) -> bool:
    if ":" in host:
        import ipaddress

        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return True
    labels = host.rstrip(".").split(".")
    return all(0 < len(label) <= 63 and re.fullmatch(r"[\w-]+", label) for label in labels)


def setting(name: str, env: Mapping[str, str] = os.environ) -> str:
    """Return the value of an environment variable without surrounding white space; empty if it is not set."""
    return env.get(name, "").strip()
