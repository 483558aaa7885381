"""Importing the SDK for one short-lived command.

The import creates some hundred thousand objects that stay, and the garbage collector would walk all of them again
and again meanwhile. A library must not touch its host's collector; a command may touch its own.
"""

from __future__ import annotations

import gc
from types import ModuleType

from .late_types import late_types


def import_client() -> ModuleType:
    """The module `client`, and with it the SDK, its objects out of the collector's sight."""
    gc.disable()
    try:
        with late_types():
            from . import client
    finally:
        gc.freeze()
        gc.enable()
    return client
