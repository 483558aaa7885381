"""The relay's HTTP API."""
