"""The page of a research run: its link for a person at a terminal, and --open."""

from __future__ import annotations

import os
import sys

from ..errors import one_line
from ..research.contract import AcceptedInvocation, Invocation, page_url, with_token
from ..research.relay_answers import RelayError
from .output import Output, notice, stderr_is_terminal


def show_page(relay_url: str, accepted: AcceptedInvocation) -> None:
    """Print the link of an accepted run if a person reads stderr: it includes the token, which no log should keep."""
    link = _link(relay_url, accepted, accepted.invocation_token)
    if link is not None and stderr_is_terminal():
        notice(f"[watch it at {link}]")


def open_page(out: Output, relay_url: str, view: Invocation, token: str) -> None:
    """Open the page of a run in a browser, or print its link if there is none.

    Raises:
        RelayError: the relay has no pages.
    """
    link = _link(relay_url, view, token)
    if link is None:
        raise RelayError("the relay has no pages: it is an older release, or another implementation")
    if _browse(link):
        notice(f"[opened the page of {one_line(view.invocation_id)} in a browser]")
    else:
        out.paragraph(link)


def _link(relay_url: str, view: Invocation, token: str) -> str | None:
    """Return the link of a run, at the relay's public address if it has one; None if the relay has no pages."""
    if "url" not in view.model_fields_set:
        return None
    return with_token(view.url or page_url(relay_url, view.invocation_id), token)


def _browse(link: str) -> bool:
    import webbrowser  # here: few command lines need it

    # Without a display, only browsers within the terminal are left, which do not run the page's script.
    graphical = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not graphical and not os.environ.get("BROWSER"):
        return False
    try:
        return webbrowser.open(link)
    except (webbrowser.Error, OSError):
        return False
