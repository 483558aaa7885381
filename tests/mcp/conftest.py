"""Fixtures of the relay, against which the tools for agents are tested."""

from ..relay.conftest import sqlite_url, start_relay, upstream

__all__ = ["sqlite_url", "start_relay", "upstream"]
