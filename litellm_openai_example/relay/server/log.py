"""The relay's log: own words only. What a gateway, a database or a client said may hold keys, hosts and prompts."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

log = logging.getLogger("litellm_relay")


def kind_and_place(error: BaseException) -> str:
    """The type of an error and where it was raised, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place
