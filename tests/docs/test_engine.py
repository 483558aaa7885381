"""docs/engine.md names tests that exist."""

from __future__ import annotations

import ast
import re

import pytest

from ..tools.docs.blocks import ROOT

_NAMED = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)+)`", (ROOT / "docs/engine.md").read_text())


def test_each_guarantee_names_a_test() -> None:
    assert len(_NAMED) == 7


@pytest.mark.parametrize(("path", "names"), _NAMED)
def test_a_named_test_exists(path: str, names: str) -> None:
    scope: ast.AST = ast.parse((ROOT / path).read_text())
    for name in names.removeprefix("::").split("::"):
        known = {
            one.name: one for one in ast.iter_child_nodes(scope) if isinstance(one, ast.ClassDef | ast.FunctionDef)
        }
        assert name in known, f"{path} has no {names}"
        scope = known[name]
