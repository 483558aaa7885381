"""`python -m tests.tools.docs.session`: the picture of a terminal session, made from a real run on this machine.

Each command runs on a new terminal, with the embedded gateway and the offline model. The picture shows the terminal at
the end, without progress that was overwritten.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import tempfile
import textwrap
from html import escape

from .blocks import ROOT

_COMMANDS = (
    'make run PROMPT="Reply with exactly: OK"',
    'make run-auto PROMPT="Research the history of jajangmyeon"',
)
_WIDTH, _LINE, _LEFT, _TOP = 100, 19, 20, 52
_LONGEST = 24  # lines of a command


def record(command: str, state: str) -> list[str]:
    """Run a command and return the lines on its terminal at the end."""
    reader, terminal = pty.openpty()
    env = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    env |= {"XDG_STATE_HOME": state, "COLUMNS": str(_WIDTH), "TERM": "xterm-256color", "NO_COLOR": "1"}
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
    text = text.replace(state, "~/.local/state")
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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        picture = draw({command: record(command, folder) for command in _COMMANDS})
    (ROOT / "docs" / "session.svg").write_text(picture)
