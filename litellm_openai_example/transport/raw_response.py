"""What the SDK's raw response (`with_raw_response`) has, as far as it is used here; its own types differ by call."""

from __future__ import annotations

from typing import Protocol

from ..http_library import httpx


class RawResponse(Protocol):
    """An answer as it came over HTTP; the SDK's `LegacyAPIResponse` and `APIResponse` fit."""

    @property
    def headers(self) -> httpx.Headers:
        """Of the answer; names in any case."""

    @property
    def http_response(self) -> httpx.Response:
        """The answer itself, whose body may not be read yet."""

    @property
    def retries_taken(self) -> int:
        """How many times the SDK sent the request again."""
