"""Measure how many bytes of the ledger a run takes, in SQLite and in PostgreSQL: `python -m tests.tools.room`.

Runs go through the ledger as a relay takes them: accepted, claimed, submitted, streamed, settled. Their reports are
sentences of this project's documents in random order, which a database compresses as little as a real report.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, insert, text
from sqlalchemy.engine import make_url

from litellm_openai_example.calls.answer import read_response
from litellm_openai_example.payer import Payer
from litellm_openai_example.relay.engine.outcome import outcome_of
from litellm_openai_example.relay.ledger.database import Database
from litellm_openai_example.relay.ledger.records import NewInvocation, Outcome
from litellm_openai_example.relay.ledger.schema import pieces
from litellm_openai_example.relay.ledger.states import Ledger
from litellm_openai_example.research.arguments import DeepResearchArguments

from ..fakes.postgresql import PostgreSQL

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/runbook.md"
REPORTS = ((5_000, 10), (20_000, 40), (100_000, 100))  # characters, sources
RUNS = 20
PIECE = 50  # characters of a streamed piece: the relay stores what has come within 0.15 s
_BLOCK = re.compile(r"(?<=<!-- room -->\n).*?(?=<!-- /room -->)", re.DOTALL)


@cache
def sentences() -> list[str]:
    prose = " ".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    return [one for one in re.split(r"(?<=[.:;])\s+", prose) if 40 < len(one) < 400]


def outcome(characters: int, sources: int, drawn: random.Random) -> Outcome:
    """Return the outcome of a run whose response looks like a provider's: searches, a report, and its citations."""
    known, report = sentences(), ""
    while len(report) < characters:
        report += f"{drawn.choice(known)} "
    cited = [
        {"type": "url_citation", "url": f"https://example.org/{drawn.getrandbits(64):x}", "title": drawn.choice(known),
         "start_index": 10 * n, "end_index": 10 * n + 8}
        for n in range(sources)
    ]  # fmt: skip
    content = {"type": "output_text", "text": report[:characters], "annotations": cited}
    searches = [
        {"type": "web_search_call", "id": f"ws_{drawn.getrandbits(128):x}", "status": "completed",
         "action": {"type": "search", "query": drawn.choice(known)[:80]}}
        for _ in range(sources)
    ]  # fmt: skip
    message = {"type": "message", "role": "assistant", "status": "completed", "content": [content]}
    body = {
        "id": "resp_1", "object": "response", "model": "gpt-6.1-sol", "status": "completed",
        "output": [*searches, message], "usage": {"input_tokens": 90_000, "output_tokens": 9_000},
    }  # fmt: skip
    ended = outcome_of(read_response(body), body, {}, longest=2_000_000)
    assert ended is not None
    assert ended.state == "completed"
    return ended


async def fill(ledger: Ledger, characters: int, sources: int, *, stream: bool, first: int) -> None:
    """Take `RUNS` runs through the ledger; `first` numbers the first of them."""
    drawn = random.Random(f"{characters} {stream} {first}")
    question = {"research_question": " ".join(drawn.choices(sentences(), k=3)), "background": not stream}
    arguments = DeepResearchArguments.model_validate(question | {"stream": stream})
    payer = Payer(("team-a",), "someone@example.org", "session-1")
    keys = [f"{characters} {stream} {n}" for n in range(first, first + RUNS)]
    accepted = await asyncio.gather(*(ledger.accept(NewInvocation.of(arguments, key, payer)) for key in keys))
    await ledger.claim(RUNS, blocks=False)

    async def follow(id: str) -> None:
        await ledger.commit_intent(id)
        await ledger.submitted(id, f"resp_{drawn.getrandbits(2000):x}")
        ended = outcome(characters, sources, drawn)
        text = ended.output_text or ""
        rows = [
            {"invocation_id": id, "seq": n, "start": start, "text": text[start : start + PIECE]}
            for n, start in enumerate(range(0, len(text), PIECE), 1)
        ]
        if stream:  # in one statement: a relay's many small ones leave the same rows
            await ledger.database.run(lambda connection: connection.execute(insert(pieces), rows))
        await ledger.settle(id, ended)

    for record in accepted:
        await follow(record.id)


def used(connection: Connection) -> int:
    """Return the bytes that the ledger takes, without space that the next run can use."""
    if connection.dialect.name == "postgresql":
        tables = "relay_invocations", "relay_pieces"
        return sum(connection.scalar(text(f"SELECT pg_total_relation_size('{one}')")) or 0 for one in tables)
    pages, free, size = (
        connection.scalar(text(f"PRAGMA {name}")) or 0 for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


async def bytes_per_run(url: str) -> list[list[float]]:
    """Return the bytes of a run, in the background and streamed, for each size of a report."""
    database = Database(make_url(url), "room")
    ledger = Ledger(database, "room", lease=600.0, max_queued=RUNS)
    await ledger.open()
    await ledger.heartbeat()
    found = []
    try:
        for characters, sources in REPORTS:
            row = []
            for stream in (False, True):
                await fill(ledger, characters, sources, stream=stream, first=0)  # fills the pages that exist
                before = await database.run(used)
                await fill(ledger, characters, sources, stream=stream, first=RUNS)
                row.append((await database.run(used) - before) / RUNS)
            found.append(row)
    finally:
        await database.close()
    return found


def measure() -> str:
    """Return the table."""
    with tempfile.TemporaryDirectory(prefix="relay-room-") as folder:
        sqlite = asyncio.run(bytes_per_run(f"sqlite+aiosqlite:///{folder}/ledger.sqlite3"))
    with tempfile.TemporaryDirectory(prefix="relay-room-postgresql-") as directory:
        server = PostgreSQL(Path(directory))
        try:
            postgresql = asyncio.run(bytes_per_run(server.new_database()))
        finally:
            server.stop()
    lines = ["| report | SQLite | streamed | PostgreSQL | streamed |", "|---|---|---|---|---|"]
    for (characters, sources), one, other in zip(REPORTS, sqlite, postgresql, strict=True):
        sizes = " | ".join(f"{size / 1000:,.0f} KB" for size in (*one, *other))
        lines.append(f"| {characters:,} characters, {sources} sources | {sizes} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{DOCUMENT.name}")
    arguments = parser.parse_args()
    table = measure()
    print(table)
    if arguments.write:
        DOCUMENT.write_text(_BLOCK.sub(lambda _: f"{table}\n", DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
