"""The relay's settings: each is in the help; an unusable one is one line and exit code 2."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from litellm_openai_example.console import run_command
from litellm_openai_example.relay.__main__ import relay
from litellm_openai_example.relay.settings import make_settings

from .running import RelayProcess

ENVIRONMENT = {"LITELLM_BASE_URL": "http://127.0.0.1:9", "LITELLM_API_KEY": "sk-x"}


def test_the_help_shows_variable_default_and_range() -> None:
    text = " ".join(CliRunner().invoke(relay, ["serve", "--help"]).output.split())
    for name, default, limits in [
        ("RELAY_HOST", "127.0.0.1", ""),
        ("RELAY_PORT", "8080", "; 0<=x<=65535"),
        ("RELAY_MODEL", "gpt-6.1-sol", ""),
        ("RELAY_MAX_RUNNING", "32", "; 1<=x<=10000"),
        ("RELAY_MAX_QUEUED", "1000", "; 1<=x<=1000000"),
        ("RELAY_RESEARCH_TIMEOUT_SECONDS", "3600.0", "; 0<x<=100000000.0"),
        ("RELAY_WAIT_SECONDS", "300.0", "; 0<=x<=100000000.0"),
        ("RELAY_RETENTION_HOURS", "72.0", "; 0<x<=100000000.0"),
    ]:
        assert f"[env var: {name}; default: {default}{limits}]" in text
    for name in (
        "RELAY_REQUEST",
        "RELAY_API_KEY_PREVIOUS",
        "RELAY_DATABASE_URL",
        "RELAY_PUBLIC_URL",
        "LITELLM_BASE_URL",
        "LITELLM_API_KEY",
    ):
        assert name in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RELAY_PORT", "65536"),
        ("RELAY_PORT", "x"),
        ("RELAY_MAX_RUNNING", "0"),
        ("RELAY_MAX_QUEUED", "1e3"),
        ("RELAY_RESEARCH_TIMEOUT_SECONDS", "0"),
        ("RELAY_RESEARCH_TIMEOUT_SECONDS", "nan"),
        ("RELAY_WAIT_SECONDS", "-1"),
        ("RELAY_WAIT_SECONDS", "inf"),
        ("RELAY_RETENTION_HOURS", "soon"),
        ("RELAY_REQUEST", "[]"),
        ("RELAY_REQUEST", '{"tools": [{"type": 7, "authorization": "s3cret"}]}'),
        ("RELAY_REQUEST", '{"model": "s3cret"}'),
        ("RELAY_REQUEST", '{"extra_body": {"background": false, "a": "s3cret"}}'),
        ("RELAY_REQUEST", '{"extra_body": "s3cret"}'),
        ("RELAY_REQUEST", '{"extra_body": []}'),
        ("RELAY_REQUEST", '{"temperature": NaN}'),
        ("RELAY_REQUEST", '{"temperature": 1e999}'),
        ("RELAY_REQUEST", '{"tools": "s3cret"}'),
        ("RELAY_REQUEST", '{"a": "\\ud800"}'),
        ("RELAY_REQUEST", "[" * 100_000),
        ("RELAY_HOST", "0.0.0.0"),
        ("RELAY_DATABASE_URL", "mysql://user:s3cret@host/db"),
        ("RELAY_PUBLIC_URL", "relay.example.org"),
        ("RELAY_PUBLIC_URL", "ftp://relay.example.org"),
        ("RELAY_PUBLIC_URL", "http://relay.example.org"),
        ("RELAY_PUBLIC_URL", "https://user:s3cret@relay.example.org"),
        ("RELAY_PUBLIC_URL", "https://relay.example.org/#s3cret"),
        ("RELAY_PUBLIC_URL", "https://relay.example.org/?token=s3cret"),
        ("RELAY_PUBLIC_URL", "'https://relay.example.org'"),
        ("XDG_STATE_HOME", "/proc/nothing"),
    ],
)
def test_unusable_settings(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, given in (ENVIRONMENT | {name: value}).items():
        monkeypatch.setenv(variable, given)
    told: list[str] = []
    assert run_command(relay, told.append, name="litellm-relay", arguments=[], show_usage=False) == 2
    assert len(told) == 1
    assert name.removeprefix("RELAY_") in told[0] or name == "RELAY_HOST"
    assert told[0].startswith("Error: ")
    assert "\n" not in told[0]
    assert "s3cret" not in told[0]


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("", None),
        (" https://relay.example.org/ ", "https://relay.example.org"),
        ("https://example.org/relay/", "https://example.org/relay"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_the_public_address(given: str, address: str | None) -> None:
    assert make_settings(ENVIRONMENT | {"RELAY_PUBLIC_URL": given}).public_url == address


@pytest.mark.parametrize("path", ["/proc/nothing/ledger.sqlite3", "/"])
def test_a_ledger_that_cannot_be_created(path: str) -> None:
    process = RelayProcess(ENVIRONMENT | {"RELAY_DATABASE_URL": f"sqlite:///{path}"}, "--port", "0")
    assert process.end() == 2
    assert len(process.lines) == 1
    assert process.log.startswith("[relay] Error: ")
