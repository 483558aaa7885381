"""`python -m tests.tools.docs.session`: the picture of a terminal session, made from a real run on this machine.

Each command runs on a new terminal. Command and relay are real; the model behind the gateway is scripted, so that its
answers are worth reading. The picture shows the terminal at the end, without progress that was overwritten.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tempfile
import textwrap
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from ...fakes.scripted import KEY, Answer, Json, Seen, chat_events, eventually, free_port, reply, response_body, sse
from ...fakes.served import FakeGateway
from .blocks import ROOT

_COMMANDS = (
    'litellm-example "Who brought jajangmyeon to Korea? One sentence."',
    'litellm-example --auto-tool-call --timeout 900 "Research how jajangmyeon became Korean"',
)
_SHORT = "Immigrants from Shandong, who settled in Incheon after its port had opened in 1883."
_LONG = """Jajangmyeon grew out of zhajiangmian, which immigrants from Shandong brought to Incheon.

- 1905: Gonghwachun, in Incheon's Chinatown, is usually named as the first restaurant to sell it.
- 1948: Lion Brand sells chunjang sweetened with caramel, which made the sauce dark and mild.
- 2012: the Jajangmyeon Museum opens in Gonghwachun's old building."""
_SOURCES = {
    "Jajangmyeon": "https://en.wikipedia.org/wiki/Jajangmyeon",
    "Chunjang": "https://en.wikipedia.org/wiki/Chunjang",
}
_WIDTH, _LINE, _LEFT, _TOP = 100, 19, 20, 52
_LONGEST = 24  # lines of a command


def model(seen: Seen) -> Answer:
    """Answer as a model that calls deep_research, and as the research model of the relay."""
    if seen.method == "GET":
        return reply(_report(seen.path.rpartition("/")[2]))
    asked = seen.json
    if "chat" in seen.path:
        return sse(*chat_events(*re.findall(r"\S+\s*", _SHORT)))
    if asked.get("background"):
        return reply(response_body(None, "queued", id="resp_research"))
    if any(isinstance(item, dict) and item.get("type") == "function_call_output" for item in asked["input"]):
        return _streamed(asked, _report("resp_answer"))
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "deep_research"}
    question = '{"research_question": "How did jajangmyeon become Korean?"}'
    return _streamed(asked, response_body(None, id="resp_call", output=[{**call, "arguments": question}]))


def _report(response_id: str) -> Json:
    cited = [{"type": "url_citation", "url": url, "title": title} for title, url in _SOURCES.items()]
    part = {"type": "output_text", "text": _LONG, "annotations": cited}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    return response_body(id=response_id, output=[message])


def _streamed(asked: Json, response: Json) -> Answer:
    return sse({"type": "response.completed", "response": response}) if asked.get("stream") else reply(response)


@contextmanager
def relay(env: dict[str, str]) -> Iterator[str]:
    """Run a relay, and yield its address."""
    port = free_port()
    program = [str(Path(sys.executable).parent / "litellm-relay"), "--port", str(port)]
    with subprocess.Popen(program, env=env, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            if not eventually(lambda: _ready(url)):
                raise RuntimeError("the relay did not start")
            yield url
        finally:
            process.terminate()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz"):
            return True
    except OSError:
        return False


def record(command: str, env: dict[str, str]) -> list[str]:
    """Run a command and return the lines on its terminal at the end."""
    reader, terminal = pty.openpty()
    with subprocess.Popen(["sh", "-c", command], stdout=terminal, stderr=terminal, cwd=ROOT, env=env) as process:
        os.close(terminal)
        shown = bytearray()
        try:
            while piece := os.read(reader, 4096):
                shown += piece
        except OSError:  # the terminal closed with the last program on it
            pass
        os.close(reader)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}: {shown.decode(errors='replace')}")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", lambda code: "\x1b" if code[0] == "\x1b[K" else "", shown.decode())
    return [line for line in map(_as_seen, text.replace("\r\n", "\n").split("\n")) if line is not None]


def _as_seen(line: str) -> str | None:
    """Return the visible rest of an overwritten line; None if it was erased."""
    written = line.split("\r")[-1].replace("\x1b", "")
    return None if not written.strip() and "\r" in line else written


def draw(sessions: dict[str, list[str]]) -> str:
    """Return a picture of commands and their output."""
    rows: list[tuple[str, str]] = []
    for command, lines in sessions.items():
        rows.append(("command", f"$ {command}"))
        wrapped = [part for line in lines for part in (textwrap.wrap(line, _WIDTH) or [""])]
        rows += [("text", line) for line in wrapped[:_LONGEST]]
        if len(wrapped) > _LONGEST:
            rows.append(("text", "[...]"))
        while rows[-1][1] == "":
            rows.pop()
        rows.append(("text", ""))
    width, height = _LEFT * 2 + _WIDTH * 8, _TOP + _LINE * len(rows)
    colors = {"command": "#7ee787", "text": "#e6edf3"}
    text = "\n".join(
        f'<text x="{_LEFT}" y="{_TOP + _LINE * number}" fill="{colors[kind]}" xml:space="preserve">'
        f"{escape(line)}</text>"
        for number, (kind, line) in enumerate(rows)
        if line
    )
    dots = "".join(
        f'<circle cx="{24 + 20 * number}" cy="20" r="6" fill="{color}"/>'
        for number, color in enumerate(("#ff5f56", "#ffbd2e", "#27c93f"))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
 font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13" role="img" aria-label="A terminal session">
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
{dots}
{text}
</svg>
"""


def main() -> None:
    """Draw `docs/session.svg`."""
    with tempfile.TemporaryDirectory() as state, FakeGateway(model) as gateway:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("LITELLM_", "RELAY_"))}
        env |= {"LITELLM_BASE_URL": gateway.url, "LITELLM_API_KEY": KEY, "XDG_STATE_HOME": state}
        env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "NO_PROXY": "127.0.0.1"}
        env |= {"COLUMNS": str(_WIDTH), "TERM": "xterm-256color", "NO_COLOR": "1"}
        with relay(env) as url:
            picture = draw({command: record(command, {**env, "RELAY_BASE_URL": url}) for command in _COMMANDS})
    (ROOT / "docs" / "session.svg").write_text(picture)


if __name__ == "__main__":
    main()
