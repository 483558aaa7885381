"""Importing what carries out a command line, and the SDK with it, for one short-lived process.

The import creates some hundred thousand objects that stay, and the garbage collector would walk all of them again
and again meanwhile. A library must not touch its host's collector; a command may touch its own: `cli.main` turns it
off in its first line, and here it is turned on again, with what there is by then out of its sight.
"""

from __future__ import annotations

import gc

from .options import Options


def execute(options: Options, prompt: str, started: float) -> int:
    """Carry out a valid command line; the exit code.

    Args:
        started: when the command began, on the monotonic clock.
    """
    if options.at_journal:
        from .listing import run as show

        return show(options)
    from ..late_types import late_types

    try:
        with late_types():  # all imports that `--help` does without are made here
            from .ending import carry_out

            if options.at_relay:
                from .research import run
            else:
                from .ask import run
    finally:
        gc.freeze()
        gc.enable()
    return carry_out(run, options, prompt, started)
