"""Running a console command: its exit code, and a line on stderr if it fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import click

from .config import ConfigurationError

FAILED, MISUSED, NOT_AS_ASKED, INTERRUPTED, READER_GONE = 1, 2, 3, 130, 141


def run_command(
    command: click.Command,
    tell: Callable[[str], None],
    *,
    name: str | None = None,
    arguments: Sequence[str] | None = None,
    show_usage: bool = True,
) -> int:
    """Run a Click command, report a failure, and return the exit code.

    Other exceptions are left to the caller: an `OSError` means something different in each command.

    Args:
        command: returns its exit code, or None for 0.
        tell: prints a line on stderr.
        name: the program's name in the usage; by default the name that it was called by.
        arguments: of the command; by default those of this process.
        show_usage: print the usage above a usage error; otherwise the error alone, through `tell`.

    Returns:
        The command's exit code, 2 for a usage error or an unusable setting, 130 after an interrupt.
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
    """Redirect a failed stdout to the null device, so that the interpreter's flush at exit does not fail too."""
    # AttributeError: without a descriptor 1 at the start, the interpreter has no stdout.
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
