"""The generated parts of the documents: the help texts of the commands.

A block is between `<!-- NAME -->` and `<!-- /NAME -->`; `make docs` regenerates them all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/api").glob("*.md")])


def pages(name: str) -> str:
    """Return the text of a document, such as `docs/relay.md`, and of its further pages, such as `docs/relay-api.md`."""
    path = Path(name)
    found = sorted(ROOT.glob(f"{path.with_suffix('')}*{path.suffix}"))
    return "\n".join(page.read_text() for page in found)


def fill(text: str) -> str:
    """Return a text with each known block regenerated; unknown marks stay."""
    for name, make in _BLOCKS.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        if begin and end:
            text = f"{before}{begin}{make()}{end}{after}"
    return text


def _help(*command: str) -> Callable[[], str]:
    def text() -> str:
        env = {**os.environ, "COLUMNS": "80"}
        for name in ("LITELLM_BASE_URL", "LITELLM_API_KEY", "LITELLM_MODEL"):
            env.pop(name, None)
        program = [str(Path(sys.executable).parent / command[0]), *command[1:], "--help"]
        shown = subprocess.run(program, capture_output=True, text=True, timeout=60, env=env, check=True).stdout
        return f"```text\n{shown.rstrip()}\n```"

    return text


_BLOCKS: dict[str, Callable[[], str]] = {
    "help": _help("litellm-example"),
    "help-relay": _help("litellm-relay"),
    "help-relay-serve": _help("litellm-relay", "serve"),
    "help-relay-mcp": _help("litellm-relay-mcp"),
}
