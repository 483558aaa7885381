"""The discount window of background work: a lower price for an answer that may take hours.

OpenAI sells it as `background_options.completion_window` of a response with `background: true`, standard processing
and no stream (the docstring of `BackgroundOptions` in the SDK). Such a response may stay queued for most of its window.
LiteLLM drops the field; the SDK adapter carries it past (`DROPPED` in `sdk.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, Literal

from .json_object import JsonObject

Window = Literal["2h", "8h"]
WINDOWS: Final[tuple[Window, ...]] = ("2h", "8h")

# LiteLLM computes a cost from its price table, which has no such prices.
FULL_PRICE: Final = "LiteLLM's price, without the window's discount"

USUAL_PAUSE, LONGEST_PAUSE = 60.0, 300.0  # seconds between two polls of work that may take hours

_FIELD, _NAME = "background_options", "completion_window"
_HOUR = 3600.0
_EARLY, _LATE = 4.0, 0.2  # pause as a share of the age of the work, in its first minute and after five


def window_seconds(window: Window | None) -> float:
    """Return the length of a window in seconds; 0 without one."""
    return int(window[:-1]) * _HOUR if window else 0.0


def time_limit(window: Window) -> float:
    """Return the seconds after which work in a window is given up: the window, and an hour to submit it."""
    return window_seconds(window) + _HOUR


def as_window(value: object) -> Window | None:
    """Return a window that another program wrote; None if it is not one."""
    return next((window for window in WINDOWS if value == window), None)


def window_of(fields: Mapping[str, object]) -> Window | None:
    """Return the window that the fields of a create call ask for; None without one.

    The `extra_body` among them takes precedence, as LiteLLM merges it over the others.
    """
    inner = fields.get("extra_body")
    options = inner[_FIELD] if isinstance(inner, Mapping) and _FIELD in inner else fields.get(_FIELD)
    return as_window(options.get(_NAME)) if isinstance(options, Mapping) else None


def with_window(fields: Mapping[str, object], window: Window) -> JsonObject:
    """Return the fields of a create call with a window in place of any other. Further background options stay."""
    inner, options = fields.get("extra_body"), fields.get(_FIELD)
    made: JsonObject = dict(fields)
    if isinstance(inner, Mapping) and _FIELD in inner:
        options = inner[_FIELD]
        made["extra_body"] = {name: value for name, value in inner.items() if name != _FIELD}
    return {**made, _FIELD: {**(options if isinstance(options, Mapping) else {}), _NAME: window}}


def poll_pause(age: float, first: float, usual: float = USUAL_PAUSE, longest: float = LONGEST_PAUSE) -> float:
    """Return the seconds until the next poll of work in a window: once a minute, from its 25th minute on once in five.

    The first polls are early, because work that fails does so at once.

    Args:
        age: of the work, in seconds.
        first, usual, longest: the pauses at the beginning, after the first minute and at the end, in seconds.
    """
    return min(max(first, min(age * _EARLY, usual), age * _LATE), longest)


def may_take_until(until: float | None, before: str = ", ") -> str:
    """Return the words for the end of a window in local time, such as ", may take until 06:40".

    Args:
        until: the end in seconds since 1970; None without a window.
        before: begins the words. They are empty without a window, and once it is over.
    """
    if until is None or until <= time.time():
        return ""
    return f"{before}may take until {time.strftime('%H:%M', time.localtime(until))}"
