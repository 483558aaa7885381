"""One line on stderr while something takes its time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import click

PREFIX = "[gateway] "
_LATE = 2  # times the announced duration


def tell(text: str) -> None:
    """Print a line on stderr."""
    click.echo(f"{PREFIX}{text}", err=True)


class Show(Protocol):
    """Updates the line."""

    def __call__(self, seconds: int, fetched: int = 0) -> None: ...


@contextmanager
def progress(text: str, tell: Callable[[str], None], expected: int = 0) -> Iterator[Show]:
    """Show what the program waits for; on a terminal as a line that counts seconds and disappears at the end.

    Args:
        text: the work in progress.
        tell: called if stderr is not a terminal: once with the text, and once more if the work takes twice as long as
            announced.
        expected: the usual duration in seconds, which is announced; 0 if it is unknown.

    Yields:
        A function to call with the seconds that have passed and the megabytes that were fetched.
    """
    announced = f"{text} (about {expected} s)" if expected else text
    terminal = sys.stderr is not None and sys.stderr.isatty()
    said_late = False

    def show(seconds: int, fetched: int = 0) -> None:
        nonlocal said_late
        late = expected > 0 and seconds >= _LATE * expected
        if terminal:
            # Without the announcement: a line that wraps could not be erased.
            line = f"{text}: {seconds} s, longer than usual" if late else f"{announced}: {seconds} s"
            line += f", {fetched} MB fetched" if fetched else ""
            click.echo(f"\r\x1b[K{PREFIX}{line}", nl=False, err=True)
        elif late and not said_late:
            said_late = True
            tell(f"still {text}: {seconds} s, longer than usual")

    if not terminal:
        tell(announced)
        yield show
        return
    show(0)
    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)
