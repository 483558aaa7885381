"""The fields of a request reach the SDK as arguments or in its extra_body."""

from __future__ import annotations

from typing import Any

import pytest

from litellm_openai_example.calls.requests import create_with


def take(*, model: str, tools: Any = None, instructions: str = "", extra_body: Any = None, timeout: float = 1) -> Any:
    """Stand in for a create method of the SDK."""
    return model, tools, instructions, extra_body, timeout


@pytest.mark.parametrize(
    ("request_", "given"),
    [
        ({"model": "m"}, ("m", None, "", None, 1)),
        ({"model": "m", "tools": [1], "timeout": 2}, ("m", [1], "", None, 2)),
        # The SDK must not match a text against every type of its field, unless the method requires it.
        ({"model": "m", "instructions": "i"}, ("m", None, "", {"instructions": "i"}, 1)),
        ({"model": "m", "instructions": None}, ("m", None, None, None, 1)),
        ({"model": "m", "of_tomorrow": [1]}, ("m", None, "", {"of_tomorrow": [1]}, 1)),
        (
            {"model": "m", "instructions": "i", "extra_body": {"instructions": "j", "mine": 1}},
            ("m", None, "", {"instructions": "j", "mine": 1}, 1),
        ),
    ],
)
def test_arguments_and_extra_body(request_: dict[str, Any], given: Any) -> None:
    before = dict(request_)
    assert create_with(take, request_) == given
    assert request_ == before
