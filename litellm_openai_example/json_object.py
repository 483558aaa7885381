"""The one name of what every room passes on: an object of JSON."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]
"""An object of JSON: what a request says, and what an answer, an event or a file of ours says.

Where it came from outside, nothing about its values is known: any field can be missing, null or of another type,
whatever the API's reference promises. Code that reads one checks each value before use: see `calls/lenient.py`.
"""
