"""`make test-upgrade BEFORE=REVISION`: a real relay of an older revision on a ledger, and this one beside or after it.

The old relay has runs in every state when this one starts, and is ended by SIGTERM or by SIGKILL. Every run has to end
as it should, and the provider may have seen one POST of each. Then a backup that was taken while the old relay ran is
restored and opened by this one. Ends with 1 if a run was lost, paid twice, stuck or answered wrongly.
"""

from __future__ import annotations

import argparse
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from sqlalchemy import create_engine, text

from litellm_openai_example.json_object import JsonObject

from ..fakes.gateway import Gateway, message
from ..fakes.postgresql import PostgreSQL
from ..relay.running import Api, RelayProcess, body, environment
from .docs.blocks import pages
from .revision import checkout

CHECKOUTS = Path("bench-results")
RUNNING = 5  # at once in one process, so that further runs stay queued
SLOW = 12.0  # seconds until a slow submission is answered: this relay is up long before
STATES = {"queued", "submitting", "awaiting", "running", "completed", "incomplete", "failed", "cancelled"}
_NAME = re.compile(r"upgrade question ([a-z]+)-\d+")
_AFTER_RESTORE = re.compile(r'"\s*(UPDATE relay_invocations [^"]*)"')
# Messages of both releases about runs that must fail, and about a model that the provider does not list.
_EXPECTED = re.compile(r"upstream_failed|submission_indeterminate|does not list")


@dataclass
class Run:
    """An accepted run, and the terminal statuses that it may have."""

    name: str
    started: JsonObject
    ends_as: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"key-{self.name}"


class Provider(Gateway):
    """Treats a run as the first word of its name says, and counts the POSTs of each."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.on_post = self._on_post
        self.final = self._final

    def finish(self) -> None:
        """Complete all runs."""
        for work in list(self.works.values()):
            work.seconds = 0.0

    def _on_post(self, request: JsonObject, _: int) -> None:
        found = _NAME.search(str(request["input"]))
        assert found is not None
        self.count[found[0].removeprefix("upgrade question ")] += 1
        self.accept = SLOW if found[1] == "slow" else 0.0
        self.seconds = 3600.0 if found[1] in ("long", "stream", "stopped") else 0.2
        self.pieces = ["The answer"] * 100 if found[1] == "stream" else ["The answer."]

    def _final(self, request: JsonObject) -> JsonObject:
        kind = _NAME.search(str(request["input"]))[1]  # type: ignore[index]
        if kind == "part":
            return message("A part.") | {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        if kind == "broken":
            return {"status": "failed", "output": [], "error": {"code": "server_error", "message": "x"}}
        return message("The answer.")


class Upgrade:
    """One upgrade.

    Args:
        program: the older revision's command.
        url: URL of an empty database.
        beside: True if the old relay keeps running while this one starts.
        end: the signal that ends the old one.
    """

    def __init__(self, program: Path, url: str, copy: Copy, *, beside: bool, end: signal.Signals) -> None:
        self.program, self.url, self.copy, self.beside, self.end = program, url, copy, beside, end
        self.provider = Provider()
        self.runs: list[Run] = []
        self.wrong: list[str] = []
        self.logs: list[tuple[str, RelayProcess]] = []

    def run(self) -> list[str]:
        """Return the problems found."""
        self.provider.start()
        try:
            old = self._start("old", self.url, [str(self.program)])
            self._fill(old.api)
            restored = self.copy(self.url)
            if not self.beside:
                self._end(old)
            new = self._start("new", self.url)
            if self.beside:
                self._both_serve(old.api, new.api)
                self._end(old)
            self.provider.finish()
            self._account(new.api, self.runs)
            self._old_is_refused()
            self._check(new.terminate() == 0, "the new relay did not end well")
            self._restore(restored)
        finally:
            for _, process in self.logs:
                process.ensure_ended()
            self.provider.stop()
        for name, process in self.logs:
            loud = [line for line in process.lines if re.search("WARNING|ERROR|Traceback", line)]
            for line in loud:
                self._check(bool(_EXPECTED.search(line)), f"the {name} relay says {line}")
        return self.wrong

    def _start(self, name: str, url: str, program: Sequence[str] = ()) -> RelayProcess:
        env = environment(url, self.provider, RELAY_MAX_RUNNING=str(RUNNING))
        process = RelayProcess(env, **{"program": program} if program else {})
        self.logs.append((name, process))
        return process.ready()

    def _end(self, old: RelayProcess) -> None:
        old.process.send_signal(self.end)
        code = old.end()
        self._check(code == (0 if self.end is signal.SIGTERM else -signal.SIGKILL), f"the old relay ended with {code}")

    def _fill(self, api: Api) -> None:
        """Start a run in every state at the old relay."""
        for name, ends_as in (("done", "completed"), ("part", "incomplete"), ("broken", "failed")):
            api.wait(self._ask(api, f"{name}-1", ends_as).started)
        stopped = self._ask(api, "stopped-1", "cancelled").started
        api.submitted(stopped)
        api.cancel(stopped)
        for name in ("long-1", "long-2", "stream-1"):
            run = self._ask(api, name, "completed", stream=name.startswith("stream"))
            until = time.monotonic() + 10
            while not api.view(run.started)["upstream_response_id"]:
                assert time.monotonic() < until
        # The old relay ends in the middle of this submission, 3.5 s after SIGTERM: its outcome is unknown. Beside the
        # new relay the old one gets SIGTERM only once all are answered, see `_both_serve`.
        lost = () if self.beside and self.end is signal.SIGTERM else ("failed",)
        self._ask(api, "slow-1", "completed", *lost)
        time.sleep(2.5)  # longer than a submission stays in the gate
        self._ask(api, "slow-2", "completed", *lost)
        for name in ("queued-1", "queued-2", "queued-3"):
            self._ask(api, name, "completed")
        until = time.monotonic() + 5
        while (missing := STATES - set(states(self.url).values())) and time.monotonic() < until:
            time.sleep(0.02)
        self._check(not missing, f"no run is {missing}")

    def _ask(self, api: Api, name: str, *ends_as: str, stream: bool = False) -> Run:
        asked = body(f"upgrade question {name}", **{"stream" if stream else "background": True})
        answer = api.post(asked, Idempotency_Key=f"key-{name}")
        assert answer.status_code in (200, 202), answer.text
        run = Run(name, answer.json(), ends_as)
        self.runs.append(run)
        return run

    def _both_serve(self, old: Api, new: Api) -> None:
        """Check that each relay shows and runs the other's runs, and finds them by key."""
        for run in list(self.runs):
            seen = [api.view(run.started)["status"] for api in (old, new)]
            self._check(len(set(seen)) == 1 or "queued" in seen or "running" in seen, f"{run.name} is {seen}")
            for api in (old, new):
                asked = body(
                    f"upgrade question {run.name}", **{"stream" if "stream" in run.name else "background": True}
                )
                again = api.post(asked, Idempotency_Key=run.key).json()
                same = again.get("invocation_id") == run.started["invocation_id"]
                self._check(same, f"{run.name} was started anew by its own key: {again}")
        for number, (one, other) in enumerate(((old, new), (new, old), (old, new), (new, old)), 1):
            self._check(
                other.wait(self._ask(one, f"beside-{number}", "completed").started)["status"] == "completed",
                f"beside-{number} was not seen to end by the other relay",
            )
        cancelled = self._ask(old, "stopped-2", "cancelled").started
        new.until(cancelled, "running")
        new.cancel(cancelled)
        until = time.monotonic() + 2 * SLOW
        slow = [run.started for run in self.runs if run.name.startswith("slow")]
        while self.end is signal.SIGTERM and not all(new.view(run)["upstream_response_id"] for run in slow):
            assert time.monotonic() < until
            time.sleep(0.1)

    def _account(self, api: Api, runs: Sequence[Run]) -> None:
        for run in runs:
            answer = api.call(
                "GET",
                f"/api/v1/tool-invocations/{run.started['invocation_id']}/wait?timeout=40",
                headers={"X-Invocation-Token": run.started["invocation_token"]},
            )
            view = answer.json()
            self._check(view.get("status") in run.ends_as, f"{run.name} should be {run.ends_as}: {view}")
            if view.get("status") == "completed":
                self._check("The answer" in (view["output_text"] or ""), f"{run.name} says {view['output_text']!r}")
            elif view.get("status") == "failed" and not run.name.startswith("broken"):
                self._check(view["error_code"] == "submission_indeterminate", f"{run.name}: {view['error_code']}")
            asked = self.provider.count[run.name]
            self._check(asked == 1, f"{run.name} was asked for {asked} times")

    def _old_is_refused(self) -> None:
        process = RelayProcess(environment(self.url, self.provider), program=[str(self.program)])
        self._check(process.end() == 2 and len(process.lines) <= 3, f"an old relay started late says {process.lines}")

    def _restore(self, url: str) -> None:
        """Restore a backup as the runbook describes."""
        before = states(url)
        # The same statement for both databases.
        (fail_queued,) = {" ".join(found.split()) for found in _AFTER_RESTORE.findall(pages("docs/runbook.md"))}
        engine = create_engine(url.replace("+aiosqlite", ""))
        with engine.begin() as connection:
            connection.execute(text(fail_queued))
        engine.dispose()
        new = self._start("restored", url)
        ends = {"running": "completed", "queued": "failed", "submitting": "failed", "awaiting": "failed"}
        runs = [run for run in self.runs if run.started["invocation_id"] in before]
        for run in runs:
            state = before[run.started["invocation_id"]]
            run.ends_as = (ends.get(state, state),)
        self._account(new.api, runs)
        new.terminate()

    def _check(self, right: bool, what: str) -> None:
        if not right:
            self.wrong.append(what)


class Copy:
    """Backups by the database's own means."""

    def __init__(self, folder: Path, server: PostgreSQL) -> None:
        self.folder, self.server = folder, server

    def __call__(self, url: str) -> str:
        """Back up a ledger, restore it elsewhere, and return the URL of the copy."""
        if not url.startswith("sqlite"):
            return self.server.copy(url)
        source = Path(url.partition("///")[2])
        target = source.with_suffix(".restored")
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as copy:
            old.backup(copy)
        return f"sqlite+aiosqlite:///{target}"


def states(url: str) -> dict[str, str]:
    """Return the state of every run in the ledger."""
    engine = create_engine(url.replace("+aiosqlite", ""))
    try:
        with engine.connect() as connection:
            return {row.id: row.state for row in connection.execute(text("SELECT id, state FROM relay_invocations"))}
    finally:
        engine.dispose()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.upgrade", description=__doc__)
    parser.add_argument("before", metavar="REVISION", help="of the old relay; anything that git knows")
    program = checkout(parser.parse_args().before, CHECKOUTS) / "litellm-relay"
    with tempfile.TemporaryDirectory(prefix="relay-upgrade-") as directory:
        server = PostgreSQL(Path(directory))
        copy = Copy(Path(directory), server)

        def upgrade_all(database: str) -> bool:
            clean = True
            for number, (beside, end) in enumerate(product((True, False), (signal.SIGTERM, signal.SIGKILL))):
                sqlite = database == "SQLite"
                url = f"sqlite+aiosqlite:///{directory}/{number}.sqlite3" if sqlite else server.new_database()
                upgrade = Upgrade(program, url, copy, beside=beside, end=end)
                wrong = upgrade.run()
                how = f"{'beside' if beside else 'after'} the old one, which got {end.name}"
                lines = [f"{database}, {how}: {len(upgrade.runs)} runs, {len(wrong)} wrong", *wrong]
                print("\n  ".join(lines), flush=True)
                clean = clean and not wrong
            return clean

        try:
            with ThreadPoolExecutor(2) as both:
                clean = all([*both.map(upgrade_all, ("SQLite", "PostgreSQL"))])
        finally:
            server.stop()
    print("nothing lost, nothing doubled, nothing stuck" if clean else "FAILED")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
