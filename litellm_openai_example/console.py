"""What the console commands have in common: how each ends, as its exit code and a line on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import click

from .config import ConfigurationError

FAILED, MISUSED, INTERRUPTED, READER_GONE = 1, 2, 130, 141


def run_command(
    command: click.Command,
    tell: Callable[[str], None],
    *,
    name: str | None = None,
    arguments: Sequence[str] | None = None,
    show_usage: bool = True,
) -> int:
    """Run a Click command to its end, and tell why it failed.

    What else it raises is its own to explain: an `OSError` means another thing to each.

    Args:
        command: returns its exit code, or None for 0.
        tell: takes a line for stderr.
        name: what the command is called; None for how it was called.
        arguments: instead of those of this process.
        show_usage: above what is wrong with an option. Without it that is one line like any other.

    Returns:
        The exit code: that of the command, 2 for wrong usage or a wrong setting, 130 when it was interrupted.
    """
    try:
        result = command.main(arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        if show_usage:
            error.show()
        else:
            tell(f"Error: {error.format_message()}")
        return error.exit_code
    except ConfigurationError as error:
        tell(f"Error: {error}")
        return MISUSED
    except (click.Abort, KeyboardInterrupt):
        tell("interrupted")
        return INTERRUPTED


def abandon_stdout() -> None:
    """After stdout took no more: let the interpreter's own flush at exit find nothing to complain about."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
