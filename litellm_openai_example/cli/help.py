"""The options under headings in `--help`. Each option names its group where `main` defines it."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

ASKING, RESEARCH, MANY = "Asking", "Research", "Many questions"
FOLLOWING, OUTPUT, GATEWAY = "Following up", "Output", "Gateway"
OTHER = "Other"  # of an option that names no group
_ORDER = (ASKING, RESEARCH, MANY, FOLLOWING, OUTPUT, GATEWAY, OTHER)


class Option(click.Option):
    """An option with a place in the help.

    Args:
        group: the heading that it stands under.
        in_line: a line of a --questions file may set it, too.
    """

    def __init__(self, *args: Any, group: str = OTHER, in_line: bool = False, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.group = group
        self.in_line = in_line


option = partial(click.option, cls=Option)


class Command(click.Command):
    """A command whose help lists the options by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group that has options."""
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in _ORDER}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups[getattr(parameter, "group", OTHER)].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
