"""The HTTP library of the installed SDK: httpx2 under openai 3, httpx under openai 2.

The SDK accepts and returns objects of the library it is built on, so the choice follows the SDK, not the installed
packages. Both libraries have the same API as far as this project uses it; types are checked against httpx2.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from openai import DefaultHttpxClient

if TYPE_CHECKING:
    import httpx2 as httpx
else:
    # The SDK's default client is a subclass of the library's own.
    httpx = sys.modules[DefaultHttpxClient.__base__.__module__.partition(".")[0]]

# In httpx the stream of a response refers back to the response: a cycle, unless the two are parted.
STREAM_HOLDS_RESPONSE = httpx.__name__ == "httpx"

__all__ = ["STREAM_HOLDS_RESPONSE", "httpx"]
