"""Hints of failed connections: each fits its cause, and those that start a gateway or a relay agree."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from pytest_httpserver import HTTPServer

from litellm_openai_example import LiteLLM, LiteLLMClient, RelayClient
from litellm_openai_example.config import MAKE_TARGET, ConfigurationError, gateway_settings
from litellm_openai_example.errors import GatewayError

from .fakes.scripted import KEY, ScriptedServer, free_port, reply


@contextmanager
def served(certificate: trustme.LeafCert) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with HTTPServer(ssl_context=context) as server:
        yield f"https://localhost:{server.port}"


def of_gateway(url: str) -> str:
    with LiteLLMClient(url, KEY, timeout=30) as client, pytest.raises(GatewayError) as caught:
        client.create_response("hi")
    return str(caught.value)


def of_relay(url: str) -> str:
    with RelayClient(url, timeout=30) as client, pytest.raises(GatewayError) as caught:
        client.check()
    return str(caught.value)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("told", [of_gateway, of_relay])
class TestCertificates:
    def test_from_an_unknown_authority(self, told: Callable[[str], str]) -> None:
        with served(trustme.CA().issue_cert("localhost")) as url:
            text = told(url)
        assert "is not trusted" in text
        assert "SSL_CERT_FILE" in text
        assert "running" not in text

    @pytest.mark.parametrize(
        ("host", "days", "cause", "advice"),
        [
            ("elsewhere.example", 1, "is another host's", "check the host"),
            ("localhost", -1, "has expired or is not valid yet", "renew it"),
        ],
    )
    def test_that_does_not_fit(
        self, host: str, days: int, cause: str, advice: str, told: Callable[[str], str],
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        now = datetime.datetime.now(datetime.UTC)
        until, since = now + datetime.timedelta(days=days), now - datetime.timedelta(days=9)
        with served(authority.issue_cert(host, not_before=since, not_after=until)) as url:
            text = told(url)
        assert cause in text
        assert advice in text
        assert "SSL_CERT_FILE" not in text
        assert "running" not in text

    def test_none_at_all(self, told: Callable[[str], str]) -> None:
        with HTTPServer() as server:
            text = told(f"https://localhost:{server.port}")
        assert "no TLS with localhost" in text
        assert "http://" in text
        assert "running" not in text


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("target", ["", "run", "run-auto"])
def test_hints_that_start_something_agree(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAKE_TARGET, target)
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConfigurationError) as unset:
        gateway_settings({})
    for part, text in (
        ("gateway", str(unset.value)), ("gateway", of_gateway(nowhere)), ("relay", of_relay(nowhere)),
    ):  # fmt: skip
        command = f"make {part}" if target else f"python -m litellm_openai_example.{part}"
        assert f"`{command}` starts one here" in text


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/proxy/ui", "/v2"])
def test_a_wrong_path_is_named(path: str, gateway: ScriptedServer) -> None:
    """LiteLLM serves its dashboard at /ui, which answers a POST with 405 and this body."""
    gateway.script = lambda seen: reply({"detail": "Method Not Allowed"}, 405, allow="GET, HEAD")
    url = f"{gateway.url}{path.rstrip('/')}/v1/responses"
    text = of_gateway(gateway.url + path)
    assert f"POST {url}" in text
    assert "LITELLM_BASE_URL" in text
    assert "/ui" in text
    with LiteLLM(base_url=gateway.url + path, api_key=KEY) as sdk, pytest.raises(Exception, match="405"):
        sdk.responses.create(model="m", input="hi")


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("path", ["/ui", "/docs", "/runs/inv_1", "/api/v1"])
def test_a_wrong_path_of_a_relay_is_named(path: str, status: int, gateway: ScriptedServer) -> None:
    gateway.script = lambda seen: reply({"detail": "No"}, status)
    with RelayClient(gateway.url + path, timeout=30) as client, pytest.raises(GatewayError) as caught:
        client.invoke({"research_question": "Why?"})
    assert f"POST at {gateway.url}{path}/api/v1/tool-invocations" in str(caught.value)
    assert "RELAY_BASE_URL" in str(caught.value)


def test_a_missing_path_is_named(gateway: ScriptedServer) -> None:
    gateway.script = lambda seen: reply({"detail": "Not Found"}, 404)
    assert f"POST {gateway.url}/nowhere/v1/responses" in of_gateway(f"{gateway.url}/nowhere")


def test_the_address_of_a_retrieval_has_no_query(gateway: ScriptedServer) -> None:
    gateway.script = lambda seen: reply({"detail": "Method Not Allowed"}, 405)
    with LiteLLMClient(gateway.url, KEY, timeout=30) as client, pytest.raises(GatewayError) as caught:
        client.retrieve_response("resp_1")
    assert "/responses/resp_1" in str(caught.value)
    assert "?" not in str(caught.value)
