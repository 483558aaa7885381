"""`python -m tests.tools.licences`: write docs/gateway-licences.md from the metadata of the packages."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import resources
from pathlib import Path

from litellm_openai_example.gateway import environment

DOCUMENT = Path(__file__).parents[2] / "docs" / "gateway-licences.md"
# Runs in the gateway's environment. Prefers an SPDX expression, then a short text, then the classifiers.
_ASK = """
import importlib.metadata, json
def licence(about):
    named = [c.split(" :: ")[-1] for c in about.get_all("Classifier") or () if c.startswith("License :: OSI")]
    text = (about.get("License") or "").strip()
    return about.get("License-Expression") or (text if 0 < len(text) < 60 else "") or " / ".join(named) or "not stated"
print(json.dumps({d.metadata["Name"]: [d.version, licence(d.metadata)] for d in importlib.metadata.distributions()}))
"""
_HEAD = """# Packages of the embedded gateway

`make gateway` and `make run` install LiteLLM and its dependencies into a separate environment in the user's cache
directory; none of them is part of this package. The table lists the licence that each package declares.
`make gateway-lock` generates it, so packages for other systems are "not installed here". LiteLLM's proprietary
`litellm-enterprise` is not installed.

| Package | Version | Licence |
|---|---|---|
"""


def pinned() -> dict[str, str]:
    """Return the packages of requirements.txt with their versions; some have two, for older and newer Pythons."""
    text = resources.files(environment.__package__).joinpath(environment.REQUIREMENTS).read_text()
    versions: dict[str, str] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE):
        versions[name] = f"{versions[name]} or {version}" if name in versions else version
    return versions


def document() -> str:
    """Return the whole document; install the gateway if it is missing."""
    asked = subprocess.run([environment.ensure(print), "-I", "-c", _ASK], capture_output=True, check=True)
    found = {_normal(name): about for name, about in json.loads(asked.stdout).items()}
    rows = [
        f"| {name} | {version} | {_one_line(found[name][1]) if name in found else 'not installed here'} |"
        for name, version in sorted(pinned().items())
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


if __name__ == "__main__":
    DOCUMENT.write_text(document())
