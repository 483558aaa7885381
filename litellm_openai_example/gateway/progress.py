"""One line at the terminal for what takes its time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

PREFIX = "[gateway] "


@contextmanager
def progress(text: str, tell: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """Say what is waited for; on a terminal, in one line that goes away at the end.

    Args:
        text: what is going on.
        tell: told the text once where stderr is no terminal.

    Yields:
        what to tell the seconds that have passed.
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
