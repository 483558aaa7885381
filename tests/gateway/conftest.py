"""A gateway whose LiteLLM is a small stand-in that starts at once; the launcher and its files are real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from pathlib import Path

import psutil
import pytest

from litellm_openai_example.gateway import environment

from .terminal import Terminal, kept

# It answers requests that carry the key, or fails as OPENAI_STANDIN says; other options are ignored.
STANDIN = """
import json, os, pathlib, sys, time
import uvicorn

app = None

def run_server():
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    home, mode = pathlib.Path(os.environ["HOME"]), os.environ.get("OPENAI_STANDIN", "")
    print("stand-in output", os.environ["LITELLM_MASTER_KEY"], os.environ.get("OPENAI_API_KEY"), flush=True)
    config = json.loads(pathlib.Path(arguments["--config"]).read_text())
    seen = {"env": dict(os.environ), "config": config, "path": sys.path}
    (home / "proxy-environment.json").write_text(json.dumps(seen))
    if mode == "dies":
        sys.exit("it has died for https://user:hunter22@example.com")
    if mode == "hangs":
        time.sleep(60)
    while mode == "boots" and not (home / "booted").exists():
        time.sleep(0.02)
    uvicorn.run("litellm:app", host=arguments["--host"], port=int(arguments["--port"]))
"""
STANDIN_UVICORN = """
import http.server, os, signal, threading

class Config:
    def __init__(self, app, **options):
        pass

class Server:
    started = True

    def __init__(self, config):
        pass

    def run(self, sockets):
        mode = os.environ.get("OPENAI_STANDIN", "")
        if mode == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        server.socket.close()
        [server.socket] = sockets
        if mode == "ends":
            threading.Timer(1.5, server.shutdown).start()
        server.serve_forever()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["authorization"] == "Bearer " + os.environ["LITELLM_MASTER_KEY"]
        self.send_response(200 if known else 401)
        self.send_header("content-length", "0")
        self.end_headers()
"""


class Launcher:
    """Starts `python -m litellm_openai_example.gateway`, and ends every process that it started."""

    def __init__(self, env: Mapping[str, str], home: Path) -> None:
        self.env = dict(env)
        self.home = home
        self.state = home / ".local/state/litellm-openai-example"
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "litellm_openai_example.gateway", *arguments],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def serve(self, *arguments: str, **env: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        """Start a gateway; return it with the exports that it printed."""
        process = self.start(*arguments, **env)
        assert process.stdout is not None
        exports: dict[str, str] = {}
        while "LITELLM_API_KEY" not in exports:
            line = process.stdout.readline()
            assert line.startswith("export "), process.communicate(timeout=60)
            name, _, value = line.removeprefix("export ").rstrip("\n").partition("=")
            exports[name] = value
        return process, exports

    def end_all(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def proxy_of(launcher: subprocess.Popen[str]) -> psutil.Process:
    """Return the proxy that a launcher started."""
    children = [child for child in psutil.Process(launcher.pid).children() if "boot.py" in " ".join(child.cmdline())]
    assert len(children) == 1
    return children[0]


def wait_until(condition: Callable[[], bool], seconds: float = 150.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "the condition was not met in time"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache directory in which the stand-in is installed."""
    cache = tmp_path_factory.mktemp("cache")
    requirements = resources.files(environment.__package__).joinpath(environment.REQUIREMENTS).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        root = environment.location(requirements)
    venv.create(root, symlinks=True)
    packages = next(root.glob("lib/python*/site-packages"))
    (packages / "litellm.py").write_text(STANDIN)
    (packages / "uvicorn.py").write_text(STANDIN_UVICORN)
    (root / ".complete").touch()
    return cache


@pytest.fixture
def launcher(standin: Path, tmp_path: Path) -> Iterator[Launcher]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    env = {**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(standin), "PYTHONPATH": "/not-for-litellm"}
    launcher = Launcher(env, tmp_path)
    yield launcher
    launcher.end_all()


@pytest.fixture
def open_terminal(launcher: Launcher) -> Iterator[Callable[[], Terminal]]:
    with ExitStack() as ends:

        def opened() -> Terminal:
            terminal = Terminal({**launcher.env, "TERM": "xterm"})
            ends.callback(terminal.end)
            return terminal

        yield opened
    wait_until(lambda: not kept(launcher.home))


@pytest.fixture
def terminal(open_terminal: Callable[[], Terminal]) -> Terminal:
    return open_terminal()


# Listens on a port in each way that a system may allow, and prints all that it is sent.
STRANGER = """
import os, socket, sys, threading
port, listening = int(sys.argv[1]), []
for host in ("127.0.0.1", "0.0.0.0", "::", "127.0.0.2"):
    for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT), (socket.SO_REUSEPORT,)):
        one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        for option in options:
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            one.bind((host, port))
            one.listen()
        except OSError:
            continue
        listening.append(one)
print(os.geteuid(), flush=True)

def serve(one):
    while True:
        taken, _ = one.accept()
        print("stolen:", taken.recv(65536), flush=True)
        taken.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n")
        taken.close()

for one in listening:
    threading.Thread(target=serve, args=(one,), daemon=True).start()
sys.stdin.read()
"""


@contextmanager
def stranger(port: int) -> Iterator[list[str]]:
    """Start a process of another user that listens on a port if it can; without root it runs as this user.

    Yields:
        a list that holds all that was sent to it, at the end of the block.
    """
    python = [sys.executable, "-I", "-c", STRANGER, str(port)]
    setpriv = shutil.which("setpriv")
    if os.geteuid() == 0 and setpriv and os.access(sys.executable, os.X_OK):
        become = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]
        reaches = subprocess.run([*become, sys.executable, "-I", "-c", ""], stderr=subprocess.DEVNULL).returncode == 0
        python = [*become, *(python if reaches else ["/usr/bin/python3", *python[1:]])]
    process = subprocess.Popen(python, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    stolen: list[str] = []
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        yield stolen
    finally:
        stolen += process.communicate(timeout=60)[0].splitlines()
