"""The progress of --questions: a bar on a terminal, otherwise a line every ten seconds, and a summary at the end."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from ..json_object import JsonObject
from .output import notice, progress_line, stderr_is_terminal
from .rows import COMPLETED, UNKNOWN

_LINE_SECONDS = 10.0
_NAMED = 100  # ids in the summary
_BAR = 10  # characters of the bar


class Tally:
    """The count of questions by their status, and what they have cost.

    Attributes:
        total: the number of questions.
        counts: by status, those of earlier commands included.
        unknown: ids of questions that may have been executed, the first ones.
        going_on: ids of questions whose work goes on without this command.
        usage: the tokens of the rows of this command by their name in `Usage`.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.counts: Counter[str] = Counter()
        self.unknown: list[str] = []
        self.going_on: list[str] = []
        self.usage: Counter[str] = Counter()
        self._cost, self._priced = 0.0, False
        self._started = time.monotonic()
        self._earlier = 0

    def add_earlier(self, question_id: object, status: str, cost: float | None) -> None:
        """Count a row of an earlier command."""
        self._count(question_id, status, cost)
        self._earlier += 1

    def add(self, row: JsonObject) -> None:
        """Count a new row."""
        self._count(row["id"], row["status"], row["cost"])
        self.usage.update({name: count for name, count in row["usage"].items() if name != "cost" and count})

    @property
    def done(self) -> int:
        """The number of rows."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """The number of rows without a whole answer."""
        return self.done - self.counts[COMPLETED]

    @property
    def cost(self) -> str:
        """The cost of all rows as far as the gateway reports it."""
        return f"{self._cost:.4f} USD" if self._priced else "cost unknown"

    @property
    def short_cost(self) -> str:
        """The cost for a narrow terminal; empty if it is not known."""
        return f"${self._cost:.2f}" if self._priced else ""

    @property
    def seconds(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self._started

    def time_left(self) -> str:
        """Return the time until all are done at the speed of this command; "" before its first row."""
        mine = self.done - self._earlier
        return _duration(self.seconds / mine * (self.total - self.done)) if mine else ""

    def summary(self) -> str:
        """Return the line at the end."""
        names = {"completed": "answered", "incomplete": "incomplete", "not_executed": "not executed"}
        parts = [f"{count} {names.get(status, status)}" for status, count in sorted(self.counts.items())]
        left = self.total - self.done - len(self.going_on)
        parts += [f"{len(self.going_on)} still running"] if self.going_on else []
        parts += [f"{left} left"] if left else []
        return f"{self.total} questions: {', '.join(parts)}; {self.cost}; {self.seconds:.1f} s"

    def _count(self, question_id: object, status: str, cost: float | None) -> None:
        self.counts[status] += 1
        if cost is not None:
            self._cost, self._priced = self._cost + cost, True
        if status == UNKNOWN:
            self.unknown.append(str(question_id))


def named(ids: list[str]) -> str:
    """Return the first of some ids for a message."""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


class Shown:
    """The display of a tally, redrawn by a thread.

    Args:
        tally: the counts.
        facts: returns the number of questions under way, and the seconds until a rate limit ends.
    """

    def __init__(self, tally: Tally, facts: Any) -> None:
        self._tally, self._facts = tally, facts
        self._done = threading.Event()
        self._terminal = stderr_is_terminal()

    def run(self) -> None:
        """Draw until `stop`."""
        if not self._terminal:
            while not self._done.wait(_LINE_SECONDS):
                left = self._tally.time_left()
                notice(f"[{self._state()}{f', about {left} left' if left else ''}]")
            return
        earlier = self._tally.done
        # Click formats the bar. It would draw it without the cursor, and pad it to its longest state so far, which a
        # terminal that has become narrower wraps.
        bar: Any = click.progressbar(
            length=max(1, self._tally.total - earlier),
            file=sys.stderr,
            width=_BAR,
            bar_template="%(bar)s  %(info)s",
            empty_char="-",
            show_percent=False,
            item_show_func=lambda _: self._state(),
        )
        with suppress(OSError, ValueError):
            while not self._done.wait(1.0):
                bar.make_step(self._tally.done - earlier - bar.pos)
                bar.show_eta = bar.pos > 0  # nothing is known about the speed before
                self._draw(bar.format_progress_line())

    def stop(self) -> None:
        """End the display, and clear the bar."""
        self._done.set()
        if self._terminal:
            with suppress(OSError, ValueError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
        progress_line.clear()

    def _draw(self, line: str) -> None:
        most = _columns() - 1  # a cursor behind the last column would be on the next line
        sys.stderr.write(f"\r\x1b[K{line if len(line) <= most else self._short(most)}")
        sys.stderr.flush()
        progress_line.set()

    def _state(self) -> str:
        tally = self._tally
        return f"{tally.done}/{tally.total} done, {tally.failed} failed, {self._waits()}, {tally.cost}"

    def _waits(self) -> str:
        running, paused = self._facts()
        return f"rate limit {paused:.0f} s" if paused > 0.5 else f"{running} running"

    def _short(self, most: int) -> str:
        """Return the state in `most` characters; what does not fit is left out as a whole."""
        tally = self._tally
        parts = [f"{tally.done}/{tally.total}", f"{tally.failed} failed", self._waits()]
        parts += [tally.short_cost, tally.time_left()]
        line = ""
        for part in filter(None, parts):
            longer = f"{line}, {part}" if line else part
            line = longer if len(longer) <= most else line
        return line


@contextmanager
def shown(tally: Tally, facts: Any) -> Iterator[None]:
    """Show the progress of a tally while the block runs."""
    display = Shown(tally, facts)
    thread = threading.Thread(target=display.run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        display.stop()
        thread.join()
        display.stop()  # the thread may have drawn once more


def _columns() -> int:
    """Return the width of the terminal on stderr, also if stdout is a file."""
    with suppress(OSError, ValueError):
        if columns := os.get_terminal_size(sys.stderr.fileno()).columns:
            return columns
    return shutil.get_terminal_size().columns


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 60 else f"{whole} s"
