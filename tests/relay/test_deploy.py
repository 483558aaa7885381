"""The files under docs/deploy work as they stand."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import compose_pydantic  # type: ignore[import-untyped]
import pytest
import trustme
import yaml
from click.testing import CliRunner

from litellm_openai_example.http_library import httpx
from litellm_openai_example.relay.__main__ import relay as relay_command

from ..fakes.gateway import Fault, Gateway
from ..fakes.scripted import eventually, free_port
from .conftest import StartRelay
from .running import body, token

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
SYSTEMD = shutil.which("systemd-analyze")


def test_the_compose_file_is_one() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    compose_pydantic.ComposeSpecification.model_validate(compose)
    for service in compose["services"].values():
        for dependency in service.get("depends_on", {}):
            assert dependency in compose["services"]
    for mount in compose["services"]["litellm"]["volumes"] + compose["services"]["proxy"]["volumes"]:
        source = mount.partition(":")[0]
        assert source == "./tls" or (DEPLOY / source).is_file()
    assert (DEPLOY / ".." / ".." / compose["services"]["relay"]["build"]["dockerfile"]).is_file()


def test_every_setting_is_one_of_the_relay() -> None:
    documented = CliRunner().invoke(relay_command, ["--help"]).output
    for file in DEPLOY.iterdir():
        for name in set(re.findall(r"\bRELAY_[A-Z_]+", file.read_text())):
            assert name in documented, f"{file.name}: {name}"


def test_the_image_holds_what_the_package_needs() -> None:
    copied = re.findall(r"^COPY (.+) \./?\S*$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    for path in " ".join(copied).split():
        assert (DEPLOY / ".." / ".." / path).exists(), path


def test_what_is_installed_serves_agents_too() -> None:
    """All that the files name is an extra of the package, and `/mcp` is among it."""
    extras = tomllib.loads((DEPLOY / ".." / ".." / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for file in ("Dockerfile", "litellm-relay.service"):
        (installed,) = re.findall(r"pip install .*?'\.\[(.*?)\]'", (DEPLOY / file).read_text())
        assert set(installed.split(",")) == set(extras), file


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-analyze (Debian: systemd)")
def test_the_unit_is_understood(tmp_path: Path) -> None:
    unit = (DEPLOY / "litellm-relay.service").read_text()
    command = re.search(r"^ExecStart=(\S+)", unit, re.MULTILINE)
    assert command is not None
    file = tmp_path / "litellm-relay.service"
    file.write_text(unit.replace(command[1], shutil.which("true") or "/bin/true"))
    result = subprocess.run(
        [str(SYSTEMD), "verify", "--man=no", "--recursive-errors=no", str(file)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert not [line for line in result.stderr.splitlines() if file.name in line]


@pytest.fixture
def proxied(start_relay: StartRelay, upstream: Gateway, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of nginx, which runs with the documented file in front of a relay."""
    if NGINX is None:
        pytest.skip("needs nginx (Debian: nginx-light)")
    address = start_relay().api.base_url.removeprefix("http://")
    authority, port = trustme.CA(), free_port()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "fullchain.pem")
    site = (DEPLOY / "nginx.conf").read_text()
    for documented, here in (
        ("server relay:8080", f"server {address}"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/nginx/tls", str(tmp_path)),
    ):
        assert documented in site
        site = site.replace(documented, here)
    (tmp_path / "site.conf").write_text(site)
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/log;"
        f"events {{}} http {{ access_log off; {paths} include {tmp_path}/site.conf; }}"
    )
    process = subprocess.Popen([NGINX, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)])
    context = ssl.create_default_context()
    authority.configure_trust(context)
    try:
        with httpx.Client(base_url=f"https://localhost:{port}", verify=context, trust_env=False, timeout=60) as client:
            assert eventually(lambda: _answers(client)), (tmp_path / "log").read_text()
            yield client
    finally:
        process.terminate()
        process.wait(60)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.ConnectError:
        return False


def test_events_pass_the_proxy_as_they_happen(proxied: httpx.Client, upstream: Gateway) -> None:
    seen = threading.Event()
    late = []

    def hold(sent: int) -> Fault | None:
        if sent == 1 and not seen.wait(60):
            late.append(sent)
        return None

    upstream.during_stream = hold
    started = proxied.post("/api/v1/tool-invocations", json=body("Why?", stream=True)).json()
    path = f"/api/v1/tool-invocations/{started['invocation_id']}/events"
    with proxied.stream("GET", path, headers=token(started)) as answer:
        lines = []
        for line in answer.iter_lines():
            lines.append(line)
            if line == "event: output_text":
                seen.set()
    assert not late
    assert "event: completed" in lines


def test_the_figures_are_not_for_the_world(proxied: httpx.Client) -> None:
    assert proxied.get("/metrics").status_code == 403


def test_no_address_that_a_proxy_forwards_finds_a_run(proxied: httpx.Client, upstream: Gateway) -> None:
    """Anybody behind the proxy may name any address, and the answer holds the run's token."""
    pytest.importorskip("mcp", reason="the extra [mcp] is not installed")
    upstream.seconds = 60.0
    params = {"name": "deep_research", "arguments": {"research_question": "Why?"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    found = set()
    for address in ("192.0.2.1", "192.0.2.1"):
        headers = {"Accept": "application/json, text/event-stream", "X-Forwarded-For": address}
        answer = proxied.post("/mcp", json=call, headers=headers)
        found |= set(re.findall(r"inv_[0-9a-f]{32}", answer.text))
    assert len(found) == 2
