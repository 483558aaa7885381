"""`make site`: build the site of the documents in docs/site, with warnings as errors.

In its strict mode Zensical fails for a wrong link or reference. A docstring that does not fit its signature is only
logged by mkdocstrings, so warnings in the log are counted here.
"""

from __future__ import annotations

import logging
import runpy
import sys


class Counter(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that prints the records of the log and counts them."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print and count a record."""
        self.count += 1
        super().emit(record)


def main() -> None:
    """Build the site of `docs/zensical.toml` in the current directory. Exit with 1 after any warning."""
    log = Counter()
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    # Without its cache, from which Zensical would take a page together with its warnings.
    sys.argv = ["zensical", "build", "--config-file", "docs/zensical.toml", "--clean", "--strict"]
    try:
        runpy.run_module("zensical", run_name="__main__")
    except RuntimeError as error:
        sys.exit(str(error))
    except SystemExit as ended:
        if not log.count:
            raise
        sys.exit(ended.code or f"{log.count} warnings about docstrings")


if __name__ == "__main__":
    main()
