"""The files under docs/deploy work unchanged."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import compose_pydantic  # type: ignore[import-untyped]
import pytest
import trustme
import yaml
from click.testing import CliRunner

from litellm_openai_example.gateway.environment import find_uv
from litellm_openai_example.http_library import httpx
from litellm_openai_example.relay.__main__ import relay as relay_command

from ..fakes.gateway import Fault, Gateway
from ..fakes.scripted import Answer, ScriptedServer, Seen, eventually, free_port, reply
from ..tools.licences import pinned
from .browser import Page
from .conftest import StartRelay
from .operating import operate
from .running import ThreadedRelay, body, token

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
SYSTEMD = shutil.which("systemd-analyze")


def test_the_compose_file_is_valid() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    compose_pydantic.ComposeSpecification.model_validate(compose)
    for service in compose["services"].values():
        for dependency in service.get("depends_on", {}):
            assert dependency in compose["services"]
    for mount in compose["services"]["litellm"]["volumes"] + compose["services"]["proxy"]["volumes"]:
        source = mount.partition(":")[0]
        assert source == "./tls" or (DEPLOY / source).is_file()
    assert (DEPLOY / ".." / ".." / compose["services"]["relay"]["build"]["dockerfile"]).is_file()


def test_every_setting_exists() -> None:
    documented = CliRunner().invoke(relay_command, ["serve", "--help"]).output
    for file in DEPLOY.iterdir():
        for name in set(re.findall(r"\bRELAY_[A-Z_]+", file.read_text())):
            assert name in documented, f"{file.name}: {name}"


def test_the_image_holds_all_package_files() -> None:
    copied = re.findall(r"^COPY (.+) \./?\S*$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    for path in " ".join(copied).split():
        assert (DEPLOY / ".." / ".." / path).exists(), path


def test_deployments_install_all_extras() -> None:
    """The unit and the image install all extras of the package; `/mcp` is one of them."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (unit,) = re.findall(r"pip install .*?'\.\[(.*?)\]'", (DEPLOY / "litellm-relay.service").read_text())
    assert set(unit.split(",")) == set(extras)
    assert set(re.findall(r"--extra (\w+)", (DEPLOY / "Dockerfile").read_text())) == set(extras)


@pytest.mark.timeout(600)
def test_the_image_has_the_versions_of_the_lock_file(tmp_path: Path) -> None:
    """Run the steps of the build without a container."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    (copied,) = re.findall(r"^COPY (.+) \./$", dockerfile, re.MULTILINE)
    for name in (*copied.split(), "litellm_openai_example"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (install,) = re.findall(r"^RUN uv (sync .+)$", dockerfile, re.MULTILINE)
    target = tmp_path / "environment"
    cleared = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env = {**cleared, "UV_PROJECT_ENVIRONMENT": str(target), "UV_PYTHON": sys.executable}
    command = [find_uv(), *install.replace("--compile-bytecode", "").split()]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "litellm_openai_example")  # the image keeps the environment alone
    listed = [str(target / "bin/python"), "-c", "import importlib.metadata as m; "
              "print(*(f'{one.name}=={one.version}' for one in m.distributions()))"]  # fmt: skip
    installed = subprocess.run(listed, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout.split()
    locked = {f"{one['name']}=={one['version']}" for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert {"fastapi", "mcp"} <= {one.partition("==")[0] for one in installed}
    assert {
        re.sub(r"[-_.]+", "-", one.partition("==")[0]).lower() + "==" + one.partition("==")[2] for one in installed
    } <= locked
    assert not any(one.startswith("pytest==") for one in installed)
    helped = subprocess.run([target / "bin/litellm-relay", "--help"], cwd=tmp_path, capture_output=True, timeout=60)
    assert helped.returncode == 0


def test_images_are_pinned_and_litellm_has_the_tested_version() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    images = {name: service["image"] for name, service in services.items() if "image" in service}
    for image in images.values():
        assert re.search(r":v?\d+(\.\d+)*$", image), image
    assert images["litellm"].rpartition(":")[2] == f"v{pinned()['litellm']}"


def test_only_litellm_and_the_key_service_have_the_master_key() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    holders = {name for name, service in services.items() if "LITELLM_MASTER_KEY" in str(service)}
    assert holders == {"litellm", "relay-key"}
    assert services["relay"]["environment"]["LITELLM_API_KEY"] == "${LITELLM_RELAY_KEY:?}"
    assert services["relay-key"]["environment"]["LITELLM_RELAY_KEY"] == "${LITELLM_RELAY_KEY:?}"
    assert "DATABASE_URL" in services["litellm"]["environment"]  # without one LiteLLM has no virtual keys


def test_each_service_waits_for_healthy_dependencies() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        needed = service.get("depends_on", {})
        assert isinstance(needed, dict), name
        for other, how in needed.items():
            if how["condition"] == "service_completed_successfully":
                assert services[other]["restart"] == "on-failure"
                continue
            assert how["condition"] == "service_healthy", (name, other)
            built = "build" in services[other] and "HEALTHCHECK" in (DEPLOY / "Dockerfile").read_text()
            assert built or "healthcheck" in services[other], other
    assert set(services["relay"]["depends_on"]) == {"postgres", "litellm", "relay-key"}


def test_the_secrets_of_the_compose_file_are_listed_in_its_head() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    head = text.partition("name:")[0]
    used = set(re.findall(r"\$\{(\w+)", text))
    assert used == set(re.findall(r"\b[A-Z_]{8,}\b", head))


RELAY_KEY, MASTER_KEY = "sk-relay-0123456789", "sk-master-0123456789"


def make_key(url: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {"LITELLM_BASE_URL": url, "LITELLM_MASTER_KEY": MASTER_KEY, "LITELLM_RELAY_KEY": RELAY_KEY, **env}
    command = [sys.executable, str(DEPLOY / "relay_key.py")]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert not {RELAY_KEY, MASTER_KEY} & set(re.findall(r"sk-[\w-]+", done.stdout + done.stderr))
    return done


def test_the_relay_gets_a_virtual_key_once(gateway: ScriptedServer) -> None:
    made: list[Seen] = []

    def litellm(seen: Seen) -> Answer:
        if seen.method == "GET":
            return reply({"data": []}) if made else reply({"error": {"message": "Invalid key"}}, 401)
        made.append(seen)
        return reply({"key": RELAY_KEY})

    gateway.script = litellm
    for _ in range(2):
        assert make_key(gateway.url).returncode == 0
    (seen,) = made
    assert seen.path == "/key/generate"
    assert seen.headers["authorization"] == f"Bearer {MASTER_KEY}"
    assert seen.json == {"key": RELAY_KEY, "key_alias": "litellm-relay-6789"}
    assert {one.headers["authorization"] for one in gateway.seen if one.method == "GET"} == {f"Bearer {RELAY_KEY}"}


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_failure_to_create_the_key_is_one_line(status: int, gateway: ScriptedServer) -> None:
    gateway.script = lambda seen: reply({"error": {"message": f"{RELAY_KEY} {MASTER_KEY}"}}, status)
    done = make_key(gateway.url)
    assert done.returncode == 1
    assert done.stderr == f"LiteLLM answers {status} to /key/generate: see its log\n"


def test_an_unreachable_litellm_fails_in_one_line() -> None:
    done = make_key(f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "cannot be reached" in done.stderr


@pytest.mark.parametrize("key", ["", "relay-0123456789", "sk-short"])
def test_a_key_in_a_form_that_litellm_refuses_is_named(key: str) -> None:
    done = make_key("http://127.0.0.1:1", LITELLM_RELAY_KEY=key)
    assert (done.returncode, done.stderr) == (2, 'LITELLM_RELAY_KEY must start with "sk-" and have 16 characters\n')


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-analyze (Debian: systemd)")
def test_the_systemd_unit_is_valid(tmp_path: Path) -> None:
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
    """A client of nginx with the documented configuration, in front of a relay."""
    with behind_nginx(tmp_path, start_relay()) as client:
        yield client


@contextmanager
def behind_nginx(tmp_path: Path, *relays: ThreadedRelay) -> Iterator[httpx.Client]:
    if NGINX is None:
        pytest.skip("needs nginx (Debian: nginx-light)")
    servers = "; ".join(f"server {relay.api.base_url.removeprefix('http://')}" for relay in relays)
    authority, port = trustme.CA(), free_port()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "fullchain.pem")
    site = (DEPLOY / "nginx.conf").read_text()
    for documented, here in (
        ("server relay:8080", servers),
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
        f"events {{}} http {{ access_log {tmp_path}/access; {paths} include {tmp_path}/site.conf; }}"
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


def test_events_pass_the_proxy_unbuffered(proxied: httpx.Client, upstream: Gateway) -> None:
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


def test_a_start_that_a_drained_replica_refuses_goes_to_another(
    start_relay: StartRelay, sqlite_url: str, upstream: Gateway, tmp_path: Path
) -> None:
    leaving, staying = start_relay(), start_relay()
    with behind_nginx(tmp_path, leaving, staying) as client:
        assert operate(sqlite_url, "drain", leaving.relay.name).returncode == 0
        for n in range(6):
            assert client.post("/api/v1/tool-invocations", json=body(str(n), background=True)).status_code == 202
            assert client.get("/readyz").status_code == 200
        assert leaving.api.post(body()).status_code == 503
    assert eventually(lambda: len(upstream.posts) == 6)


def test_the_page_of_a_run_passes_the_proxy(
    proxied: httpx.Client, upstream: Gateway, page: Page, tmp_path: Path
) -> None:
    seen = threading.Event()
    upstream.during_stream = lambda sent: None if sent < 1 or seen.wait(60) else Fault("drop")
    started = proxied.post("/api/v1/tool-invocations", json=body("Why?", stream=True)).json()
    page.call("Security.setIgnoreCertificateErrors", ignore=True)
    page.open(f"{proxied.base_url}/runs/{started['invocation_id']}#{started['invocation_token']}")
    page.until_text("#text", "The ")
    seen.set()
    page.until_text("#report", "The answer.")
    assert page.complaints == []
    assert page.hosts == {proxied.base_url.netloc.decode()}
    logged = (tmp_path / "access").read_text()
    assert f"/runs/{started['invocation_id']} " in logged
    assert "/events " in logged
    assert started["invocation_token"][:20] not in logged + (tmp_path / "log").read_text()


def test_the_proxy_hides_the_metrics(proxied: httpx.Client) -> None:
    assert proxied.get("/metrics").status_code == 403


def test_a_forwarded_address_finds_no_run(proxied: httpx.Client, upstream: Gateway) -> None:
    """Any client of the proxy may claim any address, and the answer holds the run's token."""
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
