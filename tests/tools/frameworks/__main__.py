"""`make test-frameworks`: drive each library of docs/frameworks*.md with the SDK's client and with ours.

The newest release of each library is installed into a separate environment under the cache directory. With
`--write` the measurements replace the table in the document; otherwise its counts are checked.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from litellm_openai_example.gateway.environment import find_uv
from litellm_openai_example.gateway.offline import wire
from litellm_openai_example.gateway.offline.model import Completion

from ...fakes.scripted import Answer, Seen, reply, sse
from ...fakes.served import FakeGateway
from .driver import TIMEOUT

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/frameworks.md"
EXAMPLES = PAGE, ROOT / "docs/frameworks-agents.md"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litellm-openai-example/frameworks"
# What is installed for the examples; the first one's version is shown. An example's name may say which API it uses.
PACKAGES = {
    "langchain": ["langchain-openai"],
    "llama-index": ["llama-index-llms-openai"],
    "haystack": ["haystack-ai"],
    "instructor": ["instructor"],
    "pydantic-ai": ["pydantic-ai-slim[openai]"],
    "openai-agents": ["openai-agents"],
    "agent-framework": ["agent-framework-openai"],
    "autogen": ["autogen-ext[openai]", "autogen-agentchat"],
    "crewai": ["crewai"],
    "smolagents": ["smolagents[openai]"],
    "dspy": ["dspy"],
    "tool-runner": ["openai"],
}
BEGIN, END = "<!-- frameworks -->", "<!-- /frameworks -->"
TEXT = '{"name":"blue"}'
FAULTS = {
    "500": reply({"error": {"message": "the provider broke the connection", "type": "server_error"}}, 500),
    "dropped": Answer(drop=True),
    "hangs": Answer(pause=60),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-frameworks", description=__doc__)
    parser.add_argument("names", nargs="*", help="the examples to drive; all, unless some are named")
    parser.add_argument("--write", action="store_true", help="write the table into docs/frameworks.md")
    given = parser.parse_args()
    text = "".join(page.read_text() for page in EXAMPLES)
    examples = dict(re.findall(r'^```python title="(\S+)"\n(.*?)^```', text, re.DOTALL | re.MULTILINE))
    rows, faults = list[str](), list[str]()
    for name in given.names or examples:
        python, versions = installed(name)
        with ThreadPoolExecutor() as pool:
            drive = partial(driven, python, name, examples[name])
            plain, ours = pool.map(drive, ("plain", "ours"))
        row = written(name, versions, plain, ours)
        print(row, flush=True)
        rows.append(row)
        faults += [f"{name}: {fault}" for fault in broken(name, ours)]
        if not given.write and counts(row) not in map(counts, PAGE.read_text().splitlines()):
            faults.append(f"{name}: the counts are not those of {PAGE.name}")
    if given.write:
        page = re.sub(
            r"(<!-- frameworks -->\n).*?(<!-- /frameworks -->)", rf"\1{table(rows)}\2", PAGE.read_text(), flags=re.S
        )
        PAGE.write_text(page)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def installed(name: str) -> tuple[Path, str]:
    """Return the interpreter of the environment with the library, and the versions that it has."""
    packages = next(packages for family, packages in PACKAGES.items() if name.startswith(family))
    folder = CACHE / packages[0].partition("[")[0]
    python = folder / "bin/python"
    environment = {
        key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    }
    uv: list[str | Path] = [find_uv(), "--quiet"]
    if not python.exists():
        subprocess.run([*uv, "venv", "--python", sys.executable, folder], check=True, env=environment)
    install = [*uv, "pip", "install", "--python", python, "--upgrade", "--editable", ROOT, *packages]
    subprocess.run(install, check=True, env=environment)
    named = dict.fromkeys([packages[0].partition("[")[0], "openai"])
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return python, subprocess.run(
        [python, "-c", code, *named], check=True, capture_output=True, text=True
    ).stdout.strip()


@dataclass
class Measured:
    """The outcome of one situation: the requests that arrived, and its end."""

    posts: int = 0
    seconds: float = 0.0
    answer: str | None = None
    error: str | None = None


@dataclass
class Run:
    """A library with one client: its situations, and its output to stderr."""

    situations: dict[str, Measured] = field(default_factory=dict)
    stderr: str = ""


def driven(python: Path, name: str, code: str, kind: str) -> Run:
    """Run the driver against a fresh gateway."""
    run = Run()
    environment = {
        **{key: value for key, value in os.environ.items() if "PROXY" not in key.upper()},
        "OPENAI_API_KEY": "sk-other",
        "CREWAI_DISABLE_TELEMETRY": "true",
        "OTEL_SDK_DISABLED": "true",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
    }
    with FakeGateway(answered) as gateway:
        driver: list[str | Path] = [python, Path(__file__).with_name("driver.py"), name, kind, gateway.url, code]
        done = subprocess.run(driver, env=environment, capture_output=True, text=True, timeout=300, check=False)
        run.stderr = done.stderr[-2000:]
        for line in done.stdout.splitlines():
            if line.startswith('{"situation"'):
                told = json.loads(line)
                situation = told.pop("situation")
                posts = [post for post in gateway.posts if post.path.startswith(f"/{situation}/")]
                run.situations[situation] = Measured(len(posts), **told)
    return run


def answered(seen: Seen) -> Answer:
    """Answer as the first part of the path says. If an example has a tool, its first turn succeeds."""
    if seen.method != "POST":
        return reply({"object": "list", "data": []})
    situation, body = seen.path.split("/")[1], seen.json
    calls_tool = bool(body.get("tools")) and not any("call_id" in item for item in wire.input_items(body))
    if not calls_tool and situation in FAULTS:
        return FAULTS[situation]
    said = Completion(call=body["tools"][0]["name"], arguments="{}") if calls_tool else Completion(TEXT)
    if not seen.path.endswith("/responses"):
        chat = wire.chat_completion(wire.chat_request(body), said)
        return sse(*wire.chat_chunks(chat, with_usage=True)) if body.get("stream") else reply(chat)
    response = wire.response(body, wire.response_request(body, ()), said)
    if not body.get("stream"):
        return reply(response)
    events = ({**event, "sequence_number": number} for number, event in enumerate(wire.response_events(response)))
    return sse(
        *(b"event: %s\ndata: %s\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in events), done=False
    )


def broken(name: str, ours: Run) -> list[str]:
    """Return the promises that our client broke."""
    if not ours.situations:
        return [f"it did not run: {ours.stderr}"]
    faults = list[str]()
    turns = 1 if name == "tool-runner" else 0
    for situation, measured in ours.situations.items():
        if situation in ("answer", "stream"):
            if (measured.answer or "").replace(" ", "") != TEXT:
                faults.append(f"{situation}: {measured.answer or measured.error}")
        elif measured.error is None or measured.posts != turns + 1:
            faults.append(f"{situation}: {measured.posts} POSTs, {measured.error or measured.answer}")
    if ours.situations.get("hangs", Measured()).seconds > 6:
        faults.append(f"hangs: {ours.situations['hangs'].seconds:.1f} s, {ours.situations['hangs'].error}")
    return faults


def table(rows: list[str]) -> str:
    """Return the table of the document."""
    head = (
        "Requests that reach the gateway, with the SDK's own client -> with ours, in one run on Python "
        f"{sys.version_info[0]}.{sys.version_info[1]}.\nThe clients' time limit is {TIMEOUT:g} s. "
        "`-`: the example does not stream.\n\n"
    )
    columns = "example | versions | answers, streams | 500 | accepted, then dropped | hangs"
    return f"{head}| {columns} |\n|{'---|' * len(columns.split('|'))}\n" + "\n".join(rows) + "\n"


def written(name: str, versions: str, plain: Run, ours: Run) -> str:
    """Return the table's row of a library."""

    def both(situation: str, *, seconds: bool = False) -> str:
        runs = [run.situations.get(situation, Measured()) for run in (plain, ours)]
        return " -> ".join(f"{one.posts}" + (f" ({one.seconds:.1f} s)" if seconds else "") for one in runs)

    def works(situation: str) -> str:
        measured = ours.situations.get(situation)
        return "-" if measured is None else "yes" if measured.answer else "no"

    cells = [f"`{name}`", versions, f"{works('answer')}, {works('stream')}"]
    return f"| {' | '.join(cells)} | {both('500')} | {both('dropped')} | {both('hangs', seconds=True)} |"


def counts(row: str) -> list[str]:
    """Return the reproducible part of a row: all but versions and seconds."""
    cells = [re.sub(r" \([\d.]+ s\)", "", cell.strip()) for cell in row.strip("|").split("|")]
    return [*cells[:1], *cells[2:]]


if __name__ == "__main__":
    sys.exit(main())
