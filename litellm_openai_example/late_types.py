"""Importing the SDK without most of its types, for our own processes.

Nearly half of the SDK's import time goes into `openai.types`: some 470 modules of pydantic models and typed
dictionaries. A call that reads raw answers uses few of them, so while our command imports the SDK, the `__init__` of
each package there is deferred to its first use. The same loader then runs the same module; proxies and stand-ins are
not involved. If a release moves its types, the finder finds nothing, and the start is merely slower.

A library must not do this to its host: programs that import us as a library get the SDK unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType

_TYPES = "openai.types"


@contextmanager
def late_types() -> Iterator[None]:
    """Defer packages under `openai.types` that are imported inside the block to their first use."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """A finder that gives the packages under `openai.types` a deferring loader, and leaves the rest to Python."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TYPES and not fullname.startswith(_TYPES + "."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None or spec.submodule_search_locations is None:
            return None
        spec.loader = _LateLoader(spec.loader)
        return spec


class _LateLoader(Loader):
    """A loader that runs a package's `__init__` on the first access to a name that the package does not have yet."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        # A lock per package, like the import system's per module, because a package may load others.
        self._lock = RLock()
        self._begun = False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader

        def missing(name: str) -> object:
            # `from . import module` looks in the package first. Running its `__init__` for that would create import
            # cycles that the SDK's own order avoids (openai 2: evals -> responses.tool_param -> responses).
            submodule = f"{module.__name__}.{name}"
            if PathFinder.find_spec(submodule, module.__path__) is not None:
                return import_module(submodule)
            self._run(module)
            try:
                return vars(module)[name]
            except KeyError:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}") from None

        def names() -> list[str]:
            self._run(module)
            return sorted(vars(module))

        vars(module).update(__getattr__=missing, __dir__=names)

    def _run(self, module: ModuleType) -> None:
        with self._lock:
            # By this thread: a circular import sees the names so far.
            if self._begun:
                return
            self._begun = True
            try:
                self._loader.exec_module(module)
            except BaseException:
                self._begun = False
                raise
            for hook in ("__getattr__", "__dir__"):
                vars(module).pop(hook, None)
