"""`--list`: what waits to be read."""

from __future__ import annotations

import json
import time

from . import work
from .again import typed
from .options import Options
from .output import Output, notice


def list_work(options: Options) -> int:
    """Print one line for each, or JSON; the tokens of research runs stay where they are. Raises ConfigurationError."""
    now = time.time()
    found = work.remembered()
    if options.json:
        entries = [
            {"id": one.id, "kind": one.kind, "age_seconds": max(0, round(now - one.created)), "prompt": one.words}
            for one in found
        ]
        text = json.dumps(entries, ensure_ascii=False)
    else:
        text = "\n".join(f"{one.id}  {one.kind}, {_age(now - one.created)}: {one.words}" for one in found)
    Output().paragraph(text)
    for kind, arguments in ((work.RESPONSE, ("--retrieve", "ID", "--wait")), (work.RESEARCH, ("--invocation", "ID"))):
        if any(one.kind == kind for one in found):
            notice(f"Pick up a {kind}: {typed(*arguments)}")
    if not found:
        notice("nothing is waiting to be read")
    return 0


def _age(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{max(0.0, seconds):.0f} s ago"
