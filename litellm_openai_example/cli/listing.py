"""`--list` and `--forget`: the records of the journal."""

from __future__ import annotations

import json
import time

from ..config import ConfigurationError
from ..console import FAILED
from ..errors import one_line
from . import journal
from .again import typed
from .journal import RESEARCH, RESPONSE, Record
from .options import Options
from .output import Output, notice


def run(options: Options) -> int:
    """Carry out --list or --forget; returns the exit code. Raises ConfigurationError."""
    return _list(options) if options.list_work else _forget(options.forget or "")


def _list(options: Options) -> int:
    """Print one line for each record, or JSON; the tokens of research runs stay where they are."""
    now = time.time()
    found = journal.all_records()
    if options.json:
        text = json.dumps([_entry(one, now) for one in found], ensure_ascii=False)
    else:
        text = "\n".join(_line(one, now) for one in found)
    Output().paragraph(text)
    responses = [one for one in found if one.kind == RESPONSE]
    if any(one.confirmed for one in responses):
        notice(f"Pick up a {RESPONSE}: {typed('--retrieve', 'ID', '--wait')}")
    if any(one.kind == RESEARCH for one in found):
        notice(f"Pick up a {RESEARCH}: {typed('--invocation', 'ID')}")
    if not all(one.confirmed for one in responses):
        notice(f"Dismiss an entry: {typed('--forget', 'ID')}")
    if not found:
        notice("nothing is waiting to be read")
    return 0


def _forget(work_id: str) -> int:
    entry = journal.find(work_id)
    if entry is None:
        raise ConfigurationError(f"nothing is kept here as {one_line(work_id)}: --list shows what is")
    try:
        journal.forget(entry)
    except OSError as error:
        notice(f"Error: cannot remove the record of {entry.id}: {error.strerror or error}")
        return FAILED
    notice(f"forgotten: {_line(entry, time.time())}")
    return 0


def _entry(one: Record, now: float) -> dict[str, object]:
    return {
        "id": one.id,
        "kind": one.kind,
        "confirmed": one.confirmed,
        "age_seconds": max(0, round(now - one.created)),
        "prompt": one.words,
        "address": one.relay or one.gateway,
    }


def _line(one: Record, now: float) -> str:
    kind = one.kind
    if not one.confirmed:
        kind += ", not confirmed"
        kind += " (it may have been executed; its id is not known)" if one.kind == RESPONSE else ""
    work_id = one.id if one.id.isprintable() else ascii(one.id)
    return f"{work_id}  {one_line(kind)}, {_age(now - one.created)}: {one_line(one.words)}"


def _age(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{max(0.0, seconds):.0f} s ago"
