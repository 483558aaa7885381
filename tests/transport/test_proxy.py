"""Calls through a real HTTP proxy, and over TLS with a private certificate authority."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import trustme

from litellm_openai_example import AsyncLiteLLM, ConfigurationError, LiteLLM, LiteLLMHttpxClient
from litellm_openai_example.errors import UNKNOWN
from litellm_openai_example.http_library import httpx

from ..conftest import RunCommand
from ..fakes.proxy import Proxy, TLSServer
from ..fakes.scripted import KEY, Answer, ScriptedServer, chat_body, reply, response_body
from ..fakes.served import FakeGateway

CREATE: dict[str, Any] = {"model": "m", "input": "hi"}
RESPONSE = reply({**response_body("OK"), "created_at": 1})


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        yield running


@pytest.fixture(params=["direct", "proxied"])
def way(request: pytest.FixtureRequest, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Yield a server with TLS, reached directly and through a proxy."""
    if request.param == "proxied":
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> Iterator[TLSServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with TLSServer(context) as server:
        yield server


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def create(kind: str, url: str, *, made_for: str = "", **options: Any) -> str:
    """Create a response with a client that was made for another address, if one is given."""
    options = {"base_url": made_for or url, "api_key": KEY, **options}
    if kind == "sync":
        with LiteLLM(**options) as sdk:
            client = sdk.with_options(base_url=f"{url}/v1") if made_for else sdk
            text: str = client.responses.create(**CREATE).output_text
            return text

    async def ask() -> str:
        async with AsyncLiteLLM(**options) as sdk:
            client = sdk.with_options(base_url=f"{url}/v1") if made_for else sdk
            text: str = (await client.responses.create(**CREATE)).output_text
            return text

    return asyncio.run(ask())


both = pytest.mark.parametrize("kind", ["sync", "async"])


@both
def test_http_goes_through_the_proxy(
    kind: str, gateway: ScriptedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    gateway.answers(RESPONSE)
    assert create(kind, gateway.url) == "OK"
    assert proxy.seen == [f"POST {gateway.url}/v1/responses HTTP/1.1"]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert create(kind, gateway.url) == "OK"
    assert len(proxy.seen) == 1


@both
def test_https_goes_through_the_proxy(
    kind: str, tls: TLSServer, trusted: None, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    tls.answers(reply({}, 503), RESPONSE)
    assert create(kind, tls.url) == "OK"
    assert set(proxy.seen) == {f"CONNECT localhost:{tls.port} HTTP/1.1"}
    assert KEY not in str(proxy.seen)


@both
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "answer",
    [Answer(pause=30), Answer(body=b" " * 500, drip=0.05), Answer(body=b" " * 500, drip_head=0.05), Answer(drop=True)],
    ids=["hangs", "drips", "drips from the first byte", "drops"],
)
def test_the_policy_holds_over_tls(answer: Answer, kind: str, tls: TLSServer, trusted: None) -> None:
    tls.answers(answer)
    with pytest.raises(openai.APIConnectionError, match="the outcome is unknown"):
        create(kind, tls.url, timeout=0.8)
    assert len(tls.posts) == 1


@both
def test_an_unreachable_proxy_leaves_no_unknown_outcome(
    kind: str, tls: TLSServer, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeGateway() as closed:
        monkeypatch.setenv("HTTPS_PROXY", closed.url)
    with pytest.raises(openai.APIConnectionError) as caught:
        create(kind, tls.url)
    assert UNKNOWN not in str(caught.value)


@both
def test_an_untrusted_certificate(kind: str, tls: TLSServer) -> None:
    with pytest.raises(openai.APIConnectionError, match="certificate verify failed"):
        create(kind, tls.url)
    assert tls.seen == []


@both
@pytest.mark.usefixtures("way")
def test_late_trust_equals_the_default(
    kind: str,
    gateway: ScriptedServer,
    tls: TLSServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(openai.APIConnectionError, match="certificate verify failed"):
        create(kind, tls.url, made_for=gateway.url)
    assert tls.seen == []
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(ConfigurationError, match="certificates cannot be read"):
        create(kind, tls.url, made_for=gateway.url)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls.answers(RESPONSE)
    assert create(kind, tls.url, made_for=gateway.url) == "OK"


@both
def test_certificates_are_not_read_for_plain_http(
    kind: str, gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    gateway.answers(RESPONSE)
    assert create(kind, gateway.url) == "OK"


def test_the_command_has_a_hint_for_an_untrusted_certificate(
    tls: TLSServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_BASE_URL", tls.url)
    monkeypatch.setenv("LITELLM_API_KEY", KEY)
    run = command("hi")
    assert (run.code, run.out) == (1, "")
    assert "SSL_CERT_FILE" in run.err
    assert tls.seen == []


def test_the_command_over_tls(
    tls: TLSServer, trusted: None, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_BASE_URL", tls.url)
    monkeypatch.setenv("LITELLM_API_KEY", KEY)
    tls.answers(reply(chat_body("안녕")))
    assert command("hi").out == "안녕\n"


FAR = "https://gateway.invalid"
SOCKS = "socks5h://me:s3cret@127.0.0.1:9"
NOT_CONCERNED: dict[str, dict[str, str]] = {
    "loopback": {"ALL_PROXY": SOCKS},
    "scheme of GNOME": {"ALL_PROXY": "socks://127.0.0.1:9/"},
    "of the other scheme": {"HTTPS_PROXY": SOCKS},
    "misspelled, of the other scheme": {"HTTPS_PROXY": '"http://me:s3cret@127.0.0.1:9"'},
    "address in NO_PROXY": {"ALL_PROXY": "http://127.0.0.1:port", "NO_PROXY": "localhost, 127.0.0.1 ,::1"},
    # httpx, under openai 2, does not support networks there.
    "network in NO_PROXY": {"ALL_PROXY": "http://127.0.0.1:port", "NO_PROXY": "127.0.0.0/8"}
    if httpx.__name__ == "httpx2"
    else {},
    "URL in NO_PROXY": {"ALL_PROXY": "http://127.0.0.1:port", "NO_PROXY": "http://127.0.0.1"},
    "port in NO_PROXY": {"ALL_PROXY": "http://127.0.0.1:port", "NO_PROXY": ".corp,127.0.0.1"},
    "everything in NO_PROXY": {"ALL_PROXY": "http://127.0.0.1:port", "NO_PROXY": "a.example,*"},
}
CONCERNED: dict[str, tuple[dict[str, str], str]] = {
    "SOCKS": ({"ALL_PROXY": SOCKS}, r"ALL_PROXY.*httpx2?\[socks\]"),
    "SOCKS, another host in NO_PROXY": ({"ALL_PROXY": SOCKS, "NO_PROXY": "corp"}, r"ALL_PROXY.*httpx2?\[socks\]"),
    "SOCKS for https": ({"HTTPS_PROXY": SOCKS}, r"HTTPS_PROXY.*httpx2?\[socks\]"),
    "an unknown scheme": ({"ALL_PROXY": "socks://me:s3cret@127.0.0.1:9"}, "ALL_PROXY.*its scheme socks is none of"),
    "quotes": ({"HTTPS_PROXY": "'http://me:s3cret@127.0.0.1:9'"}, "HTTPS_PROXY.*in quotes"),
    "a bad port": ({"HTTPS_PROXY": "http://me:s3cret@127.0.0.1:port"}, "HTTPS_PROXY.*not a URL"),
}


@both
@pytest.mark.parametrize("name", NOT_CONCERNED)
def test_a_proxy_for_other_hosts_is_not_opened(
    name: str, kind: str, gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in NOT_CONCERNED[name].items():
        monkeypatch.setenv(variable, value)
    gateway.answers(RESPONSE)
    assert create(kind, gateway.url) == "OK"


@both
@pytest.mark.parametrize("name", CONCERNED)
def test_an_unusable_proxy_is_named(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, said = CONCERNED[name]
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    for made_for in ("", "http://127.0.0.1:9"):  # detected at creation, or for another base_url
        with pytest.raises(ConfigurationError, match=said) as caught:
            create(kind, FAR, made_for=made_for)
        assert isinstance(caught.value, openai.OpenAIError)
        assert "s3cret" not in str(caught.value)


def test_a_client_behind_an_unusable_proxy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", SOCKS)
    with pytest.raises(ConfigurationError, match="ALL_PROXY"):
        LiteLLM(base_url=FAR, api_key=KEY)
    LiteLLM(base_url="http://127.0.0.1:9", api_key=KEY).close()


@both
def test_other_proxies_work_beside_an_unusable_one(
    kind: str, gateway: ScriptedServer, tls: TLSServer, trusted: None, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", SOCKS)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    tls.answers(RESPONSE)
    assert create(kind, tls.url) == "OK"
    assert proxy.seen == [f"CONNECT localhost:{tls.port} HTTP/1.1"]


def test_the_error_of_a_given_socks_proxy_names_its_package() -> None:
    with pytest.raises(ConfigurationError, match=rf"{httpx.__name__}\[socks\]"):
        LiteLLMHttpxClient(proxy="socks5://127.0.0.1:9")
