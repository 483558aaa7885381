"""HTTP servers of the tests stand among the fakes."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent
OTHERS = {
    "fakes/gateway.py",  # the relay's upstream: hundreds of responses at once, of which many hang for the whole test
    "tools/bench/stub.py",  # an upstream for measuring, which must cost less than what is measured
    "fakes/balancer.py",  # passes connections on, as a load balancer for TCP does
    "relay/proxied.py",  # passes PostgreSQL's bytes on, not HTTP
    "gateway/conftest.py",  # its text is a process that stands in for the LiteLLM proxy
}


def _names(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    called = {node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    return imported | called


def test_http_servers_are_defined_in_fakes_only() -> None:
    homes = {path.relative_to(TESTS).as_posix(): _names(path) for path in TESTS.rglob("*.py")}

    assert "pytest_httpserver" in homes["fakes/served.py"]
    http = {home for home, names in homes.items() if {"start_server", "http.server"} & names}
    assert http - OTHERS == set()
