"""Another user of the machine tries to listen on the port that a key will be sent to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..tools.ending import has_ended
from .conftest import Launcher, proxy_of, stranger, wait_until

PRINT = "import os; print(os.environ['LITELLM_BASE_URL'], os.environ['LITELLM_API_KEY'])"


def announced(process: subprocess.Popen[str]) -> int:
    """Return the port that a launcher announces while LiteLLM boots."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"starting LiteLLM at http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AssertionError("no port was announced")


def test_the_port_cannot_be_taken_while_the_proxy_boots(launcher: Launcher) -> None:
    process = launcher.start("--", sys.executable, "-c", PRINT, OPENAI_STANDIN="boots")
    port = announced(process)
    with stranger(port) as stolen:
        (launcher.home / "booted").touch()
        out, _ = process.communicate(timeout=60)
    assert stolen == []
    assert out.split() == [f"http://127.0.0.1:{port}", (launcher.state / "master-key").read_text()]


def test_the_port_of_a_crashed_proxy_cannot_be_taken(launcher: Launcher) -> None:
    code = (
        "import http.client, os, sys\nprint('running', flush=True); sys.stdin.readline()\n"
        "connection = http.client.HTTPConnection(os.environ['LITELLM_BASE_URL'].removeprefix('http://'), timeout=60)\n"
        "connection.request('GET', '/', headers={'authorization': os.environ['LITELLM_API_KEY']})\n"
        "try:\n    print('answered', connection.getresponse().status)\n"
        "except (http.client.HTTPException, OSError) as error:\n    print(type(error).__name__)\n"
    )
    go, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "litellm_openai_example.gateway", "--", sys.executable, "-c", code],
        env=launcher.env, stdin=go, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(go)
    port = announced(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    proxy = proxy_of(process)
    proxy.kill()
    wait_until(lambda: has_ended(proxy))
    with stranger(port) as stolen:
        os.write(write, b"\n")
        os.close(write)
        out, _ = process.communicate(timeout=60)
    assert stolen == []
    assert out.strip() in ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")  # at once, not at a timeout


def test_no_key_goes_to_the_port_of_a_killed_gateway_in_a_terminal(launcher: Launcher) -> None:
    serving, exports = launcher.serve()
    proxy = proxy_of(serving)
    serving.kill()
    serving.communicate()
    proxy.wait(60)
    assert (launcher.state / "gateway.sock").exists()
    with stranger(int(exports["LITELLM_BASE_URL"].rpartition(":")[2])) as stolen:
        done = launcher.run("--reuse", "--", sys.executable, "-c", PRINT)
    assert stolen == []
    assert exports["LITELLM_BASE_URL"] not in done.stdout


# Brings up the loopback interface of a new network namespace, listens there, and runs a launcher.
ELSEWHERE = """
import fcntl, socket, struct, subprocess, sys, threading
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))

def serve():
    while True:
        taken, _ = listener.accept()
        print("stolen:", taken.recv(65536), flush=True)
        taken.close()

threading.Thread(target=serve, daemon=True).start()
subprocess.run(sys.argv[2:])
"""


def test_a_gateway_in_another_network_namespace_is_not_used(launcher: Launcher) -> None:
    unshare = shutil.which("unshare")
    works = unshare and subprocess.run([unshare, "--net", "true"], stderr=subprocess.DEVNULL).returncode == 0
    if not unshare or not works:
        pytest.skip("only root may make a network namespace")
    _, exports = launcher.serve()
    # As in a container that shares the home directory: the gateway is found, but its port belongs to a stranger there.
    gateway = [sys.executable, "-m", "litellm_openai_example.gateway", "--reuse", "--", sys.executable, "-c", PRINT]
    port = exports["LITELLM_BASE_URL"].rpartition(":")[2]
    command = [unshare, "--net", sys.executable, "-c", ELSEWHERE, port, *gateway]
    done = subprocess.run(command, env=launcher.env, capture_output=True, text=True, timeout=60)
    assert "starting LiteLLM" in done.stderr
    assert "stolen" not in done.stdout
    assert exports["LITELLM_BASE_URL"] not in done.stdout


@pytest.mark.parametrize("name", ["master-key", "salt"])
def test_a_planted_key_is_refused(launcher: Launcher, name: str, tmp_path: Path) -> None:
    launcher.state.mkdir(parents=True, mode=0o700)
    (tmp_path / "planted").write_text("sk-known-to-another-user")
    (launcher.state / name).symlink_to(tmp_path / "planted")
    done = launcher.run("--", sys.executable, "-c", PRINT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"{name}' is not trusted: it is a symbolic link; remove it" in done.stderr
    assert not (launcher.home / "proxy-environment.json").exists()
