"""The launcher with the real LiteLLM: network access, routes, and shutdown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import openai
import psutil
import pytest

from litellm_openai_example.state import cache_dir

from ..fakes.upstream import Upstream
from .running import end, launch, say, serving

ASK = """
import openai, os
client = openai.OpenAI(base_url=os.environ["LITELLM_BASE_URL"] + "/v1", api_key=os.environ["LITELLM_API_KEY"])
print(client.responses.create(model="any-name", input="Reply with exactly: OK").output_text)
file = client.files.create(file=("a.txt", b"its content"), purpose="user_data")
assert client.files.content(file.id).read() == b"its content"
assert len(client.embeddings.create(model="text-embedding-3-small", input="hello").data[0].embedding) == 1536
raise SystemExit(7)
"""


class Recorder:
    """An HTTP proxy that records requests and forwards none."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener:
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(60)
                    line = connection.recv(4096).split(b"\r\n")[0].decode(errors="replace")
                    if line == "STOP":
                        return
                    self.seen.append(line)
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")

    def stop(self) -> None:
        with socket.create_connection(self._listener.getsockname()) as last:
            last.sendall(b"STOP")
        self._thread.join()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment with an empty home and the installed LiteLLM."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CACHE_HOME": str(cache_dir().parent)}


def test_routes_and_network_and_ids(env: dict[str, str], recorder: Recorder) -> None:
    with Upstream() as provider:
        env |= {"OPENAI_API_KEY": "sk-o", "ANTHROPIC_API_KEY": "sk-a", "GEMINI_API_KEY": "sk-g"}
        env |= {"OPENAI_BASE_URL": provider.base_url, "HTTP_PROXY": recorder.url, "HTTPS_PROXY": recorder.url}

        process, client = serving(env)
        try:
            assert recorder.seen == []  # nothing was fetched at boot
            for name in ("gpt-4o", "openai/gpt-4o", "another-name"):
                assert say(client, name).choices[0].message.content == "OK"
            file = client.files.create(file=("한글.txt", b"its content"), purpose="user_data")
            assert client.files.content(file.id).read() == b"its content"
            assert recorder.seen == []
            for name, host in {
                "claude-sonnet-4-5": "api.anthropic.com",
                "anthropic/claude-x": "api.anthropic.com",
                "gemini-2.5-flash": "generativelanguage.googleapis.com",
                "gemini/any": "generativelanguage.googleapis.com",
            }.items():
                recorder.seen.clear()
                with pytest.raises(openai.APIStatusError):
                    say(client, name)
                assert recorder.seen == [f"CONNECT {host}:443 HTTP/1.1"], name
            made = client.responses.create(model="gpt-4o", input="Reply with exactly: kept", background=True)

            # A killed launcher takes all its children with it.
            started = psutil.Process(process.pid).children(recursive=True)
            assert started
            process.kill()
            _, alive = psutil.wait_procs(started, timeout=60)
            assert not alive
        finally:
            client.close()
            end(process)

        # A second gateway on another port knows the ids that the first one issued.
        process, client = serving(env)
        try:
            limit = time.monotonic() + 20
            while (response := client.responses.retrieve(made.id)).status != "completed":
                assert time.monotonic() < limit
                time.sleep(0.1)
            assert response.output_text == "kept"

            reusing = launch(env, "--reuse", "--", sys.executable, "-c", ASK)
            out, err = reusing.communicate(timeout=60)
            assert (out, reusing.returncode) == ("OK\n", 7)
            assert "using the gateway that runs at" in err
            assert "no LLM" not in err

            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            client.close()
            end(process)
        state = Path(env["HOME"]) / ".local/state/litellm-openai-example"
        assert {file.name for file in state.iterdir()} == {"master-key", "salt"}


def test_the_recorder_would_see_a_fetch(env: dict[str, str], recorder: Recorder, litellm_python: Path) -> None:
    subprocess.run(
        [litellm_python, "-I", "-c", "import litellm"],
        env={**env, "HTTPS_PROXY": recorder.url, "HTTP_PROXY": recorder.url},
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert recorder.seen


def test_one_command_without_any_provider(env: dict[str, str]) -> None:
    process = launch({**env, "ALL_PROXY": "http://127.0.0.1:9"}, "--", sys.executable, "-c", ASK)
    out, err = process.communicate(timeout=120)
    assert (out, process.returncode) == ("OK\n", 7), err
    assert "no LLM is involved" in err
    assert sorted(os.listdir(env["HOME"])) == [".local"]
