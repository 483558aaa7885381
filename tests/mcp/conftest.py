"""The tools for agents are tested against a relay: its fixtures."""

from ..relay.conftest import sqlite_url, start_relay, upstream

__all__ = ["sqlite_url", "start_relay", "upstream"]
