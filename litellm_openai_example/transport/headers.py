"""Facts that an answer tells beside its body: its cost, when to retry or poll. Any header may hold anything."""

from __future__ import annotations

import codecs
import email.utils
import math
import time
from collections.abc import Mapping

COST_HEADER = "x-litellm-response-cost"
POLL_AFTER_HEADER = "openai-poll-after-ms"
# LiteLLM hands a provider's wish on under a name of its own.
_RETRY_AFTER = (("retry-after-ms", 0.001), ("retry-after", 1.0), ("llm_provider-retry-after", 1.0))
_RICHES = 1e12  # US dollars that no call costs


def is_web_page(headers: Mapping[str, str], content: bytes) -> bool:
    """Return True if a body that is not JSON is a web page, such as a proxy's sign-in page.

    Neither LiteLLM nor a relay answers with one, so none has seen the request. Any other body that cannot be read may
    be a provider's that LiteLLM passed on.
    """
    start = content[:64].removeprefix(codecs.BOM_UTF8).lstrip()
    return start.startswith(b"<") or ("html" in headers.get("content-type", "").lower() and bool(start))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait before the call is sent again; None if it does not say."""
    for name, unit in _RETRY_AFTER:
        value = headers.get(name)
        seconds = _number(value, unit) if value else None
        if value and seconds is None:
            seconds = _from_now(value)
        if seconds is not None and seconds >= 0:
            return seconds
    return None


def poll_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a gateway wishes until the next look at a background response; None if it does not say."""
    seconds = _number(headers.get(POLL_AFTER_HEADER), 0.001)
    return seconds if seconds is not None and 0 <= seconds < 3600 else None


def cost(headers: Mapping[str, str]) -> float | None:
    """US dollars, as LiteLLM reckons them; None if it does not say."""
    return read_cost(headers.get(COST_HEADER))


def read_cost(value: object) -> float | None:
    """US dollars, of a header or of JSON; None where it is no number that can be a cost."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        dollars = float(value)
    except (ValueError, OverflowError):
        return None
    return dollars if 0 <= dollars < _RICHES else None


def key_budget(headers: Mapping[str, str]) -> tuple[float | None, float | None]:
    """US dollars that were spent with the key, and that may be; None for what LiteLLM does not say."""
    return _number(headers.get("x-litellm-key-spend")), _number(headers.get("x-litellm-key-max-budget"))


def _number(value: str | None, unit: float = 1.0) -> float | None:
    try:
        number = float(value or "") * unit
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _from_now(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
