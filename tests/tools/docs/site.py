"""`make site`: build the site of the documents in docs/site, with warnings as errors.

In its strict mode Zensical fails for a wrong link to a page, a heading or a name. Two other kinds of mistakes are found
here: a docstring that does not fit its signature, which mkdocstrings only logs, and a link to a file that is missing.
"""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path("docs/site")
# Zensical takes a page from its cache without its warnings, hence --clean.
COMMAND = ["zensical", "build", "--config-file", "docs/zensical.toml", "--clean", "--strict"]


class Log(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that prints the records of the log and counts them."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print and count a record."""
        self.count += 1
        super().emit(record)


class Links(HTMLParser):
    """The addresses that a page links to or shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the addresses of a tag."""
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def broken_links(site: Path) -> Iterator[str]:
    """Yield each link of the site to a file that it does not have."""
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":  # shown at any address, so its links are absolute
            continue
        for link in Links(page.read_text()).found:
            address = urlsplit(link)
            if address.scheme or address.netloc or not address.path:
                continue
            target = (page.parent / unquote(address.path)).resolve()
            file = target / "index.html" if target.is_dir() else target
            if not file.is_relative_to(site.resolve()) or not file.is_file():
                yield f"{page.relative_to(site)}: no file for the link {link}"


def main() -> None:
    """Build the site of `docs/zensical.toml` in the current directory. Exit with 1 after any warning."""
    log = Log()
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING, handlers=[log])
    sys.argv = COMMAND
    try:
        runpy.run_module("zensical", run_name="__main__")
    except RuntimeError as error:
        sys.exit(str(error))
    except SystemExit as ended:
        if ended.code:
            raise
    for problem in broken_links(SITE):
        logging.warning(problem)
    if log.count:
        sys.exit("the site has warnings")


if __name__ == "__main__":
    main()
