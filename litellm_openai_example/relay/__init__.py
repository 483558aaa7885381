"""The relay server."""
