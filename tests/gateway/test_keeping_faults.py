"""Faults, kills and strangers around a gateway that stays, and how it is stopped."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from ..tools.ending import has_ended
from .conftest import Launcher, proxy_of, stranger, wait_until
from .terminal import GATEWAY, KEEP, PRINT, WAIT, Terminal, keeper_of, kept

BRIEFLY = {"LITELLM_KEEP_GATEWAY": "0.001"}


def launcher_in(terminal: Terminal) -> psutil.Process:
    """Return the launcher that runs in a terminal."""
    (launcher,) = terminal.processes()
    return launcher


# Kills


@pytest.mark.parametrize("victim", ["keeper", "LiteLLM"])
def test_a_killed_gateway_is_started_again(launcher: Launcher, terminal: Terminal, victim: str) -> None:
    terminal.run(*KEEP, command=PRINT)
    keeper = keeper_of(launcher.home)
    (keeper if victim == "keeper" else keeper.children()[0]).kill()
    wait_until(lambda: not kept(launcher.home))
    before = len(terminal.shown)
    assert terminal.run(*KEEP, command=PRINT)[1] == 0
    assert "starting LiteLLM" in terminal.shown[before:]
    assert len(kept(launcher.home)) == 2
    assert len(list(launcher.state.glob("proxy-*"))) == 2


def test_a_gateway_ends_with_a_launcher_that_is_killed_while_it_boots(launcher: Launcher, terminal: Terminal) -> None:
    terminal.start(*KEEP, command=PRINT, OPENAI_STANDIN="hangs")
    wait_until(lambda: (launcher.home / "proxy-environment.json").exists())
    launcher_in(terminal).kill()
    assert terminal.finished() == ("", 137)
    wait_until(lambda: not kept(launcher.home))


def test_a_killed_keeper_that_boots_is_an_error(launcher: Launcher, terminal: Terminal) -> None:
    terminal.start(*KEEP, command=PRINT, OPENAI_STANDIN="hangs")
    wait_until(lambda: (launcher.home / "proxy-environment.json").exists())
    keeper_of(launcher.home).kill()
    assert terminal.finished() == ("", 1)
    wait_until(lambda: terminal.shown.endswith("Error: the gateway ended with code -9 while it started\n"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a program when its parent ends")
def test_a_killed_launcher_ends_its_command_and_its_use(launcher: Launcher, terminal: Terminal) -> None:
    terminal.start(*KEEP, command=WAIT, **BRIEFLY)
    terminal.line()
    process = launcher_in(terminal)
    (command,) = [child for child in process.children() if child != keeper_of(launcher.home)]
    process.kill()
    wait_until(lambda: has_ended(command) and not kept(launcher.home))


def test_a_gateway_that_cannot_start_is_an_error_as_without_keep(launcher: Launcher, terminal: Terminal) -> None:
    given = {"OPENAI_STANDIN": "dies", "OPENAI_API_KEY": "sk-very-private"}
    assert terminal.run(*KEEP, command=PRINT, **given) == ("", 1)
    wait_until(lambda: "it has died" in terminal.shown)
    assert "Error: the proxy ended with code 1:\nstand-in output [secret] [secret]\n" in terminal.shown
    assert "sk-very-private" not in terminal.shown
    assert not kept(launcher.home)
    assert not list(launcher.state.glob("proxy-*"))


def test_ctrl_c_ends_a_gateway_that_boots(launcher: Launcher, terminal: Terminal) -> None:
    terminal.start(*KEEP, command=PRINT, OPENAI_STANDIN="hangs")
    wait_until(lambda: (launcher.home / "proxy-environment.json").exists())
    terminal.interrupt()
    assert terminal.finished() == ("", 130)
    assert not kept(launcher.home)
    wait_until(lambda: terminal.shown.endswith("interrupted\n"))
    assert terminal.shown.count("interrupted") == 1
    assert not list(launcher.state.glob("proxy-*"))


def test_a_gateway_without_its_directory_ends(launcher: Launcher, terminal: Terminal) -> None:
    terminal.run(*KEEP, command=PRINT)
    shutil.rmtree(launcher.state)
    wait_until(lambda: not kept(launcher.home))


# Strangers

ASK_LATER = """
import http.client, os, pathlib, time
print(os.environ["LITELLM_BASE_URL"], flush=True)
while not (pathlib.Path.home() / "go").exists(): time.sleep(0.02)
connection = http.client.HTTPConnection(os.environ["LITELLM_BASE_URL"].removeprefix("http://"), timeout=60)
try:
    connection.request("GET", "/", headers={"authorization": os.environ["LITELLM_API_KEY"]})
    print("answered", connection.getresponse().status)
except (http.client.HTTPException, OSError) as error:
    print(type(error).__name__)
"""


def test_the_port_of_a_killed_gateway_cannot_be_taken_from_a_command(launcher: Launcher, terminal: Terminal) -> None:
    terminal.start(*KEEP, command=ASK_LATER)
    port = int(terminal.line().rpartition(":")[2])
    keeper_of(launcher.home).kill()
    wait_until(lambda: not kept(launcher.home))
    with stranger(port) as stolen:
        (launcher.home / "go").touch()
        out, _ = terminal.finished()
    assert stolen == []
    assert out.strip() in ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")  # at once, not at a timeout


def test_the_port_of_a_killed_gateway_in_a_terminal_cannot_be_taken_from_a_command(launcher: Launcher) -> None:
    serving, exports = launcher.serve()
    process = launcher.start("--reuse", "--", sys.executable, "-c", ASK_LATER)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{exports['LITELLM_BASE_URL']}\n"
    litellm = proxy_of(serving)
    serving.kill()
    wait_until(lambda: has_ended(litellm))
    with stranger(int(exports["LITELLM_BASE_URL"].rpartition(":")[2])) as stolen:
        (launcher.home / "go").touch()
        out, _ = process.communicate(timeout=60)
    assert stolen == []
    assert out.strip() in ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")


def test_no_key_goes_to_the_port_of_a_killed_gateway(launcher: Launcher, terminal: Terminal) -> None:
    first, _ = terminal.run(*KEEP, command=PRINT)
    keeper_of(launcher.home).kill()
    wait_until(lambda: not kept(launcher.home))
    assert (launcher.state / "gateway.sock").exists()
    with stranger(int(first.split()[0].rpartition(":")[2])) as stolen:
        second, _ = terminal.run(*KEEP, command=PRINT)
    assert stolen == []
    assert second.split()[0] != first.split()[0]


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[1]\n", b'{"offline": true, "base_url": "http://x"}\n'])
def test_an_answer_without_a_socket_is_no_gateway(launcher: Launcher, terminal: Terminal, answer: bytes) -> None:
    launcher.run("--", sys.executable, "-c", "pass")
    door = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(launcher.state)
    try:
        door.bind("gateway.sock")
    finally:
        os.chdir(before)
    door.listen()

    def serve() -> None:
        connection, _ = door.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert terminal.run(*KEEP, command=PRINT)[1] == 0
    thread.join(60)
    door.close()
    assert len(kept(launcher.home)) == 2


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_something_else_in_place_of_the_socket(launcher: Launcher, terminal: Terminal, kind: str) -> None:
    launcher.run("--", sys.executable, "-c", "pass")
    place = launcher.state / "gateway.sock"
    match kind:
        case "file":
            place.touch()
        case "link":
            place.symlink_to(launcher.home / "nowhere")
        case "directory":
            place.mkdir()
    out, code = terminal.run(*KEEP, command=PRINT)
    assert (out.startswith("http://127.0.0.1:"), code) == (True, 0)
    assert len(kept(launcher.home)) == (0 if kind == "directory" else 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_socket_of_another_user_is_refused(launcher: Launcher, terminal: Terminal) -> None:
    terminal.run(*KEEP, command=PRINT)
    os.chown(launcher.state / "gateway.sock", 65534, 65534)
    assert terminal.run(*KEEP, command=PRINT) == ("", 2)
    wait_until(lambda: "'gateway.sock' in it belongs to the user nobody" in terminal.shown)


# Brings up the loopback interface of a new network namespace, and becomes another program.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_gateway_of_another_network_namespace_is_not_used(launcher: Launcher, terminal: Terminal) -> None:
    unshare = shutil.which("unshare")
    works = unshare and subprocess.run([unshare, "--net", "true"], stderr=subprocess.DEVNULL).returncode == 0
    if not unshare or not works:
        pytest.skip("only root may make a network namespace")
    url = terminal.run(*KEEP, command=PRINT)[0].split()[0]
    command = [
        unshare,
        "--net",
        sys.executable,
        "-c",
        LOOPBACK_UP,
        *GATEWAY,
        "--reuse",
        "--",
        sys.executable,
        "-c",
        PRINT,
    ]
    done = subprocess.run(command, env=launcher.env, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("http://127.0.0.1:")
    assert url not in done.stdout


# Stopping


def test_stop_ends_a_gateway_that_stays(launcher: Launcher, terminal: Terminal) -> None:
    terminal.run(*KEEP, command=PRINT)
    (litellm,) = keeper_of(launcher.home).children()
    done = launcher.run("--stop")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "[gateway] the gateway has ended\n")
    assert has_ended(litellm)
    wait_until(lambda: not kept(launcher.home))
    done = launcher.run("--stop")
    assert (done.returncode, done.stderr) == (0, "[gateway] no gateway stays\n")


def test_stop_leaves_a_gateway_to_the_command_that_uses_it(launcher: Launcher, terminal: Terminal) -> None:
    terminal.start(*KEEP, command=WAIT)
    url = terminal.line().split()[1]
    done = launcher.run("--stop")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "a command still uses the gateway, which ends with that command" in done.stderr
    assert len(kept(launcher.home)) == 2
    assert launcher.run("--reuse", "--", sys.executable, "-c", PRINT).stdout.split()[0] != url
    (launcher.home / "go").touch()
    assert terminal.finished() == ("", 0)
    wait_until(lambda: not kept(launcher.home))


def test_the_line_that_stops_it_works_as_printed(launcher: Launcher, terminal: Terminal) -> None:
    terminal.run(*KEEP, command=PRINT)
    wait_until(lambda: "stop it with: " in terminal.shown)
    line = terminal.shown.partition("stop it with: ")[2].splitlines()[0]
    subprocess.run(shlex.split(line), env=launcher.env, check=True, stderr=subprocess.DEVNULL, timeout=60)
    wait_until(lambda: not kept(launcher.home))
    terminal.run(*KEEP, command=PRINT, LITELLM_EXAMPLE_MAKE="run")
    wait_until(lambda: "stop it with: make gateway-stop\n" in terminal.shown)


def test_a_gateway_in_the_foreground_replaces_the_one_that_stays(launcher: Launcher, terminal: Terminal) -> None:
    terminal.run(*KEEP, command=PRINT)
    serving, exports = launcher.serve()
    wait_until(lambda: not [process for process in kept(launcher.home) if process.ppid() != serving.pid])
    assert terminal.run(*KEEP, command=PRINT)[0].split()[0] == exports["LITELLM_BASE_URL"]
    done = launcher.run("--stop")
    assert done.returncode == 1
    assert f"the gateway at {exports['LITELLM_BASE_URL']} runs in a terminal: Ctrl-C there stops it" in done.stderr
    assert serving.poll() is None
    serving.send_signal(signal.SIGINT)
    assert serving.wait(60) == 0


@pytest.mark.parametrize(
    "arguments", [["--keep"], ["--keep", "true"], ["--stop", "true"], ["--stop", "--reuse"], ["--stop", "--keep"]]
)
def test_bad_usage(launcher: Launcher, arguments: list[str]) -> None:
    done = launcher.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
