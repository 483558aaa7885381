"""The same calls in Node with OpenAI's SDK, in a separate folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litellm-openai-example" / "bench-node"

_SCRIPTS = {
    "chat": """const reply = await client.chat.completions.create(
  {model: "gpt-4o", messages: [{role: "user", content: PROMPT}]});
console.log(reply.choices[0].message.content);""",
    "responses": """const reply = await client.responses.create({model: "gpt-4o", input: PROMPT});
console.log(reply.output_text);""",
    "responses stream": """for await (const event of await client.responses.create(
  {model: "gpt-4o", input: PROMPT, stream: true}))
  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);""",
}


def install_node(prompt: str) -> dict[str, list[str]]:
    """Return a command for each call; empty if node or npm is missing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        print("node: left out, there is no node or npm", file=sys.stderr)
        return {}
    try:
        _ROOT.mkdir(parents=True, exist_ok=True)
        if not (_ROOT / "node_modules" / "openai").is_dir():
            (_ROOT / "package.json").write_text('{"private": true, "type": "module"}')
            subprocess.run([npm, "install", "--silent", "--no-fund", "--no-audit", "openai"], cwd=_ROOT, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"node: left out, the SDK cannot be installed ({error})", file=sys.stderr)
        return {}
    commands = {}
    for name, script in _SCRIPTS.items():
        file = _ROOT / f"{name.replace(' ', '-')}.js"
        head = f'import OpenAI from "openai";\nconst PROMPT = {json.dumps(prompt)};\nconst client = new OpenAI();\n'
        file.write_text(head + script + "\n")
        commands[name] = [node, str(file)]
    return commands


def node_versions() -> str:
    """Return the versions of Node and of the SDK; empty if it is not installed."""
    try:
        sdk = json.loads((_ROOT / "node_modules" / "openai" / "package.json").read_text())["version"]
        node = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    except (OSError, ValueError, KeyError):
        return ""
    return f"node {node.removeprefix('v')} openai {sdk}"
