"""Replacements of methods that call them, without a cycle for the garbage collector."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `method` and does not keep its object alive.

    The object holds what replaces its method, and is alive whenever that is called. A plain function is returned as it
    is: an earlier replacement.
    """
    if not inspect.ismethod(method):
        return method
    held = weakref.WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> Any:
        found = held()
        assert found is not None
        return found(*args, **kwargs)

    return call
