"""One line on stderr while something takes its time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

PREFIX = "[gateway] "


@contextmanager
def progress(text: str, tell: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """Show what the program waits for; on a terminal as a line that counts seconds and disappears at the end.

    Args:
        text: the work in progress.
        tell: called once with the text if stderr is not a terminal.

    Yields:
        A function to call with the seconds that have passed.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        tell(text)
        yield lambda _: None
        return

    def show(seconds: int) -> None:
        click.echo(f"\r\x1b[K{PREFIX}{text}: {seconds} s", nl=False, err=True)

    show(0)
    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)
